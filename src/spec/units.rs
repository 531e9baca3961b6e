//! Sizes and durations, in the one grammar that files use: `64MiB`, `5m`.

use std::str::FromStr;
use std::time::Duration;

/// A size in bytes: a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A span of time: a whole number with `ms`, `s`, `m`, `h`, `d` (24 hours) or `w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A span that is added to moments: at most ten years, so that no sum leaves the calendar.
pub(super) const LONGEST: Duration = Duration::from_hours(10 * 366 * 24);

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let parsed = split_unit(text).and_then(|(number, unit)| {
            let shift = match unit {
                "B" => 0,
                "KiB" => 10,
                "MiB" => 20,
                "GiB" => 30,
                "TiB" => 40,
                _ => return None,
            };
            number.checked_mul(1 << shift)
        });
        parsed.map(Size).ok_or_else(|| format!("{text:?} is not a size such as 64MiB"))
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let parsed = split_unit(text).and_then(|(number, unit)| {
            let milliseconds: u64 = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "w" => 604_800_000,
                _ => return None,
            };
            number.checked_mul(milliseconds)
        });
        parsed
            .map(|milliseconds| Span(Duration::from_millis(milliseconds)))
            .ok_or_else(|| format!("{text:?} is not a duration such as 5m"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_read_as_written() {
        assert_eq!("64MiB".parse(), Ok(Size(64 << 20)));
        assert_eq!("365d".parse(), Ok(Span(Duration::from_secs(365 * 86_400))));
        assert_eq!("250ms".parse(), Ok(Span(Duration::from_millis(250))));
        for wrong in ["64MB", "64", "MiB", "5 minutes", "-5m", "99999999999999TiB"] {
            assert!(wrong.parse::<Size>().is_err() && wrong.parse::<Span>().is_err(), "{wrong}");
        }
    }
}
