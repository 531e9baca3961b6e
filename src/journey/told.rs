//! When each value of an image was told. An event may leave out what did not change; such a value is as old as the
//! event that told it last, and one that comes late and lies between the two tells what it really was.

use crate::position::Order;

const WIDTH: usize = 16;

/// Of each cell of an image the place of the event that told it, borrowed from the arena that holds it.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a>(&'a [u8]);

impl<'a> Told<'a> {
    /// Of a cell that no event has told yet.
    pub const NEVER: Order = Order { seq: i64::MIN, ord: 0 };

    /// Reads what [`Told::write`] wrote.
    pub fn from_bytes(bytes: &'a [u8]) -> Told<'a> {
        Told(bytes)
    }

    /// Appends the place of the next cell.
    pub fn write(bytes: &mut Vec<u8>, order: Order) {
        bytes.extend_from_slice(&order.seq.to_be_bytes());
        bytes.extend_from_slice(&order.ord.to_be_bytes());
    }

    /// The place of a cell.
    pub fn of(self, cell: usize) -> Order {
        let number = |at: usize| {
            let bytes = self.0.get(at..)?.first_chunk::<8>()?;
            Some(i64::from_be_bytes(*bytes))
        };
        let at = cell * WIDTH;
        match (number(at), number(at + WIDTH / 2)) {
            (Some(seq), Some(ord)) => Order { seq, ord },
            _ => Told::NEVER,
        }
    }
}
