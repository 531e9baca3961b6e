//! Values of a row that are older than its last event: which of them an event takes from those before it, and which
//! of them one that came late tells better. Pure.

use crate::journey::{Folded, FoldedRow, Told};
use crate::position::Order;
use crate::value::{Cell, Row, RowWriter};

/// The event before, as far as it is known: what an event leaves out is as old as it is there.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    told: Option<Told<'a>>,
    order: Order,
}

impl<'a> Before<'a> {
    /// Of a folded row; none of one that is gone.
    pub(super) fn of(folded: &'a Folded, row: &FoldedRow) -> Option<Before<'a>> {
        row.image?;
        let told = row.told.map(|span| Told::from_bytes(folded.bytes(span)));
        Some(Before { told, order: row.order })
    }
}

/// Writes when each cell of `new` was told; whether any of them is older than the event itself, at `order`. What is
/// taken over from another key counts as told by the event that takes it.
pub(super) fn date(
    new: Row<'_>,
    whole: Option<Row<'_>>,
    (before, moved): (Option<Before<'_>>, bool),
    order: Order,
    told: &mut Vec<u8>,
) -> bool {
    told.clear();
    let mut older = false;
    for (at, cell) in new.cells().enumerate() {
        let own = moved
            || cell != Cell::Unchanged
            || whole.is_some_and(|whole| whole.cell(at) != Cell::Unchanged);
        let of = match before {
            _ if own => order,
            Some(Before { told: Some(told), .. }) => told.of(at),
            Some(Before { told: None, order }) => order,
            None => Told::NEVER,
        };
        older |= of != order;
        Told::write(told, of);
    }
    older
}

/// An event as it came.
#[derive(Clone, Copy)]
pub(super) struct Late<'a> {
    pub(super) image: Row<'a>,
    pub(super) told: Option<Told<'a>>,
    pub(super) order: Order,
}

/// Writes the image of a newer row with what a late event tells of it; whether there is anything.
pub(super) fn mend(
    (newer, told_newer): (Row<'_>, Told<'_>),
    late: Late<'_>,
    image: &mut Vec<u8>,
    told: &mut Vec<u8>,
) -> bool {
    image.clear();
    told.clear();
    let mut mended = false;
    let mut writer = RowWriter::new(image);
    let mut cells = late.image.cells();
    for (at, cell) in newer.cells().enumerate() {
        let (of_late, of_newer) =
            (late.told.map_or(late.order, |told| told.of(at)), told_newer.of(at));
        let (value, of) = match cells.next() {
            Some(value) if value != Cell::Unchanged && of_late > of_newer => (value, of_late),
            _ => (cell, of_newer),
        };
        mended |= of != of_newer;
        writer.push(value);
        Told::write(told, of);
    }
    mended
}
