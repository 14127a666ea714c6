//! What was judged, kept for a while: one row a message, to be searched by customer, address, id and time.
//!
//! Events are no limit: whatever happens to them, messages are judged as before, and their log lines remain.

mod event;
mod forget;
mod hash;
mod schema;
mod search;
mod segment;
mod store;
mod table;
mod usage;
mod writer;

pub use event::{Bypassed, Event, Infection, MAX_LISTED, Outcome, Score, Step};
pub use forget::{Forgotten, forget};
pub use hash::Addresses;
#[cfg(test)]
pub(crate) use schema::TABLE;
pub use search::{Found, Query, prefix, search, visit};
pub use store::{Bounds, Store, StoreError, Usage};
pub use table::table;
pub use usage::{Day, Days, usage};
pub use writer::Writer;

use anyhow::Context;

use crate::config;

/// The store of a running node.
#[derive(Debug)]
pub struct Records {
    pub writer: Writer,
    /// What becomes of mail addresses.
    pub addresses: Addresses,
}

impl Records {
    /// None: nothing is to be kept.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub fn open(config: &config::Events) -> anyhow::Result<Option<Self>> {
        let directory = &config.directory;
        if directory.as_os_str().is_empty() {
            return Ok(None);
        }
        let store =
            Store::open(directory, Bounds { keep_days: config.keep_days, max_size: config.max_size })?;
        let file = directory.join("address.key");
        let addresses = if config.store_addresses {
            Addresses::Stored
        } else {
            let hashed = Addresses::hashed(&file);
            hashed.with_context(|| format!("events.directory: the key {}", file.display()))?
        };
        let writer = Writer::start(store).context("there can be no thread for events")?;
        Ok(Some(Self { writer, addresses }))
    }
}

#[cfg(test)]
mod measurement;
#[cfg(test)]
mod tests;
