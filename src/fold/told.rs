//! Values of a row that are older than its last event: which of them an event takes from those before it, and which
//! of them one that came late tells better. Pure.

use super::index::keep;
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

/// A newer row with what a late event told of it.
pub(super) struct Mended {
    image: Vec<u8>,
    told: Vec<u8>,
}

impl Mended {
    /// Of a folded row that left something out; none where the late event does not tell that, or tells it no later.
    pub(super) fn of(folded: &Folded, newer: &FoldedRow, late: Late<'_>) -> Option<Mended> {
        let newer_told = Told::from_bytes(folded.bytes(newer.told?));
        let mut mended = Mended { image: Vec::new(), told: Vec::new() };
        let mut writer = RowWriter::new(&mut mended.image);
        let (mut cells, mut is_any) = (late.image.cells(), false);
        for (at, cell) in folded.row(newer.image?).cells().enumerate() {
            let of_late = late.told.map_or(late.order, |told| told.of(at));
            let of_newer = newer_told.of(at);
            let (value, of) = match cells.next() {
                Some(value) if value != Cell::Unchanged && of_late > of_newer => (value, of_late),
                _ => (cell, of_newer),
            };
            is_any |= of != of_newer;
            writer.push(value);
            Told::write(&mut mended.told, of);
        }
        is_any.then_some(mended)
    }

    /// Puts it in the place of that row.
    pub(super) fn put(self, folded: &mut Folded, at: usize) {
        let unchanged = Row::from_bytes(&self.image).has_unchanged();
        let (image, told) = (keep(folded, &self.image), keep(folded, &self.told));
        if let Some(row) = folded.rows.get_mut(at) {
            row.image = Some(image);
            row.told = Some(told);
            row.unchanged = unchanged;
            row.origin = row.origin.filter(|_| unchanged);
        }
    }
}
