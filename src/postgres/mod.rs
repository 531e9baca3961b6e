//! Connections to a Postgres, source or warehouse alike: where it is, TLS, an SQL session.
//!
//! Every session speaks UTC, ISO dates and the other settings under which a value has one text form.

mod endpoint;
pub mod quote;
mod session;
pub mod tls;

pub use endpoint::{Endpoint, Host, SslMode};
pub use session::{Canceller, Session, Side, TIMEOUTS, WITHOUT_TIMEOUTS, connect};
