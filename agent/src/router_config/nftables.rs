//! One table, replaced in one transaction.

use std::fmt::Write as _;

use super::{Facts, Family, of_family};
use crate::config::WhenAgentDies;
use crate::steer::MARK_MASK;

const TABLE: &str = "inet weir_external";

pub(super) fn script(facts: &Facts<'_>, undo: bool) -> String {
    if undo {
        return format!("nft delete table {TABLE}\n");
    }
    let mut text = format!("nft -f - <<'END'\n{}", replaced(TABLE));
    for family in facts.families() {
        text += &set(family, &of_family(&facts.config.customers.prefixes, family));
    }
    text += "\tchain prerouting {\n\t\ttype filter hook prerouting priority mangle; policy accept;\n";
    let mark = format!("meta mark set meta mark & {:#010x} | {:#010x}", !MARK_MASK, facts.mark);
    let interfaces = names(&facts.interfaces());
    let _ = writeln!(
        text,
        "\t\t# The agent's connections, and ICMP errors about them, without which path MTU discovery fails.\n\
         \t\tiifname {{ {interfaces} }} meta l4proto {{ {} }} socket transparent 1 {mark} accept",
        protocols(facts)
    );
    for family in facts.families() {
        text += &new_connections(facts, family, &mark);
    }
    text += "\t}\n}\nEND\n";
    text
}

/// How a table begins that takes the place of the one before, in one transaction.
pub(super) fn replaced(table: &str) -> String {
    // What is not there cannot be deleted.
    format!("table {table}\ndelete table {table}\ntable {table} {{\n")
}

/// Of interfaces, as the elements of a set.
pub(super) fn names(interfaces: &[impl AsRef<str>]) -> String {
    interfaces.iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// TCP, and what tells of errors.
fn protocols(facts: &Facts<'_>) -> String {
    let errors = facts.families().map(|family| match family {
        Family::V4 => "icmp",
        Family::V6 => "ipv6-icmp",
    });
    std::iter::once("tcp").chain(errors).collect::<Vec<_>>().join(", ")
}

fn new_connections(facts: &Facts<'_>, family: Family, mark: &str) -> String {
    let interfaces = names(facts.customer_interfaces());
    let (ip, customers) = (ip(family), set_name(family));
    let syn = format!(
        "iifname {{ {interfaces} }} {ip} saddr @{customers} tcp dport 25 tcp flags & (syn | ack | rst) == syn"
    );
    let steering = &facts.config.steering;
    let port = steering.listen_port;
    let mut text = "\t\t# Customers' new connections; mail to this host itself is its own.\n".to_owned();
    let _ = writeln!(text, "\t\t{syn} fib daddr type local accept");
    let _ = writeln!(text, "\t\t{syn} tproxy {ip} to :{port} {mark} accept");
    match steering.when_agent_dies {
        WhenAgentDies::Open => {
            text += "\t\t# Without the agent's listener no rule decides: they go on straight.\n";
        }
        WhenAgentDies::Closed => {
            let _ = writeln!(text, "\t\t# Without the agent's listener:\n\t\t{syn} drop");
        }
    }
    text
}

pub(super) fn set(family: Family, elements: &[String]) -> String {
    let kind = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let (name, elements) = (set_name(family), elements.join(", "));
    format!("\tset {name} {{ type {kind}; flags interval; auto-merge; elements = {{ {elements} }} }}\n")
}

pub(super) fn set_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "customers_v4",
        Family::V6 => "customers_v6",
    }
}

pub(super) fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
