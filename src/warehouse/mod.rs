//! The warehouse: its control tables, who may write, and transactions that know their name.

mod ddl;
mod fence;
mod locks;
mod migrate;
mod preflight;
mod role;
mod transaction;

pub use ddl::{PATIENT, SOON, ddl, reshape, touch};
pub use fence::{Claim, Fence, LEASE, interrupt, leased_to, register, take_over};
pub use locks::{Holder, holders};
pub use migrate::{migrate, outstanding, refuse_outstanding, refuse_unlike};
pub use preflight::refuse_unfit;
pub use role::statements as role_statements;
pub use transaction::{Durations, Fenced};
