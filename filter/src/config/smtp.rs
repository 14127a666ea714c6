//! `[smtp]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::{positive, seconds};

/// Where messages come in, and from whom.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// Addresses to listen on, `address:port`; IPv6 as `[address]:port`.
    #[schemars(example = ["10.3.0.11:10025"])]
    pub listen: Vec<SocketAddr>,
    /// Who may connect and say with XCLIENT whose mail it is: the addresses of the agents. All others
    /// get 554 at connect, because whoever may use XCLIENT can speak for every customer.
    #[schemars(with = "Vec<String>", example = ["10.3.0.1/32"])]
    pub proxies: Vec<IpNet>,
    /// The name in the greeting, for people who read protocols.
    #[serde(default = "defaults::name")]
    pub name: String,
    /// Connections at a time; further ones get 421, and the agent tries another node.
    #[serde(default = "defaults::max_sessions")]
    pub max_sessions: usize,
    /// Bytes of the largest message; announced in SIZE, larger ones get 552. Not less than the
    /// agent's `relay.max_message_size`.
    #[serde(default = "defaults::max_message_size")]
    pub max_message_size: u64,
    /// Recipients of one message; further ones get 452. High, because the destination has a limit of
    /// its own that the customer should meet first.
    #[serde(default = "defaults::max_recipients")]
    pub max_recipients: usize,
    /// Bytes of the longest command line, its line end included. RFC 5321 asks for 512 and more with
    /// extensions; the agent takes 4096 of its customers, and may have to say a little more here.
    #[serde(default = "defaults::max_command_line")]
    pub max_command_line: usize,
    /// Seconds a proxy may be silent. The agent keeps its connection while the customer composes his
    /// next message.
    #[serde(default = "defaults::idle_timeout")]
    pub idle_timeout: u64,
    /// Seconds from DATA to the end of the message. A customer's line may be slow, but a message that
    /// never ends would hold its place forever. Not below the agent's `relay.session_timeout`, or the node
    /// would seem to fail.
    #[serde(default = "defaults::data_timeout")]
    pub data_timeout: u64,
    /// Seconds from the end of a message to its verdict: what is left of them is what a scanner gets. Below the agent's
    /// `filter.verdict_budget`, or the agent asks another node about a message that this one still has.
    #[serde(default = "defaults::verdict_budget")]
    pub verdict_budget: u64,
    /// Seconds a stop waits for messages in flight. Where systemd keeps the listeners during a restart: below the agents'
    /// `filter.reply_timeout`, for so long agents wait for the next process.
    #[serde(default = "defaults::shutdown_timeout")]
    pub shutdown_timeout: u64,
    /// TLS for agents that are not on the node's own wire: STARTTLS before XCLIENT; their side is `[filter.tls]`. Both
    /// files are read at the start, and again when they have changed: a renewed certificate needs no restart.
    pub tls: Option<Tls>,
}

/// The node's certificate, and whether TLS is a must.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The node's certificate, and those between it and the authority that the agents know: a file in PEM. Made out to
    /// the node's address, or to the agents' `filter.tls.server_name`.
    #[schemars(example = &"/etc/weir/filter.pem")]
    pub certificate: PathBuf,
    /// Its private key: a file in PEM that only weir-filter can read.
    #[schemars(example = &"/etc/weir/filter.key")]
    pub key: PathBuf,
    /// Whether nothing is said of customers and no mail is taken in clear (530), and XCLIENT is announced in TLS only.
    /// `false` while agents are changed over.
    #[serde(default = "defaults::required")]
    pub required: bool,
}

impl Smtp {
    pub(super) fn check(&self, problems: &mut Problems) {
        if self.listen.is_empty() {
            problems.add("smtp.listen", "names no address to listen on");
        }
        for (index, address) in self.listen.iter().enumerate() {
            if self.listen[..index].contains(address) {
                problems.add(&format!("smtp.listen[{index}]"), "is named twice");
            }
        }
        if self.proxies.is_empty() {
            problems.add("smtp.proxies", "names no proxy, so nobody could use this node");
        }
        for (index, prefix) in self.proxies.iter().enumerate() {
            if prefix.prefix_len() == 0 {
                let what = "would let everybody speak for every customer; name the agents' addresses";
                problems.add(&format!("smtp.proxies[{index}]"), what);
            }
        }
        let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
        if self.name.is_empty() || !self.name.bytes().all(plain) {
            problems.add("smtp.name", "must be a host name: letters, digits, dots and hyphens");
        }
        if self.max_command_line < 512 {
            problems.add("smtp.max_command_line", "is below 512, the least of RFC 5321 section 4.5.3.1.4");
        }
        if self.max_recipients < 100 {
            problems.add("smtp.max_recipients", "is below 100, the least of RFC 5321 section 4.5.3.1.8");
        }
        if let Some(tls) = &self.tls {
            for (key, path) in [("certificate", &tls.certificate), ("key", &tls.key)] {
                if !path.is_absolute() {
                    problems.add(&format!("smtp.tls.{key}"), "must be an absolute path");
                }
            }
        }
        positive(problems, "smtp.max_sessions", self.max_sessions as u64);
        positive(problems, "smtp.max_message_size", self.max_message_size);
        seconds(problems, "smtp.idle_timeout", self.idle_timeout);
        seconds(problems, "smtp.data_timeout", self.data_timeout);
        seconds(problems, "smtp.verdict_budget", self.verdict_budget);
        seconds(problems, "smtp.shutdown_timeout", self.shutdown_timeout);
    }
}

mod defaults {
    pub(super) fn name() -> String {
        "weir-filter".into()
    }
    pub(super) fn max_sessions() -> usize {
        1000
    }
    pub(super) fn max_message_size() -> u64 {
        100 * 1024 * 1024
    }
    pub(super) fn max_recipients() -> usize {
        5000
    }
    pub(super) fn max_command_line() -> usize {
        8192
    }
    pub(super) fn idle_timeout() -> u64 {
        600
    }
    pub(super) fn data_timeout() -> u64 {
        7200
    }
    pub(super) fn verdict_budget() -> u64 {
        50
    }
    pub(super) fn shutdown_timeout() -> u64 {
        15
    }
    pub(super) fn required() -> bool {
        true
    }
}
