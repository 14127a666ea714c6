//! What to steer, from where to where.

use std::path::PathBuf;

use weir_ebpf_common::Side;

use super::links::Link;
use super::routing::{Family, Interfaces, MARK_MASK, Routing};
use super::rules::family_of;
use super::{SteerError, Tables};
use crate::config::{Backend, Config, WhenAgentDies};
use crate::interfaces::{fits, is_pattern};

/// Everything that steering needs of the configuration.
#[derive(Debug, Clone)]
pub struct Plan {
    pub backend: Backend,
    /// Names, and patterns of names.
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

    /// Interfaces by their full names, each once: customers' first. On a one-armed gateway they are the same.
    pub(super) fn interfaces(&self) -> Vec<String> {
        let all = self.customer_interfaces.iter().chain(&self.internet_interfaces);
        distinct(&all.filter(|name| !is_pattern(name)).cloned().collect::<Vec<_>>())
    }

    /// The interfaces to steer on, those towards the internet first: the first connection taken needs its answers
    /// back. Who is on both sides is a customer's: that program does the other's work as well.
    pub(super) fn places<'a>(&self, links: &'a [Link]) -> Vec<(&'a Link, Side)> {
        let all = links.iter().filter_map(|link| Some((link, self.side_of(link)?)));
        let (internet, customers): (Vec<_>, Vec<_>) = all.partition(|(_, side)| *side == Side::Internet);
        internet.into_iter().chain(customers).collect()
    }

    pub(crate) fn side_of(&self, link: &Link) -> Option<Side> {
        let is_among = |names: &[String]| names.iter().any(|name| stands_for(name, link));
        match (is_among(&self.customer_interfaces), is_among(&self.internet_interfaces)) {
            (true, _) => Some(Side::Customer),
            (false, true) => Some(Side::Internet),
            (false, false) => None,
        }
    }

    /// Patterns that no interface fits, with their keys.
    pub(crate) fn idle_patterns(&self, links: &[Link]) -> Vec<(&'static str, &str)> {
        let patterns = self.lists().into_iter().flat_map(|(key, names)| {
            names.iter().filter(|name| is_pattern(name)).map(move |name| (key, name.as_str()))
        });
        patterns.filter(|(_, pattern)| !links.iter().any(|link| stands_for(pattern, link))).collect()
    }

    /// The same with the names of those that there are in place of patterns.
    pub(crate) fn resolved(&self, links: &[Link]) -> Self {
        let resolve = |names: &[String]| {
            let all = names.iter().flat_map(|name| match is_pattern(name) {
                true => {
                    links.iter().filter(|link| stands_for(name, link)).map(|link| link.name.clone()).collect()
                }
                false => vec![name.clone()],
            });
            distinct(&all.collect::<Vec<_>>())
        };
        Self {
            customer_interfaces: resolve(&self.customer_interfaces),
            internet_interfaces: resolve(&self.internet_interfaces),
            ..self.clone()
        }
    }

    pub(crate) fn lists(&self) -> [(&'static str, &[String]); 2] {
        [
            ("customer_interfaces", &self.customer_interfaces),
            ("internet_interfaces", &self.internet_interfaces),
        ]
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
        let patterns = self.lists().into_iter().any(|(_, names)| names.iter().any(|name| is_pattern(name)));
        Routing {
            families: self.families.clone(),
            interfaces: if patterns { Interfaces::All } else { Interfaces::Named(self.interfaces()) },
            mark: self.mark,
            table: self.table,
        }
    }
}

/// Whether an entry of the configuration means this interface. No pattern means the loopback interface, nor a port of a
/// bridge or bond, whose packets come in on that.
fn stands_for(entry: &str, link: &Link) -> bool {
    match is_pattern(entry) {
        true => link.name != "lo" && !link.is_port && fits(entry, &link.name),
        false => entry == link.name,
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
