//! Rules of others that take customers' connections away from the agent, drop them on their way to it, or give the
//! agent's own another source address.

mod iptables;
mod model;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use ipnet::IpNet;
use serde_json::Value;

use self::model::{Fate, Outcome, Packet, Place, Rules};
use super::finding::Finding;
use super::{Host, Samples};
use crate::config::Backend;
use crate::prefixes::Prefixes;
use crate::steer::Plan;

const OTHER_PROXY: &str = "other_proxy";
const INPUT: &str = "firewall_input";
const SOURCE: &str = "source_address";

/// weir's own table.
const OURS: [&str; 1] = ["weir"];

/// A port of the agent's towards destinations, and of a customer's.
const SOME_PORT: u16 = 20_000;

/// The rules that this host has.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    match rules() {
        Ok(rules) => judge(&rules, &host.plan, &host.samples, &host.config.customers.masqueraded),
        Err(words) => [OTHER_PROXY, INPUT, SOURCE].map(|check| Finding::unknown(check, words.clone())).into(),
    }
}

/// Of nft, and of iptables, which may have put its rules into nftables or into a table of its own.
fn rules() -> Result<Rules, String> {
    let ruleset = output("nft", &["-j", "list", "ruleset"]);
    let legacy = |v6| {
        let path = if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
        std::fs::read_to_string(path).is_ok_and(|names| !names.trim().is_empty())
    };
    let mut rules = match &ruleset {
        Ok(text) => {
            let ruleset: Value = serde_json::from_str(text).map_err(|error| format!("nft: {error}"))?;
            Rules::from_nft(ruleset["nftables"].as_array().map_or(&[], Vec::as_slice))
        }
        Err(_) => Rules::default(),
    };
    let in_nft = rules.without_foreign_words() || ruleset.is_err();
    for v6 in [false, true] {
        let program = |middle: &str| format!("{}{middle}-save", if v6 { "ip6tables" } else { "iptables" });
        for (wanted, middle) in [(in_nft, "-nft"), (legacy(v6), "-legacy")] {
            if !wanted {
                continue;
            }
            match output(&program(middle), &[]).or_else(|_| output(&program(""), &[])) {
                Ok(saved) => iptables::add(&mut rules, &saved, v6),
                Err(error) if Path::new("/proc/net/netfilter").exists() => {
                    let cause = ruleset.as_ref().err().unwrap_or(&error);
                    return Err(format!("the firewall's rules cannot be read: {cause}"));
                }
                Err(_) => {}
            }
        }
    }
    Ok(rules)
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", words.lines().next().unwrap_or("failed without a word")))
}

/// What they do with the packets that matter.
fn judge(rules: &Rules, plan: &Plan, samples: &Samples, masqueraded: &[IpNet]) -> Vec<Finding> {
    let packets = Packets { plan, samples };
    [other_proxy(rules, &packets), input(rules, &packets), source(rules, plan, masqueraded)].concat()
}

/// The packets whose way is followed.
struct Packets<'a> {
    plan: &'a Plan,
    samples: &'a Samples,
}

impl Packets<'_> {
    /// One for each customer and interface.
    fn each(&self, interfaces: &[String], packet: impl Fn(IpAddr, &str) -> Packet) -> Vec<Packet> {
        let mut packets = Vec::new();
        for customer in &self.samples.customers {
            packets.extend(interfaces.iter().map(|interface| packet(*customer, interface)));
        }
        packets
    }

    fn customer_syn(&self, hook: &'static str, mark: u32) -> Vec<Packet> {
        self.each(&self.plan.customer_interfaces, |customer, interface| base(customer, hook, interface, mark))
    }

    /// The destination's answers to the agent.
    fn answers(&self) -> Vec<Packet> {
        self.each(&self.plan.internet_interfaces, |customer, interface| {
            let packet = base(customer, "input", interface, self.plan.mark);
            Packet {
                source: packet.destination,
                destination: packet.source,
                ports: Some((25, SOME_PORT)),
                state: "established",
                ..packet
            }
        })
    }

    /// The agent's own SYN to a destination.
    fn upstream(&self, hook: &'static str) -> Vec<Packet> {
        self.each(&self.plan.internet_interfaces, |customer, interface| Packet {
            interface_in: None,
            interface_out: Some(interface.to_owned()),
            ..base(customer, hook, interface, 0)
        })
    }

    fn neighbour_discovery(&self) -> Vec<Packet> {
        let all = [self.plan.customer_interfaces.as_slice(), &self.plan.internet_interfaces].concat();
        let mut packets = self.each(&all, |customer, interface| Packet {
            protocol: "icmpv6",
            ports: None,
            icmp_type: "nd-neighbor-solicit",
            state: "untracked",
            destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1).into(),
            ..base(customer, "input", interface, 0)
        });
        packets.retain(|packet| packet.v6);
        packets
    }
}

/// A customer's SYN to a destination.
fn base(customer: IpAddr, hook: &'static str, interface: &str, mark: u32) -> Packet {
    let destination: IpAddr = match customer {
        IpAddr::V4(_) => Ipv4Addr::new(198, 41, 0, 4).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30).into(),
    };
    Packet {
        hook,
        v6: customer.is_ipv6(),
        interface_in: Some(interface.to_owned()),
        interface_out: None,
        source: customer,
        destination,
        protocol: "tcp",
        ports: Some((SOME_PORT, 25)),
        mark,
        state: "new",
        icmp_type: "",
    }
}

/// The first outcome of each rule that is of interest.
fn outcomes(rules: &Rules, packets: &[Packet], is_of_interest: impl Fn(Fate) -> bool) -> Vec<Outcome> {
    let mut found: Vec<Outcome> = Vec::new();
    for outcome in packets.iter().flat_map(|packet| rules.outcomes(packet, &OURS)) {
        if is_of_interest(outcome.fate) && !found.iter().any(|other| other.at == outcome.at) {
            found.push(outcome);
        }
    }
    found
}

fn other_proxy(rules: &Rules, packets: &Packets<'_>) -> Vec<Finding> {
    let is_taken = |fate| matches!(fate, Fate::Taken("tproxy" | "redirect" | "dnat"));
    // The tc program marks packets before nftables sees them.
    let mark = if packets.plan.backend == Backend::Ebpf { packets.plan.mark } else { 0 };
    let mut found = outcomes(rules, &packets.customer_syn("prerouting", mark), is_taken);
    found.extend(outcomes(rules, &packets.upstream("output"), is_taken));
    let findings = found.iter().map(|outcome| {
        let Fate::Taken(how) = outcome.fate else { return Finding::ok(OTHER_PROXY, "") };
        let words = format!(
            "{} sends port 25 elsewhere ({how}): another proxy, or what is left of one; two cannot share the port",
            outcome.at
        );
        found_in(OTHER_PROXY, outcome, &words).mended_by(outcome.at.deletion())
    });
    or_ok(findings.collect(), OTHER_PROXY, "no rule of another proxy takes customers' port 25")
}

fn input(rules: &Rules, packets: &Packets<'_>) -> Vec<Finding> {
    let is_dropped = |fate| fate == Fate::Dropped;
    let mark = packets.plan.mark;
    let steered = [packets.customer_syn("input", mark), packets.answers()].concat();
    let mut findings: Vec<Finding> = outcomes(rules, &steered, is_dropped)
        .iter()
        .map(|outcome| {
            let words = format!(
                "{} drops steered packets: they come in as if for this host (hook input), so they must be let in by \
                 their mark",
                outcome.at
            );
            let nft = format!("meta mark and 0xffff0000 == {mark:#x} accept");
            let iptables = format!("-m mark --mark {mark:#x}/0xffff0000 -j ACCEPT");
            found_in(INPUT, outcome, &words).mended_by(outcome.at.insertion(&nft, &iptables))
        })
        .collect();
    findings.extend(outcomes(rules, &packets.neighbour_discovery(), is_dropped).iter().map(|outcome| {
        let words = format!("{} drops neighbour discovery: no IPv6 without it", outcome.at);
        let nft = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept";
        let iptables = "-p ipv6-icmp -j ACCEPT";
        found_in(INPUT, outcome, &words).mended_by(outcome.at.insertion(nft, iptables))
    }));
    or_ok(findings, INPUT, "no rule drops steered packets on their way to the agent")
}

fn source(rules: &Rules, plan: &Plan, masqueraded: &[IpNet]) -> Vec<Finding> {
    if plan.backend == Backend::Tproxy {
        let words = "a rule that changes the source of the agent's connections does no harm with tproxy";
        return vec![Finding::ok(SOURCE, words)];
    }
    let masqueraded = Prefixes::new(masqueraded);
    let shown = plan.tables.prefixes.all().iter().filter(|prefix| !masqueraded.cover(prefix));
    let samples = Samples::new(&shown.copied().collect::<Vec<_>>());
    let packets = Packets { plan, samples: &samples };
    let is_changed = |fate| matches!(fate, Fate::Taken("masquerade" | "snat"));
    let findings = outcomes(rules, &packets.upstream("postrouting"), is_changed).into_iter().map(|outcome| {
        let words = format!(
            "{} gives the agent's connections another source address: their answers are taken for somebody else's, \
             and no customer reaches a destination; leave these connections out of it, or name the customers in \
             customers.masqueraded",
            outcome.at
        );
        let prefixes = |v6: bool| {
            let prefixes: Vec<String> = packets
                .plan
                .tables
                .prefixes
                .all()
                .iter()
                .filter(|prefix| prefix.addr().is_ipv6() == v6)
                .map(ToString::to_string)
                .collect();
            prefixes
        };
        let v6 = match outcome.at.family.as_str() {
            "ip" => false,
            "ip6" => true,
            _ => packets.samples.customers.iter().all(IpAddr::is_ipv6),
        };
        let ip = if v6 { "ip6" } else { "ip" };
        let nft = format!("{ip} saddr {{ {} }} tcp dport 25 accept", prefixes(v6).join(", "));
        let iptables = format!("-p tcp --dport 25 -s {} -j ACCEPT", prefixes(v6).join(","));
        found_in(SOURCE, &outcome, &words).mended_by(outcome.at.insertion(&nft, &iptables))
    });
    or_ok(findings.collect(), SOURCE, "no rule changes the source of the agent's connections")
}

/// What an outcome before which all was understood is, and what another.
fn found_in(check: &'static str, outcome: &Outcome, words: &str) -> Finding {
    if outcome.sure {
        Finding::problem(check, words)
    } else {
        Finding::warning(check, format!("perhaps (not every rule is understood): {words}"))
    }
}

fn or_ok(findings: Vec<Finding>, check: &'static str, words: &str) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::ok(check, words)] } else { findings }
}

impl Place {
    /// iptables or ip6tables, with the table's name.
    fn iptables(&self) -> String {
        let program = if self.family == "ip6" { "ip6tables" } else { "iptables" };
        format!("{program} -t {}", self.table.trim_start_matches("iptables "))
    }

    fn deletion(&self) -> String {
        match (&self.iptables, self.handle) {
            (Some(rule), _) => format!("{} {}", self.iptables(), rule.replacen("-A ", "-D ", 1)),
            (None, handle) => format!(
                "nft delete rule {} {} {} handle {}",
                self.family,
                self.table,
                self.chain,
                handle.unwrap_or_default()
            ),
        }
    }

    fn insertion(&self, nft: &str, iptables: &str) -> String {
        match &self.iptables {
            Some(_) => format!("{} -I {} {iptables}", self.iptables(), self.chain),
            None => format!("nft insert rule {} {} {} '{nft}'", self.family, self.table, self.chain),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.iptables, self.handle) {
            (Some(rule), _) if rule.starts_with(':') => {
                write!(formatter, "the policy of {}, chain {},", self.iptables(), self.chain)
            }
            (Some(rule), _) => write!(formatter, "the rule `{} {rule}`", self.iptables()),
            (None, Some(handle)) => {
                let Self { family, table, chain, .. } = self;
                write!(formatter, "the rule with handle {handle} in nft chain {family} {table} {chain}")
            }
            (None, None) => {
                let Self { family, table, chain, .. } = self;
                write!(formatter, "the policy of nft chain {family} {table} {chain}")
            }
        }
    }
}
