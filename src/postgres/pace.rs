//! Holds the reading of rows to so many bytes a second, all readers together.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// A reader that was held up may make up for so much of the time.
const SLACK: Duration = Duration::from_secs(1);

/// A pace that readers share.
#[derive(Debug)]
pub struct Pace {
    /// bytes a second; none for as fast as can be
    rate: Option<u64>,
    /// when what was read so far is due
    due: Mutex<Instant>,
}

impl Pace {
    /// A pace of `rate` bytes a second.
    pub fn new(rate: Option<u64>) -> Pace {
        Pace { rate, due: Mutex::new(Instant::now()) }
    }

    /// How many bytes a second; none for as many as can be.
    pub fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Waits until `bytes` more were due.
    pub async fn keep(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let micros = bytes.saturating_mul(1_000_000) / rate.max(1);
        let until = {
            let mut due = self.due.lock().await;
            let now = Instant::now();
            let earliest = now.checked_sub(SLACK).unwrap_or(now);
            *due = (*due).max(earliest) + Duration::from_micros(micros);
            *due
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_share_a_rate() {
        let pace = Pace::new(Some(1_000_000));
        let began = Instant::now();
        tokio::join!(pace.keep(200_000), pace.keep(200_000));
        assert!(began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
        Pace::new(None).keep(usize::MAX).await;
    }
}
