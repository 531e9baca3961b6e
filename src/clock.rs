//! Time, injected. Nothing else in the crate reads the system's clock.

use std::sync::Arc;

use jiff::Timestamp;

/// Tells the time; a test hands in its own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's wall clock.
    #[allow(clippy::disallowed_methods, reason = "the one place where the clock is read")]
    pub fn system() -> Clock {
        Clock(Arc::new(Timestamp::now))
    }

    /// A clock that answers with what `tell` returns.
    pub fn of(tell: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(tell))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }

    /// Microseconds since 2000-01-01 00:00 UTC, the form of Postgres' own timestamps.
    pub fn now_postgres(&self) -> i64 {
        postgres_micros(self.now())
    }
}

/// Microseconds between the Unix epoch and 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The time `millis` after 1970-01-01 00:00 UTC; the nearest one jiff can hold where it is out of range.
pub fn from_unix_millis(millis: i64) -> Timestamp {
    let nearest = if millis < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_millisecond(millis).unwrap_or(nearest)
}

/// A timestamp in microseconds since 2000-01-01 00:00 UTC.
pub fn postgres_micros(at: Timestamp) -> i64 {
    at.as_microsecond() - POSTGRES_EPOCH
}

/// The timestamp that Postgres writes as `micros` since 2000-01-01 00:00 UTC; the nearest one
/// jiff can hold where it is out of range.
pub fn from_postgres_micros(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros.saturating_add(POSTGRES_EPOCH)).unwrap_or(if micros < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}
