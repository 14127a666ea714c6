//! Whose address it is: from a table of prefixes (in the configuration, and in a file that is read again when it has
//! changed), else from the provider's HTTP service.

mod api;
mod file;
mod owners;
mod table;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::config::Customers as Config;
use crate::rate::Source;
use api::Api;
use file::Watched;
use owners::Owners;

pub(crate) use api::ADDRESS;
pub use file::READ_INTERVAL;
pub(crate) use file::{Stamp, stamp};
pub use table::{Table, TableError};

/// Characters of a customer's id.
const MAX_ID: usize = 128;

/// A customer of the provider's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Customer {
    pub id: String,
    /// Whatever else is known of him.
    pub metadata: Map<String, Value>,
}

/// Who is limited, counted and blocked as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    Customer(String),
    /// A prefix of the table that names no customer.
    Prefix(IpNet),
    Source(Source),
}

/// As the key of a counter. No customer's id looks like an address.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Customer(id) => f.write_str(id),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Source(source) => source.fmt(f),
        }
    }
}

/// What is known of an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    pub customer: Option<Arc<Customer>>,
    /// The prefix of the table that says so.
    pub prefix: Option<IpNet>,
    /// The provider's service was asked, and did not answer: nobody knows whether there is a customer.
    pub unknown: bool,
}

impl Owner {
    /// Customer, else his prefix, else the address.
    pub fn identity(&self, address: IpAddr) -> Identity {
        match (&self.customer, self.prefix) {
            (Some(customer), _) => Identity::Customer(customer.id.clone()),
            (None, Some(prefix)) => Identity::Prefix(prefix),
            (None, None) => Identity::Source(Source::of(address)),
        }
    }

    fn id(&self) -> Option<&str> {
        self.customer.as_ref().map(|customer| customer.id.as_str())
    }
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub owner: Owner,
    /// The address was another's when it was last looked up: what is known of it is not this customer's doing.
    pub changed: bool,
}

/// Everybody's customers.
#[derive(Debug)]
pub struct Customers {
    table: Watched,
    api: Option<Api>,
    owners: Owners,
}

impl Customers {
    /// # Errors
    /// Which file will not do, and why.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let table = Watched::new(config)?;
        let api = config.api.as_ref().map(Api::new).transpose().context("customers.api")?;
        Ok(Self { table, api, owners: Owners::default() })
    }

    /// Whose address it is now. The provider's service may have to be asked.
    pub async fn of(&self, address: IpAddr) -> Found {
        let address = address.to_canonical();
        let owner = match self.table.get(address) {
            Some(owner) => owner,
            None => match &self.api {
                Some(api) => api.of(address).await,
                None => Owner::default(),
            },
        };
        // Nobody has become the owner while it is not known who is.
        let changed = !owner.unknown && self.owners.note(Source::of(address), owner.id());
        if changed {
            let (customer, id) = (Source::of(address), owner.id().unwrap_or("nobody"));
            tracing::info!(%customer, now = id, "an address has changed its owner: its counts are dropped");
        }
        Found { owner, changed }
    }

    /// Looks for the file's news; to be called every [`READ_INTERVAL`]. Blocks.
    pub fn refresh(&self) {
        self.table.refresh();
    }

    /// Grows whenever prefixes may have changed their owners.
    pub fn generation(&self) -> u64 {
        self.table.generation()
    }

    /// The addresses of a customer: his prefixes, and what he was last seen to send from.
    pub fn addresses_of(&self, id: &str) -> Vec<IpNet> {
        let mut prefixes = self.table.prefixes_of(id);
        let seen = self.owners.of(id).into_iter().map(Source::prefix);
        prefixes.extend(seen.filter(|seen| self.table.get(seen.addr()).is_none()));
        IpNet::aggregate(&prefixes)
    }

    /// The address is another's from now on: it is asked for anew.
    pub fn forget(&self, address: IpAddr) {
        let source = Source::of(address);
        if let Some(api) = &self.api {
            api.forget(source);
        }
        self.owners.forget(source);
    }

    pub fn status(&self) -> Value {
        json!({
            "prefixes": self.table.len(),
            "file_problem": self.table.problem(),
            "sources_known": self.owners.len(),
            "api": self.api.as_ref().map(Api::status),
        })
    }
}

/// Why a text is no customer's id.
///
/// # Errors
/// In words.
pub fn check_id(id: &str) -> Result<(), String> {
    let is_address = id.parse::<IpNet>().is_ok() || id.parse::<IpAddr>().is_ok();
    if id.is_empty() || id.chars().count() > MAX_ID {
        Err(format!("a customer's id has 1 to {MAX_ID} characters"))
    } else if id.trim() != id || id.chars().any(char::is_control) {
        Err(format!("{id:?} is no customer's id: it has a control character, or blanks around it"))
    } else if is_address {
        Err(format!("{id} is no customer's id: it would be taken for an address"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
