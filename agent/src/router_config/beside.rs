//! An agent beside a router: what of the router rules are made of.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::Family;
use crate::config::Config;

/// The router, as its operator says.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Beside {
    /// Of a router: an interface that customers are behind
    #[arg(long = "from-customers", value_name = "INTERFACE")]
    pub customers: Vec<String>,
    /// Of a router: an interface that the internet is behind
    #[arg(long = "from-internet", value_name = "INTERFACE")]
    pub internet: Vec<String>,
    /// Of a router: the interface that agents are behind
    #[arg(long = "from-agents", value_name = "INTERFACE")]
    pub agents_interface: Vec<String>,
    /// An agent beside the router, the preferred one first: its address, or one of each family
    #[arg(long = "agent", value_name = "ADDRESS[,ADDRESS]")]
    pub agents: Vec<Addresses>,
}

/// Of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Vec<IpAddr>);

impl FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = |word: &str| word.parse().map_err(|_| format!("{word} is no address"));
        let addresses: Vec<IpAddr> = text.split(',').map(read).collect::<Result<_, _>>()?;
        match addresses[..] {
            [_] => Ok(Self(addresses)),
            [one, other] if one.is_ipv4() != other.is_ipv4() => Ok(Self(addresses)),
            _ => Err("an agent has one address, or one of IPv4 and one of IPv6".into()),
        }
    }
}

impl Beside {
    /// The agents' addresses of this family, the preferred first.
    pub(super) fn agents(&self, family: Family) -> Vec<IpAddr> {
        let of = |address: &&IpAddr| Family::of_address(address) == family;
        self.agents.iter().flat_map(|agent| agent.0.iter().filter(of)).copied().collect()
    }

    /// What is needed and not said.
    pub(super) fn check(&self, families: &[Family], agents_interface: bool) -> Result<(), String> {
        for (option, given) in [
            ("--from-customers", !self.customers.is_empty()),
            ("--from-internet", !self.internet.is_empty()),
            ("--from-agents", !agents_interface || !self.agents_interface.is_empty()),
        ] {
            if !given {
                return Err(format!("{option} INTERFACE is missing: an interface of the router"));
            }
        }
        let lacking = families.iter().find(|family| self.agents(**family).is_empty());
        lacking.map_or(Ok(()), |family| {
            Err(format!("--agent names no address of {}, and customers have them", family.name()))
        })
    }
}

/// The port at which each agent of this configuration answers for its metrics at every address of the family, if it does.
pub(super) fn metrics_port(config: &Config, family: Family) -> Option<u16> {
    let everywhere = |address: &&SocketAddr| match address.ip() {
        // Of both families, as Linux has it (net.ipv6.bindv6only = 0).
        IpAddr::V6(ip) => ip.is_unspecified(),
        IpAddr::V4(ip) => ip.is_unspecified() && family == Family::V4,
    };
    config.metrics.as_ref()?.listen.iter().find(everywhere).map(SocketAddr::port)
}
