//! A Linux router with FRR: nftables marks mail, FRR's policy-based routing has the marked by way of an address that
//! nobody has, and the look at the agents sets where that is.
//!
//! FRR takes `match dst-port`, and 8.4 tells the kernel nothing of it: a rule for all of TCP comes of it. So the mark.

use std::fmt::Write as _;

use super::beside::Beside;
use super::{Facts, Family, health, nftables, of_family};
use crate::config::WhenAgentDies;

/// Of mail on the router, whose only mark on it it is.
const MARK: u32 = 0x19;
const TABLE: &str = "inet weir_router";
/// Behind those of FRR, which begin with 300.
const PREFERENCE: u32 = 2500;

/// Never on a wire: the dummy address (RFC 7600, section 4.8) and one of the discard prefix (RFC 6666).
fn next_hop(family: Family) -> &'static str {
    match family {
        Family::V4 => "192.0.0.8",
        Family::V6 => "100::25",
    }
}

fn group(family: Family) -> &'static str {
    match family {
        Family::V4 => "weir-v4",
        Family::V6 => "weir-v6",
    }
}

fn sequence(family: Family) -> u32 {
    match family {
        Family::V4 => 10,
        Family::V6 => 20,
    }
}

pub(super) fn script(facts: &Facts<'_>, beside: &Beside, undo: bool) -> String {
    let families: Vec<Family> = facts.families().collect();
    let mut text = route_of_mail(&families);
    if undo {
        let _ = write!(text, "\nnft delete table {TABLE}\n\nvtysh -f /dev/stdin <<'END'\n");
        text += &policies(beside, "no pbr-policy weir");
        text += "no pbr-map weir\n";
        for family in &families {
            let _ = writeln!(text, "no nexthop-group {}", group(*family));
        }
        text += "END\n\n";
        for flag in families.iter().map(|family| family.flag()) {
            let _ =
                writeln!(text, "ip {flag} route del $(route_of_mail {flag}) metric 1 2>/dev/null || true");
            let _ = writeln!(text, "ip {flag} rule del preference {PREFERENCE} 2>/dev/null || true");
        }
        return text;
    }
    text += &health::check(facts, beside, &families);
    text += "\ncheck\n";
    if facts.config.steering.when_agent_dies == WhenAgentDies::Closed {
        text += "\n# Without an agent's host, or without FRR, no mail goes: when_agent_dies = \"closed\".\n";
        for flag in families.iter().map(|family| family.flag()) {
            let (there, rule) = (format!("preference {PREFERENCE}"), format!("fwmark {MARK:#x} unreachable"));
            let _ = writeln!(
                text,
                "ip {flag} rule show {there} | grep -q . || ip {flag} rule add {there} {rule}"
            );
        }
    }
    let _ = write!(
        text,
        "\nvtysh -f /dev/stdin <<'END'\n{}END\n\n{}\n",
        routing(beside, &families),
        marks(facts, beside, &families)
    );
    text + health::WATCH
}

fn route_of_mail(families: &[Family]) -> String {
    let mut text = "route_of_mail() {\n    case $1 in\n".to_owned();
    for family in families {
        let bits = if *family == Family::V4 { 32 } else { 128 };
        let _ = writeln!(text, "    {}) echo {}/{bits} ;;", family.flag(), next_hop(*family));
    }
    text + "    esac\n}\n"
}

/// As FRR's configuration has it.
fn routing(beside: &Beside, families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        let _ = write!(text, "nexthop-group {}\n nexthop {}\nexit\n", group(*family), next_hop(*family));
    }
    for family in families {
        let _ = write!(
            text,
            "pbr-map weir seq {}\n match mark {MARK}\n set nexthop-group {}\nexit\n",
            sequence(*family),
            group(*family)
        );
    }
    text + &policies(beside, "pbr-policy weir")
}

fn policies(beside: &Beside, command: &str) -> String {
    beside
        .customers
        .iter()
        .chain(&beside.internet)
        .map(|interface| format!("interface {interface}\n {command}\nexit\n"))
        .collect()
}

/// Customers' mail, and the answers to it. Not what comes from the agents.
fn marks(facts: &Facts<'_>, beside: &Beside, families: &[Family]) -> String {
    let mut text = nftables::replaced(TABLE);
    for family in families {
        text += &nftables::set(*family, &of_family(&facts.config.customers.prefixes, *family));
    }
    text += "\tchain prerouting {\n\t\ttype filter hook prerouting priority mangle; policy accept;\n";
    for (interfaces, of, port) in
        [(&beside.customers, "saddr", "dport"), (&beside.internet, "daddr", "sport")]
    {
        let interfaces = nftables::names(interfaces);
        for family in families {
            let (ip, customers) = (nftables::ip(*family), nftables::set_name(*family));
            let _ = writeln!(
                text,
                "\t\tiifname {{ {interfaces} }} {ip} {of} @{customers} tcp {port} 25 meta mark set {MARK:#x}"
            );
        }
    }
    text + "\t}\n}\nEND\n"
}
