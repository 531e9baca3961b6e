//! Values in Postgres binary form, from what other formats hold: decimals as text or as an unscaled
//! integer, days and times as counts or in ISO 8601, and UUIDs, which are read here.
//!
//! Nothing here rounds: what Postgres could not hold exactly is no value. Never goes through a float.
//!
//! Source: PostgreSQL source, numeric_recv, date_recv, timestamp_recv; ISO 8601 with the signed years of
//! java.time.

mod decimal;
mod iso;

pub use decimal::{numeric_of_text, numeric_of_unscaled};
pub use iso::{
    date_of_epoch_days, epoch_days_of_iso, epoch_micros_of_iso, interval_of_iso,
    micros_of_iso_time, timestamp_of_epoch_micros,
};

/// The sixteen bytes of a UUID such as `a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11`.
pub fn uuid_of_text(text: &str) -> Option<[u8; 16]> {
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let mut uuid = [0; 16];
    let mut digits = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte == b'-' && DASHES.contains(&at) {
            continue;
        }
        let digit = u8::try_from(char::from(byte).to_digit(16)?).ok()?;
        let place = uuid.get_mut(digits / 2)?;
        *place = *place << 4 | digit;
        digits += 1;
    }
    (digits == 32 && text.len() == 36).then_some(uuid)
}

/// Digits only: `parse` would take a sign.
fn number(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_uuids_are_read() {
        assert_eq!(interval_of_iso("P1Y2M-3DT4H5M6.000007S"), Some((14_706_000_007, -3, 14)));
        assert_eq!(interval_of_iso("P0Y0M-1DT0H0M0S"), Some((0, -1, 0)));
        assert_eq!(interval_of_iso("PT-0.5S"), Some((-500_000, 0, 0)));
        assert_eq!(interval_of_iso("1Y"), None);
        assert_eq!(interval_of_iso("P1"), None);
        let uuid = uuid_of_text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11").unwrap();
        assert_eq!((uuid[0], uuid[15]), (0xa0, 0x11));
        assert_eq!(uuid_of_text("a0eebc999c0b4ef8bb6d6bb9bd380a11"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            numeric_of_text(&text, &mut Vec::new());
            epoch_days_of_iso(&text);
            micros_of_iso_time(&text);
            epoch_micros_of_iso(&text);
            interval_of_iso(&text);
            uuid_of_text(&text);
        }
    }
}
