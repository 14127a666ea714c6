//! The rules of the nftables table.
//!
//! | packet | treatment |
//! |---|---|
//! | of a connection of the agent's, or an ICMP error about one | marked |
//! | the same, where NAT has put its address back | marked, in a chain after that |
//! | a SYN of the agent's that comes in again | dropped; another chain remembers those that go out |
//! | a customer's SYN to port 25 of the gateway itself, told to go on from there | dropped |
//! | a customer's SYN to port 25, not to the gateway itself, from a blocked prefix | dropped, or answered with a reset |
//! | the same of anybody, while all are released | passed |
//! | the same from an exempt prefix, to an exempt prefix, or of an exempt pair | passed |
//! | a customer's SYN to port 25, not to the gateway itself | to the listener, and marked |
//! | the same while there is no listener, or the agent is hung | passed (`open`), dropped (`closed`) |
//! | anything else | passed |
//!
//! Fragments need no rules: the kernel puts packets together before it looks at any of them, in every
//! network namespace with a `tproxy` statement.

mod exempt;
mod heart;
mod names;
mod own;
mod prefixes;
mod release;

use serde_json::{Value, json};

use crate::config::WhenAgentDies;
use crate::steer::routing::{Family, MARK_MASK};
use crate::steer::rules::family_of;
use crate::steer::{Plan, Tables};

/// One table for both address families, and nothing of ours outside it.
pub(super) const FAMILY: &str = "inet";
pub(super) const TABLE: &str = "weir";

pub(super) const CHAIN: &str = "prerouting";
/// Before routing, after connection tracking: the customary place of `tproxy`.
const PRIORITY_MANGLE: i32 = -150;

pub(super) const ESTABLISHED: &str = "established";
pub(super) const NEW_CONNECTION: &str = "new_connection";
pub(super) const NO_LISTENER_DROPPED: &str = "no_listener_dropped";
pub(super) const EXEMPT: &str = "exempt";
pub(super) const RELEASED: &str = "released";
pub(super) const SOURCE_ROUTE_DROPPED: &str = "source_route_dropped";
pub(super) const COUNTERS: [&str; 11] = [
    ESTABLISHED,
    NEW_CONNECTION,
    NO_LISTENER_DROPPED,
    EXEMPT,
    RELEASED,
    "blocked_dropped",
    "blocked_reset",
    "exempt_customer",
    "exempt_destination",
    SOURCE_ROUTE_DROPPED,
    LOOPED_BACK_DROPPED,
];

pub(super) use exempt::{exempt, exempt_in_empty_sets, unexempt};
pub(super) use heart::{ALIVE, BEAT, LONG_SILENCE, SHORT_SILENCE, SILENCE, first_beat};
pub(super) use names::{CUSTOMERS, Names, delete as delete_sets};
pub(super) use own::LOOPED_BACK_DROPPED;
pub(super) use prefixes::{fill as fill_prefixes, names_of as names_of_prefixes, sets as sets_of_prefixes};
pub(super) use release::release;

/// Whether new connections are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Steering,
    Withdrawn,
}

/// The names of the sets that rules fill.
pub(super) fn remembered() -> impl Iterator<Item = &'static str> {
    own::SENT.into_iter().chain(exempt::MADE)
}

/// Commands that put rules in place of those of an earlier table, if there is one, in one transaction. The sets of prefixes are
/// there already; all others are empty then, but those that rules fill.
///
/// Those of the earlier table are filled anew, not replaced: in the moment of the change a packet may meet a rule of the
/// old table, which must find what is in its sets now. One of a deleted set would find nothing.
///
/// `remembers`: the table has the sets of [`remembered`]. Rules fill those, and nft has no words in JSON for what the kernel
/// makes of such a set: it cannot be added once more.
pub(super) fn refill_table(plan: &Plan, names: &Names, remembers: bool) -> Vec<Value> {
    let mut commands = vec![
        add_table(),
        json!({ "add": { "chain": {
            "family": FAMILY, "table": TABLE, "name": CHAIN,
            "type": "filter", "hook": "prerouting", "prio": PRIORITY_MANGLE, "policy": "accept",
        } } }),
        flush_chain(),
    ];
    commands.extend(own::chains());
    for name in COUNTERS {
        let counter = json!({ "counter": { "family": FAMILY, "table": TABLE, "name": name } });
        // What is not there can't be removed, what was just added can.
        commands.extend(["add", "delete", "add"].map(|change| json!({ change: counter })));
    }
    let mut sets = vec![release::set(), heart::set()];
    for family in Family::ALL {
        sets.extend(exempt::sets(family));
        if !remembers {
            sets.extend([own::set(family), exempt::made_set(family)]);
        }
    }
    for set in sets {
        commands.push(json!({ "add": { "set": set } }));
        commands.push(flush_set(&set["name"]));
    }
    commands.extend(rules(plan, names, Stage::Steering));
    commands.extend(own::rules(plan, names));
    commands
}

/// Commands that change the rules; sets and counters stay.
pub(super) fn replace_rules(plan: &Plan, names: &Names, stage: Stage) -> Vec<Value> {
    let mut commands = vec![flush_chain()];
    commands.extend(rules(plan, names, stage));
    commands.extend(own::chains());
    commands.extend(own::rules(plan, names));
    commands
}

/// Commands that make and fill the sets of customers.
pub(super) fn customers(plan: &Plan, names: &Names) -> Vec<Value> {
    let mut commands = Vec::new();
    for family in Family::ALL {
        let name = names.of(CUSTOMERS, family);
        commands.push(json!({ "add": { "set": set(&name, address_type(family), &["interval"]) } }));
        let elements = elements(&plan.tables, family);
        if plan.families.contains(&family) && !elements.is_empty() {
            commands.push(add_elements(&name, &elements));
        }
    }
    commands
}

fn add_elements(set: &str, elements: &[Value]) -> Value {
    json!({ "add": { "element": { "family": FAMILY, "table": TABLE, "name": set, "elem": elements } } })
}

/// What `add set` is told; the set is empty.
fn set(name: &str, of: impl Into<Value>, flags: &[&str]) -> Value {
    json!({ "family": FAMILY, "table": TABLE, "name": name, "type": of.into(), "flags": flags })
}

fn flush_set(name: &Value) -> Value {
    json!({ "flush": { "set": { "family": FAMILY, "table": TABLE, "name": name } } })
}

fn flush_chain() -> Value {
    json!({ "flush": { "chain": { "family": FAMILY, "table": TABLE, "name": CHAIN } } })
}

/// Commands that remove the table, whether or not it is there.
pub(super) fn delete_table() -> Vec<Value> {
    vec![add_table(), json!({ "delete": { "table": table() } })]
}

/// A command that makes the table, unless it is there.
pub(super) fn add_table() -> Value {
    json!({ "add": { "table": table() } })
}

fn table() -> Value {
    json!({ "family": FAMILY, "name": TABLE })
}

fn rules(plan: &Plan, names: &Names, stage: Stage) -> Vec<Value> {
    let mut rules = vec![connections(plan)];
    for &family in &plan.families {
        rules.push(own::looped_back(plan, family));
        let new_connections = |treatment: &[Value]| new_connections(plan, names, family, treatment);
        rules.extend(source_routes(plan, names, family, stage));
        // Whatever else is said of them, with a listener or without.
        rules.extend(prefixes::refusals(family, names).map(|treatment| new_connections(&treatment)));
        // Before the exempt ones, so that it counts against no pair's limit. Without a listener as well, as the next ones.
        rules.push(new_connections(&release::rule()));
        rules.extend(prefixes::exemptions(family, names).map(|treatment| new_connections(&treatment)));
        // Without a listener as well: that a pair is exempt does not end with the agent.
        rules.extend(exempt::rules(family).map(|treatment| new_connections(&treatment)));
        if stage == Stage::Steering {
            let to_listener =
                [heart::beats(), tproxy(plan, family), count(NEW_CONNECTION), set_mark(plan), accept()];
            rules.push(new_connections(&to_listener));
        }
        if plan.when_agent_dies == WhenAgentDies::Closed {
            rules.push(new_connections(&[count(NO_LISTENER_DROPPED), json!({ "drop": null })]));
        }
    }
    rules.iter().map(|rule| add_rule(rule)).collect()
}

/// Packets of the agent's connections, and ICMP errors about them: those quote the customer's address, and
/// without them path MTU discovery fails.
fn connections(plan: &Plan) -> Vec<Value> {
    let mut rule = connection_packets(plan);
    rule.extend([count(ESTABLISHED), set_mark(plan), accept()]);
    rule
}

fn connection_packets(plan: &Plan) -> Vec<Value> {
    vec![
        matches(&json!({ "meta": { "key": "iifname" } }), &set_of(&plan.interfaces())),
        matches(&json!({ "meta": { "key": "l4proto" } }), &json!({ "set": ["tcp", "icmp", "ipv6-icmp"] })),
        matches(&json!({ "socket": { "key": "transparent" } }), &json!(1)),
    ]
}

/// To the gateway itself, with an option or header by which the packet goes on to another destination: the kernel
/// looks at those later, and as forwarded the packet never comes by here.
fn source_routes(plan: &Plan, names: &Names, family: Family, stage: Stage) -> Vec<Vec<Value>> {
    if stage == Stage::Withdrawn && plan.when_agent_dies == WhenAgentDies::Open {
        return Vec::new();
    }
    let options = match family {
        Family::V4 => ["lsrr", "ssrr"].map(|name| json!({ "ip option": { "name": name } })).to_vec(),
        Family::V6 => vec![json!({ "exthdr": { "name": "rt" } })],
    };
    let rule = |option: &Value| {
        let mut rule = customers_syn(plan, names, family);
        // An option or header alone stands for its presence.
        rule.push(matches(&fib_type(), &json!("local")));
        rule.push(matches(option, &json!(true)));
        rule.extend([count(SOURCE_ROUTE_DROPPED), json!({ "drop": null })]);
        rule
    };
    options.iter().map(rule).collect()
}

/// SYNs only: what belongs to a connection older than the agent must not reach the listener, which would
/// reset it.
fn new_connections(plan: &Plan, names: &Names, family: Family, treatment: &[Value]) -> Vec<Value> {
    let mut rule = customers_syn(plan, names, family);
    // Mail to the gateway itself is the gateway's own.
    rule.push(json!({ "match": { "op": "!=", "left": fib_type(), "right": "local" } }));
    rule.extend_from_slice(treatment);
    rule
}

fn fib_type() -> Value {
    json!({ "fib": { "result": "type", "flags": ["daddr"] } })
}

fn customers_syn(plan: &Plan, names: &Names, family: Family) -> Vec<Value> {
    vec![
        matches(&json!({ "meta": { "key": "iifname" } }), &set_of(&plan.customer_interfaces)),
        matches(&payload(ip(family), "saddr"), &names.in_a_rule(CUSTOMERS, family)),
        matches(&payload("tcp", "dport"), &json!(25)),
        syn_alone(),
    ]
}

fn syn_alone() -> Value {
    let flags = json!({ "&": [payload("tcp", "flags"), { "|": ["syn", { "|": ["ack", "rst"] }] }] });
    matches(&flags, &json!("syn"))
}

fn add_rule(expressions: &[Value]) -> Value {
    json!({ "add": { "rule": { "family": FAMILY, "table": TABLE, "chain": CHAIN, "expr": expressions } } })
}

fn matches(left: &Value, right: &Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn count(name: &str) -> Value {
    json!({ "counter": name })
}

fn accept() -> Value {
    json!({ "accept": null })
}

/// Where there is no listener the rule ends here, and the next one decides.
fn tproxy(plan: &Plan, family: Family) -> Value {
    json!({ "tproxy": { "family": ip(family), "port": plan.listen_port } })
}

/// Our bits of the mark; the others' stay.
fn set_mark(plan: &Plan) -> Value {
    let key = json!({ "meta": { "key": "mark" } });
    json!({ "mangle": { "key": key, "value": { "|": [{ "&": [key, !MARK_MASK] }, plan.mark] } } })
}

fn set_of(names: &[String]) -> Value {
    json!({ "set": names })
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

fn elements(tables: &Tables, family: Family) -> Vec<Value> {
    let prefixes = tables.prefixes.all().iter().filter(|prefix| family_of(prefix) == family);
    prefixes.map(|net| prefix(&net.network().to_string(), net.prefix_len())).collect()
}

fn prefix(address: &str, length: u8) -> Value {
    json!({ "prefix": { "addr": address, "len": length } })
}
