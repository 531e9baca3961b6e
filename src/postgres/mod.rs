//! Connections to a Postgres, source or warehouse alike: where it is, TLS, an SQL session, the pace at which rows are read.
//!
//! Every session speaks UTC, ISO dates and the other settings under which a value has one text form.

mod endpoint;
mod pace;
pub mod quote;
mod session;
pub mod tls;

pub use endpoint::{Endpoint, Host, SslMode};
pub use pace::Pace;
pub use session::{Canceller, Session, Side, TIMEOUTS, WITHOUT_TIMEOUTS, connect};
