//! What to steer, from where to where.

use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::routing::{Family, MARK_MASK, Routing};
use crate::config::{Backend, Customers, Steering, WhenAgentDies};

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
    /// Whose connections are intercepted; none is contained in another.
    pub prefixes: Vec<IpNet>,
    pub pin_directory: PathBuf,
}

impl Plan {
    pub fn new(steering: &Steering, customers: &Customers) -> Self {
        Self {
            backend: steering.backend,
            customer_interfaces: distinct(&steering.customer_interfaces),
            internet_interfaces: distinct(&steering.internet_interfaces),
            listen_port: steering.listen_port,
            when_agent_dies: steering.when_agent_dies,
            mark: steering.mark & MARK_MASK,
            table: steering.table,
            prefixes: IpNet::aggregate(&customers.prefixes),
            pin_directory: steering.pin_directory.clone(),
        }
    }

    /// All interfaces, each once: customers' first. On a one-armed gateway they are the same.
    pub(super) fn interfaces(&self) -> Vec<String> {
        let all: Vec<String> =
            self.customer_interfaces.iter().chain(&self.internet_interfaces).cloned().collect();
        distinct(&all)
    }

    pub(super) fn v4_prefixes(&self) -> impl Iterator<Item = Ipv4Net> {
        self.prefixes.iter().filter_map(|prefix| match prefix {
            IpNet::V4(prefix) => Some(*prefix),
            IpNet::V6(_) => None,
        })
    }

    pub(super) fn v6_prefixes(&self) -> impl Iterator<Item = Ipv6Net> {
        self.prefixes.iter().filter_map(|prefix| match prefix {
            IpNet::V4(_) => None,
            IpNet::V6(prefix) => Some(*prefix),
        })
    }

    /// The address families that customers have.
    pub(super) fn families(&self) -> Vec<Family> {
        let v4 = self.v4_prefixes().next().map(|_| Family::V4);
        let v6 = self.v6_prefixes().next().map(|_| Family::V6);
        v4.into_iter().chain(v6).collect()
    }

    pub(super) fn routing(&self) -> Routing {
        Routing {
            families: self.families(),
            interfaces: self.interfaces(),
            mark: self.mark,
            table: self.table,
        }
    }
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
