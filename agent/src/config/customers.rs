//! Whose mail is intercepted, and within which limits.

use std::collections::HashSet;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::check::{check_prefix, unique};
use super::{Backend, Config};
use crate::prefixes::Prefixes;

/// Whose mail is intercepted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Customers {
    /// Source addresses whose connections to TCP port 25 are intercepted, IPv4 and IPv6.
    #[schemars(with = "Vec<String>", example = ["10.1.0.0/16", "fd01::/32"])]
    pub prefixes: Vec<IpNet>,
    /// Those among them whose connections go straight none the less, unjudged. Each must be within `prefixes`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub exempt: Vec<IpNet>,
    /// Destinations to which all customers' connections go straight, unjudged.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub exempt_destinations: Vec<IpNet>,
    /// Those among them whose addresses this gateway hides from the internet (masquerade, SNAT). The agent connects to
    /// destinations from the gateway's own address for them, and from the customer's for all others; filter nodes are told
    /// the customer's in any case. Each must be within `prefixes`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub masqueraded: Vec<IpNet>,
}

/// Limits that hold in the kernel, for each source: an IPv4 address or an IPv6 /64. What is beyond them never reaches
/// the agent. Only while the agent takes connections, and with `steering.backend = "ebpf"`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time, as the agent counts them. 0: no limit but `relay.max_sessions_per_customer`.
    pub connections: u32,
    /// New connections a second, in the long run. 0: no limit.
    pub new_per_second: u32,
    /// New connections that may come at once.
    pub burst: u32,
    /// What becomes of a SYN beyond the limits: `drop` (the customer's system tries again, after 1 s, 3 s, 7 s) or
    /// `reset` (the customer is told at once).
    pub beyond: WhenBeyond,
    /// Customers with other limits: tables `[[limits.overrides]]`, each with `prefixes` within `customers.prefixes`, and
    /// with `connections`, `new_per_second`, `burst` or all of them. The longest prefix that fits decides.
    pub overrides: Vec<LimitOverride>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 0,
            new_per_second: 0,
            burst: 20,
            beyond: WhenBeyond::default(),
            overrides: Vec::new(),
        }
    }
}

impl Limits {
    pub fn general(&self) -> Limit {
        Limit { connections: self.connections, new_per_second: self.new_per_second, burst: self.burst }
    }

    /// The limits of an override's customers: what it does not say is as for all.
    pub fn overridden(&self, entry: &LimitOverride) -> Limit {
        Limit {
            connections: entry.connections.unwrap_or(self.connections),
            new_per_second: entry.new_per_second.unwrap_or(self.new_per_second),
            burst: entry.burst.unwrap_or(self.burst),
        }
    }
}

/// Other limits for some customers; what is not said is as for all.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitOverride {
    /// Addresses of these customers, IPv4 and IPv6.
    #[schemars(with = "Vec<String>", example = ["10.1.7.0/24"])]
    pub prefixes: Vec<IpNet>,
    /// As `limits.connections`.
    pub connections: Option<u32>,
    /// As `limits.new_per_second`.
    pub new_per_second: Option<u32>,
    /// As `limits.burst`.
    pub burst: Option<u32>,
}

/// What holds for one source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    pub connections: u32,
    pub new_per_second: u32,
    pub burst: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenBeyond {
    #[default]
    Drop,
    Reset,
}

/// Beyond it the tables in the kernel have no room for two generations.
const MAX_PREFIXES: usize = 1_000_000;

/// Each has a policy of its own in the kernel.
const MAX_OVERRIDES: usize = 1000;

/// More cannot be meant.
const MAX_RATE: u32 = 1_000_000;

pub(super) fn check(config: &Config, problems: &mut Problems) {
    let customers = &config.customers;
    if customers.prefixes.is_empty() {
        problems.add("customers.prefixes", "is empty: nobody's mail would be intercepted");
    }
    for (key, prefixes) in [
        ("customers.prefixes", &customers.prefixes),
        ("customers.exempt", &customers.exempt),
        ("customers.exempt_destinations", &customers.exempt_destinations),
        ("customers.masqueraded", &customers.masqueraded),
    ] {
        for (index, prefix) in prefixes.iter().enumerate() {
            check_prefix(&format!("{key}[{index}]"), *prefix, problems);
        }
        unique(key, prefixes, problems);
        if prefixes.len() > MAX_PREFIXES {
            problems.add(key, format!("has {} prefixes; there is room for {MAX_PREFIXES}", prefixes.len()));
        }
    }
    check_exempt(config, problems);
    check_limits(config, problems);
}

fn check_exempt(config: &Config, problems: &mut Problems) {
    let customers = &config.customers;
    let (all, exempt) = (Prefixes::new(&customers.prefixes), Prefixes::new(&customers.exempt));
    for (index, prefix) in customers.exempt.iter().enumerate() {
        if !all.cover(prefix) {
            let words = format!(
                "{prefix} is not within customers.prefixes: its mail is not intercepted in the first place"
            );
            problems.add(&format!("customers.exempt[{index}]"), words);
        }
    }
    for (index, prefix) in customers.masqueraded.iter().enumerate() {
        if !all.cover(prefix) {
            let words = format!("{prefix} is not within customers.prefixes: its mail is not intercepted");
            problems.add(&format!("customers.masqueraded[{index}]"), words);
        }
    }
    for (index, prefix) in customers.prefixes.iter().enumerate() {
        if exempt.cover(prefix) {
            let words =
                format!("{prefix} is within customers.exempt: it cannot be both, leave it out of one");
            problems.add(&format!("customers.prefixes[{index}]"), words);
        }
    }
    for (index, prefix) in customers.exempt_destinations.iter().enumerate() {
        if prefix.prefix_len() == 0 {
            let words = format!("{prefix} is everybody: nothing would be intercepted");
            problems.add(&format!("customers.exempt_destinations[{index}]"), words);
        }
    }
    if config.steering.backend == Backend::External {
        let lists = [("exempt", &customers.exempt), ("exempt_destinations", &customers.exempt_destinations)];
        for (key, _) in lists.iter().filter(|(_, prefixes)| !prefixes.is_empty()) {
            let words = "must be empty where steering.backend is \"external\": leave them out of the rules of your own";
            problems.add(&format!("customers.{key}"), words);
        }
    }
}

fn check_limits(config: &Config, problems: &mut Problems) {
    let limits = &config.limits;
    if config.steering.backend != Backend::Ebpf {
        let default = Limits::default();
        let set = [
            ("limits.connections", limits.connections != 0),
            ("limits.new_per_second", limits.new_per_second != 0),
            ("limits.burst", limits.burst != default.burst),
            ("limits.beyond", limits.beyond != default.beyond),
            ("limits.overrides", !limits.overrides.is_empty()),
        ];
        for (key, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
            problems
                .add(key, "is for steering.backend = \"ebpf\" only: it is the kernel program that limits");
        }
    }
    check_limit(
        "limits",
        Some(limits.connections),
        Some(limits.new_per_second),
        Some(limits.burst),
        config,
        problems,
    );
    if limits.overrides.len() > MAX_OVERRIDES {
        problems.add("limits.overrides", format!("has more than {MAX_OVERRIDES} tables"));
    }
    let all = Prefixes::new(&config.customers.prefixes);
    let exempt = Prefixes::new(&config.customers.exempt);
    let mut seen = HashSet::new();
    for (index, entry) in limits.overrides.iter().enumerate() {
        let key = format!("limits.overrides[{index}]");
        if entry.connections.is_none() && entry.new_per_second.is_none() && entry.burst.is_none() {
            problems.add(&key, "says nothing: connections, new_per_second or burst expected");
        }
        check_limit(&key, entry.connections, entry.new_per_second, entry.burst, config, problems);
        if entry.prefixes.is_empty() {
            problems.add(&format!("{key}.prefixes"), "is empty: for whom is it?");
        }
        for (number, prefix) in entry.prefixes.iter().enumerate() {
            let key = format!("{key}.prefixes[{number}]");
            check_prefix(&key, *prefix, problems);
            if !all.cover(prefix) {
                problems.add(&key, format!("{prefix} is not within customers.prefixes: nothing limits it"));
            } else if exempt.cover(prefix) {
                problems.add(&key, format!("{prefix} is within customers.exempt: nothing limits it"));
            }
            if !seen.insert(*prefix) {
                problems.add(&key, format!("{prefix} is in an override already"));
            }
        }
    }
}

fn check_limit(
    key: &str,
    connections: Option<u32>,
    new_per_second: Option<u32>,
    burst: Option<u32>,
    config: &Config,
    problems: &mut Problems,
) {
    let most = config.relay.max_sessions_per_customer;
    if let Some(connections) = connections.filter(|connections| most != 0 && *connections as usize > most) {
        let words = format!(
            "is {connections}, but relay.max_sessions_per_customer is {most}: the agent would turn them away; raise that \
             first"
        );
        problems.add(&format!("{key}.connections"), words);
    }
    if new_per_second.is_some_and(|rate| rate > MAX_RATE) {
        problems.add(&format!("{key}.new_per_second"), format!("must be {MAX_RATE} at most; 0 is no limit"));
    }
    if burst.is_some_and(|burst| !(1..=MAX_RATE).contains(&burst)) {
        problems.add(&format!("{key}.burst"), format!("must be 1 to {MAX_RATE}"));
    }
}
