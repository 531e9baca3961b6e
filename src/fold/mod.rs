//! From change events to batches: few rows out of many events. Pure, and the only holder of data in
//! flight between source and warehouse.

mod bag;
mod digest;
mod index;
mod keyed;
mod log;
mod told;
mod window;

pub use digest::{digests, key_document, key_texts, refusal, text_of};
pub use window::{Limits, Window};
