//! Nodes by name: each address of the name is a node.
//!
//! The system's own resolver is asked (`getaddrinfo`), because it knows what the operator configured, /etc/hosts
//! and search domains included. It does not tell how long an answer holds, so the names are asked for again
//! after `filter.resolve_interval`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::lookup_host;
use tracing::warn;

use super::Role;
use crate::config::{Node, Place};

/// A resolver that is silent for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node of the pool: an address and how much it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub address: SocketAddr,
    /// The host name that it was found by.
    pub host: Option<Arc<str>>,
    pub weight: u32,
    pub max_in_flight: usize,
}

/// The configured nodes, and what their names were last found to be.
#[derive(Debug)]
pub struct Names {
    pub role: Role,
    nodes: Vec<Node>,
    found: BTreeMap<String, BTreeSet<SocketAddr>>,
}

impl Names {
    pub fn new(role: Role, nodes: Vec<Node>) -> Self {
        Self { role, nodes, found: BTreeMap::new() }
    }

    /// These are the nodes from now on; names that stay keep their addresses.
    pub fn replace(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes;
        let nodes = &self.nodes;
        let is_there =
            |name: &str| nodes.iter().any(|node| matches!(&node.place, Place::Name(n) if n == name));
        self.found.retain(|name, _| is_there(name));
    }

    /// Asks for all names. One that cannot be resolved keeps its addresses.
    pub async fn resolve(&mut self) {
        for node in &self.nodes {
            let Place::Name(name) = &node.place else { continue };
            let asked = tokio::time::timeout(PATIENCE, lookup_host(name.as_str())).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(addresses) => {
                    self.found.insert(name.clone(), addresses.collect());
                }
                Err(error) => warn!(node = %name, %error, "{}'s name cannot be resolved", self.role),
            }
        }
    }

    /// All nodes, each address once.
    pub fn sites(&self) -> Vec<Site> {
        let mut seen = BTreeSet::new();
        let mut sites = Vec::new();
        for Node { place, weight, max_in_flight } in &self.nodes {
            let (host, addresses) = match place {
                Place::Address(address) => (None, BTreeSet::from([*address])),
                Place::Name(name) => {
                    (place.host().map(Arc::from), self.found.get(name).cloned().unwrap_or_default())
                }
            };
            let (weight, max_in_flight) = (*weight, max_in_flight.unwrap_or(usize::MAX));
            let new = addresses.into_iter().filter(|address| seen.insert(*address));
            sites.extend(new.map(|address| Site { address, host: host.clone(), weight, max_in_flight }));
        }
        sites
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_all_its_addresses_and_keeps_them_when_nobody_answers() {
        let node = |text: &str| text.parse::<Node>().unwrap();
        let mut names = Names::new(
            Role::Filter,
            vec![node("127.0.0.1:25"), node("localhost:25 weight=3"), node("no.invalid:25")],
        );
        assert_eq!(names.sites().len(), 1);
        names.resolve().await;
        let sites = names.sites();
        assert_eq!((sites[0].address.to_string().as_str(), sites[0].weight), ("127.0.0.1:25", 1));
        assert!(
            sites[1..].iter().all(|site| site.address.ip().is_loopback() && site.weight == 3),
            "{sites:?}"
        );
        names.found.insert("no.invalid:25".into(), BTreeSet::from([([10, 3, 0, 11], 25).into()]));
        names.resolve().await;
        assert!(names.sites().iter().any(|site| site.address == ([10, 3, 0, 11], 25).into()));
        names.replace(vec![node("no.invalid:25 weight=2")]);
        let [site] = &names.sites()[..] else { panic!("{:?}", names.sites()) };
        assert_eq!((site.address, site.weight), (([10, 3, 0, 11], 25).into(), 2));
        assert_eq!(site.host.as_deref(), Some("no.invalid"));
    }
}
