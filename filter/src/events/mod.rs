//! What was judged, kept for a while: one row a message, to be searched by customer, address, id and time.
//!
//! Events are no limit: whatever happens to them, messages are judged as before, and their log lines remain.

mod event;
mod hash;
mod schema;
mod search;
mod segment;
mod store;
mod table;
mod writer;

pub use event::{Bypassed, Event, MAX_LISTED, Outcome, Score, Step};
pub use hash::Addresses;
pub use search::{Found, Query, prefix, search};
pub use store::{Bounds, Store, StoreError, Usage};
pub use table::table;
pub use writer::Writer;

#[cfg(test)]
mod tests;
