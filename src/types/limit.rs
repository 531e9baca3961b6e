//! What a warehouse column takes: values beyond it are known before they are sent there.
//!
//! Only what can be told for certain and at little cost. What is let through here may still be refused
//! by the warehouse; what is refused here would be refused there too, or become another value.

use super::{Builtin, day_of_cell, micros_of_iso_time, write_text};
use crate::relation::Wire;
use crate::value::Cell;

/// What a column takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// No NULL.
    Required,
    /// A text of at most so many characters; blanks behind them are cut.
    Characters(usize),
    /// A whole number between two.
    Whole(i64, i64),
    /// A number with at most so many digits before the point.
    Digits(usize),
    /// A day between two, both included, since 2000-01-01.
    Days(i64, i64),
    /// A time of day: of a length of time Postgres would keep what is left behind whole days.
    OfDay,
}

impl Limit {
    /// The limits of a column by its type as `format_type` prints it.
    pub fn of_type(declared: &str) -> Option<Limit> {
        let (name, modifier) = match declared.split_once('(') {
            Some((name, rest)) => (name.trim_end(), Some(rest.trim_end_matches(')'))),
            None => (declared, None),
        };
        match (name, modifier) {
            ("time without time zone", None) => Some(Limit::OfDay),
            ("time", Some(rest)) if rest.ends_with(" without time zone") => Some(Limit::OfDay),
            ("smallint", None) => Some(Limit::Whole(i16::MIN.into(), i16::MAX.into())),
            ("integer", None) => Some(Limit::Whole(i32::MIN.into(), i32::MAX.into())),
            ("character varying" | "character", Some(length)) => {
                length.parse().ok().map(Limit::Characters)
            }
            ("numeric", Some(modifier)) => {
                let (precision, scale) = modifier.split_once(',')?;
                let (precision, scale): (usize, usize) =
                    (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
                precision.checked_sub(scale).map(Limit::Digits)
            }
            _ => None,
        }
    }

    /// Why a value is beyond it; none where it fits, or where that cannot be told.
    pub fn refuses(self, cell: Cell<'_>, wire: Wire) -> Option<String> {
        match (self, cell) {
            (_, Cell::Unchanged) => None,
            (Limit::Required, Cell::Null) => Some("is NULL".to_owned()),
            (Limit::Required, _) | (_, Cell::Null) => None,
            (Limit::Days(first, last), cell) => match day_of_cell(cell, wire) {
                Some(day) if (first..=last).contains(&day) => None,
                Some(_) => Some("is outside the range of the partitions".to_owned()),
                None => None,
            },
            (Limit::OfDay, cell) => {
                let Wire::Binary(Builtin { name: "interval", .. }) = wire else { return None };
                let text = text_of(cell, wire)?;
                let micros = micros_of_iso_time(std::str::from_utf8(&text).ok()?);
                let within = micros.is_some_and(|(micros, _)| micros < 24 * 3_600 * 1_000_000);
                (!within).then(|| "is not a time of day".to_owned())
            }
            (Limit::Characters(most), cell) => {
                let text = text_of(cell, wire)?;
                let text = std::str::from_utf8(&text).ok()?;
                let beyond = text.char_indices().nth(most).map(|(at, _)| at)?;
                let cut = text.get(beyond..)?.bytes().all(|byte| byte == b' ');
                (!cut).then(|| format!("is longer than {most} characters"))
            }
            (Limit::Whole(least, most), cell) => {
                let value: i64 = std::str::from_utf8(&text_of(cell, wire)?).ok()?.parse().ok()?;
                let fits = (least..=most).contains(&value);
                (!fits).then(|| format!("is not between {least} and {most}"))
            }
            (Limit::Digits(most), cell) => {
                let text = text_of(cell, wire)?;
                let number = std::str::from_utf8(&text).ok()?.trim_start_matches(['-', '+']);
                let whole = number.split('.').next()?.trim_start_matches('0');
                let is_number = !whole.is_empty() && whole.bytes().all(|b| b.is_ascii_digit());
                (is_number && whole.len() > most)
                    .then(|| format!("has more than {most} digits before the point"))
            }
        }
    }
}

fn text_of(cell: Cell<'_>, wire: Wire) -> Option<Vec<u8>> {
    match (cell, wire) {
        (Cell::Text(text), _) => Some(text.to_vec()),
        (Cell::Binary(value), Wire::Binary(builtin)) => {
            let mut text = Vec::new();
            write_text(builtin, value, &mut text).ok().map(|()| text)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_read_from_the_type() {
        let cases = [
            ("integer", Some(Limit::Whole(-2_147_483_648, 2_147_483_647))),
            ("character varying(50)", Some(Limit::Characters(50))),
            ("character varying", None),
            ("numeric(10,2)", Some(Limit::Digits(8))),
            ("numeric", None),
            ("text", None),
            ("timestamp(3) with time zone", None),
            ("time without time zone", Some(Limit::OfDay)),
            ("time(3) without time zone", Some(Limit::OfDay)),
            ("time(3) with time zone", None),
        ];
        for (declared, limit) in cases {
            assert_eq!(Limit::of_type(declared), limit, "{declared}");
        }
    }

    #[test]
    fn a_value_beyond_the_limit_is_refused_and_one_at_it_is_not() {
        let refused = |limit: Limit, text: &str| {
            limit.refuses(Cell::Text(text.as_bytes()), Wire::Text).is_some()
        };
        let three = Limit::Characters(3);
        assert!(!refused(three, "äöü") && !refused(three, "äöü  ") && refused(three, "äöüß"));
        let small = Limit::Whole(-32_768, 32_767);
        assert!(!refused(small, "32767") && refused(small, "32768") && !refused(small, "1.5"));
        let digits = Limit::Digits(2);
        assert!(!refused(digits, "-0099.99") && refused(digits, "100") && !refused(digits, "NaN"));
        let days = Limit::Days(0, 365);
        assert!(!refused(days, "2000-12-31") && refused(days, "2001-01-01"));
        assert!(!refused(days, "infinity"));
        assert!(Limit::Required.refuses(Cell::Null, Wire::Text).is_some());
        assert!(Limit::Required.refuses(Cell::Unchanged, Wire::Text).is_none());
        assert!(three.refuses(Cell::Null, Wire::Text).is_none());
    }

    #[test]
    fn a_length_of_time_is_a_time_of_day_within_a_day() {
        let refused = |hours: i64, days: i32| {
            let micros = hours * 3_600 * 1_000_000;
            let value = [&micros.to_be_bytes()[..], &days.to_be_bytes(), &[0; 4]].concat();
            let wire = Wire::Binary(Builtin::of(1186).unwrap());
            Limit::OfDay.refuses(Cell::Binary(&value), wire).is_some()
        };
        assert!(!refused(0, 0) && !refused(23, 0));
        assert!(refused(24, 0) && refused(100, 0) && refused(-1, 0) && refused(1, 1));
    }
}
