//! What to steer, from where to where.

use std::path::PathBuf;

use super::routing::{Family, MARK_MASK, Routing};
use super::rules::family_of;
use super::{SteerError, Tables};
use crate::config::{Backend, Config, WhenAgentDies};

/// Everything that steering needs of the configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    pub backend: Backend,
    pub customer_interfaces: Vec<String>,
    pub internet_interfaces: Vec<String>,
    /// Port of the transparent listener.
    pub listen_port: u16,
    pub when_agent_dies: WhenAgentDies,
    /// The mark of steered packets, in the upper 16 bits.
    pub mark: u32,
    pub table: u32,
    /// What is configured for prefixes, as it holds now.
    pub tables: Tables,
    /// The address families that customers have had since the start.
    pub families: Vec<Family>,
    /// Sources that may have connections at a time.
    pub max_sources: u32,
    pub pin_directory: PathBuf,
}

impl Plan {
    pub fn new(config: &Config) -> Self {
        let (steering, tables) = (&config.steering, Tables::new(config));
        Self {
            backend: steering.backend,
            customer_interfaces: distinct(&steering.customer_interfaces),
            internet_interfaces: distinct(&steering.internet_interfaces),
            listen_port: steering.listen_port,
            when_agent_dies: steering.when_agent_dies,
            mark: steering.mark & MARK_MASK,
            table: steering.table,
            families: families(&tables),
            tables,
            max_sources: u32::try_from(config.relay.max_sessions).unwrap_or(u32::MAX),
            pin_directory: steering.pin_directory.clone(),
        }
    }

    /// All interfaces, each once: customers' first. On a one-armed gateway they are the same.
    pub(super) fn interfaces(&self) -> Vec<String> {
        let all: Vec<String> =
            self.customer_interfaces.iter().chain(&self.internet_interfaces).cloned().collect();
        distinct(&all)
    }

    /// Rules and routes of these families are there already, and sessions that need them.
    pub fn keep_families(&mut self, versions: &[u8]) {
        let kept = |family: &Family| versions.contains(&family.version()) || self.families.contains(family);
        self.families = Family::ALL.into_iter().filter(kept).collect();
    }

    /// The address families that customers have had.
    pub fn family_versions(&self) -> Vec<u8> {
        self.families.iter().map(|family| family.version()).collect()
    }

    /// With other tables. The rules and routes of an address family are made at the start.
    pub(super) fn set_tables(&mut self, tables: &Tables) -> Result<(), SteerError> {
        match families(tables).into_iter().find(|family| !self.families.contains(family)) {
            Some(Family::V4) => return Err(SteerError::NewFamily { version: 4 }),
            Some(Family::V6) => return Err(SteerError::NewFamily { version: 6 }),
            None => {}
        }
        self.tables = tables.clone();
        Ok(())
    }

    pub(super) fn routing(&self) -> Routing {
        Routing {
            families: self.families.clone(),
            interfaces: self.interfaces(),
            mark: self.mark,
            table: self.table,
        }
    }
}

fn families(tables: &Tables) -> Vec<Family> {
    let has = |family: &Family| tables.prefixes.all().iter().any(|prefix| family_of(prefix) == *family);
    Family::ALL.into_iter().filter(has).collect()
}

fn distinct(names: &[String]) -> Vec<String> {
    let mut seen = Vec::with_capacity(names.len());
    for name in names {
        if !seen.contains(name) {
            seen.push(name.clone());
        }
    }
    seen
}
