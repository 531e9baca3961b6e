//! Which leaf a row belongs to, by the day in its partition column.

use super::{days_from_civil, infinite_date, infinite_timestamp};
use crate::relation::Wire;
use crate::value::Cell;

const MICROS_A_DAY: i64 = 86_400_000_000;

/// The UTC day of a date or timestamp cell, as days since 2000-01-01; none where the cell is NULL,
/// infinite, or no date.
pub fn day_of_cell(cell: Cell<'_>, wire: Wire) -> Option<i64> {
    match (cell, wire) {
        (Cell::Binary(value), Wire::Binary(builtin)) => match builtin.name {
            "date" => {
                let days = i32::from_be_bytes(value.try_into().ok()?);
                (!infinite_date(days)).then_some(i64::from(days))
            }
            "timestamp" | "timestamptz" => {
                let micros = i64::from_be_bytes(value.try_into().ok()?);
                (!infinite_timestamp(micros)).then_some(micros.div_euclid(MICROS_A_DAY))
            }
            "text" | "varchar" => day_of_text(value),
            _ => None,
        },
        (Cell::Text(value), Wire::Text) => day_of_text(value),
        _ => None,
    }
}

/// Reads `2024-02-29`, alone or in front of a time. The session speaks ISO dates and UTC.
fn day_of_text(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.ends_with("BC") {
        return None;
    }
    let date = text.split([' ', 'T']).next()?;
    let mut parts = date.splitn(3, '-');
    let year: i64 = parts.next()?.parse().ok()?;
    let month: u32 = parts.next()?.parse().ok()?;
    let day: u32 = parts.next()?.parse().ok()?;
    ((1..=12).contains(&month) && (1..=31).contains(&day))
        .then(|| days_from_civil(year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Builtin;

    #[test]
    fn a_day_is_read_from_either_form() {
        let date = Wire::Binary(Builtin::of(1082).unwrap());
        let stamp = Wire::Binary(Builtin::of(1184).unwrap());
        assert_eq!(day_of_cell(Cell::Binary(&8825_i32.to_be_bytes()), date), Some(8825));
        let before_2000 = (-1_i64).to_be_bytes();
        assert_eq!(day_of_cell(Cell::Binary(&before_2000), stamp), Some(-1));
        assert_eq!(day_of_cell(Cell::Text(b"2024-02-29 23:59:59+00"), Wire::Text), Some(8825));
        assert_eq!(day_of_cell(Cell::Text(b"infinity"), Wire::Text), None);
        assert_eq!(day_of_cell(Cell::Binary(&i32::MAX.to_be_bytes()), date), None);
    }
}
