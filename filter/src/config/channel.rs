//! `[channel]`: what agents and this node say to each other beside mail.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::Smtp;

/// A slow channel beside mail, over HTTP: agents fetch who is blocked (`weir-filter block`), and report what destinations
/// answered, which policy can count. Their side is `[filter.channel]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    /// Addresses to listen on, `address:port`.
    #[schemars(example = ["10.3.0.11:10026"])]
    pub listen: Vec<SocketAddr>,
    /// A file with a secret that agents and nodes share: a line of 32 characters or more, as
    /// `openssl rand -hex 32` makes it, that others than its owner and group cannot read. Read at the start.
    #[schemars(example = &"/etc/weir/channel.token")]
    pub token_file: PathBuf,
    /// Prefixes of agents that may use it. Empty: `smtp.proxies`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub agents: Vec<IpNet>,
    /// The channels of all nodes, `address:port`; this one's own may be among them. `weir-filter log --all-nodes` asks them, and they
    /// may ask this one for its events, from the addresses that stand here.
    #[serde(default)]
    #[schemars(example = ["10.3.0.11:10026", "10.3.0.12:10026"])]
    pub nodes: Vec<SocketAddr>,
    /// With `tls`: the authorities, in PEM, that have signed the other nodes' certificates, which are made out to those addresses.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Whether it is HTTPS, with the certificate of `[smtp.tls]`. Without it, whoever can listen on the wire learns the token.
    #[serde(default)]
    pub tls: bool,
}

/// Who is blocked, by command or by policy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Blocks {
    /// Where blocks outlive the process. A damaged file stops the start, for nobody knows who was blocked. Empty: nowhere.
    pub file: PathBuf,
    /// Whom a blocked customer may ask: an address or a link, said in the reply that refuses him. Empty: nobody.
    pub contact: String,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { file: PathBuf::from("/var/lib/weir-filter/blocks.json"), contact: String::new() }
    }
}

impl Channel {
    /// From where another node is asked, which knows this one by its address.
    pub fn address_towards(&self, other: SocketAddr) -> Option<IpAddr> {
        let fits = |own: &&SocketAddr| {
            !own.ip().is_unspecified() && !own.ip().is_loopback() && own.is_ipv4() == other.is_ipv4()
        };
        let own = self.listen.iter().filter(fits);
        own.max_by_key(|own| self.nodes.contains(own)).map(SocketAddr::ip)
    }

    /// All nodes but this one.
    pub fn others(&self) -> impl Iterator<Item = SocketAddr> {
        self.nodes.iter().copied().filter(|node| !self.listen.contains(node))
    }

    pub(super) fn check(&self, smtp: &Smtp, problems: &mut Problems) {
        if self.listen.is_empty() {
            problems.add("channel.listen", "names no address to listen on");
        }
        for (index, address) in self.listen.iter().enumerate() {
            if self.listen[..index].contains(address) || smtp.listen.contains(address) {
                problems.add(&format!("channel.listen[{index}]"), "is named twice");
            }
        }
        if !self.token_file.is_absolute() {
            problems.add("channel.token_file", "must be an absolute path");
        }
        for (index, prefix) in self.agents.iter().enumerate() {
            if prefix.prefix_len() == 0 {
                problems.add(
                    &format!("channel.agents[{index}]"),
                    "would let everybody try; name the agents' addresses",
                );
            }
        }
        if self.tls && self.others().next().is_some() && self.ca_file.is_none() {
            problems.add("channel.ca_file", "is needed where channel.nodes are asked over TLS");
        }
        if self.tls && smtp.tls.is_none() {
            problems.add("channel.tls", "needs a certificate: [smtp.tls] names none");
        }
    }
}

impl Blocks {
    pub(super) fn check(&self, problems: &mut Problems) {
        if !self.file.as_os_str().is_empty() && !self.file.is_absolute() {
            problems.add("blocks.file", "must be an absolute path, or empty");
        }
        if self.contact.len() > 150
            || !self.contact.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic())
        {
            problems.add("blocks.contact", "is one line of at most 150 characters of ASCII");
        }
    }
}
