//! The agent's own connections: SYNs of which a router sends back, and answers that come to another address.

use serde_json::{Value, json};

use super::{
    CHAIN, CUSTOMERS, FAMILY, Names, TABLE, accept, address_type, connection_packets, count, ip, matches,
    payload, set_mark, set_of, syn_alone,
};
use crate::steer::Plan;
use crate::steer::routing::{Family, MARK_MASK};

/// Filled by rules: the SYNs that go out.
pub(super) const SENT: [&str; 2] = ["opening_v4", "opening_v6"];

const OPENING: &str = "opening";
const TRANSLATED: &str = "translated";
pub(in crate::steer::tproxy) const LOOPED_BACK_DROPPED: &str = "looped_back_dropped";

/// After the addresses of answers were put back by NAT (`dstnat`, -100): what was changed was not known for the agent's.
const AFTER_NAT: i32 = -90;
const PRIORITY_MANGLE: i32 = -150;

/// A loop takes milliseconds; and later the customer himself may use the same ports.
const SECONDS: u32 = 10;
/// Connections that are being opened at a time.
const MAX_OPENING: u32 = 65_536;

/// The chains beside the first, empty.
pub(super) fn chains() -> Vec<Value> {
    let chain = |name: &str, hook: &str, priority: i32| {
        let place = json!({ "family": FAMILY, "table": TABLE, "name": name });
        let mut chain = place.clone();
        for (key, value) in [
            ("type", json!("filter")),
            ("hook", json!(hook)),
            ("prio", json!(priority)),
            ("policy", json!("accept")),
        ] {
            chain[key] = value;
        }
        [json!({ "add": { "chain": chain } }), json!({ "flush": { "chain": place } })]
    };
    [chain(OPENING, "output", PRIORITY_MANGLE), chain(TRANSLATED, "prerouting", AFTER_NAT)].concat()
}

pub(super) fn set(family: Family) -> Value {
    let of = json!([address_type(family), "inet_service", address_type(family)]);
    let mut set = super::set(opening(family), of, &["timeout"]);
    set["size"] = json!(MAX_OPENING);
    set
}

/// The rules of those chains.
pub(super) fn rules(plan: &Plan, names: &Names) -> Vec<Value> {
    let mut translated = connection_packets(plan);
    let mark = json!({ "&": [{ "meta": { "key": "mark" } }, MARK_MASK] });
    translated.insert(1, json!({ "match": { "op": "!=", "left": mark, "right": plan.mark } }));
    translated.extend([count(super::ESTABLISHED), set_mark(plan), accept()]);
    let mut rules = vec![add(TRANSLATED, &translated)];
    for &family in &plan.families {
        let element = json!({ "elem": { "val": key(family), "timeout": SECONDS } });
        let remember = json!({ "set": {
            "op": "update", "elem": element, "set": format!("@{}", opening(family)) } });
        let customers = names.in_a_rule(CUSTOMERS, family);
        rules.push(add(
            OPENING,
            &[
                matches(&payload(ip(family), "saddr"), &customers),
                matches(&payload("tcp", "dport"), &json!(25)),
                syn_alone(),
                remember,
            ],
        ));
    }
    rules
}

/// A SYN as the agent sent it, which comes in again.
pub(super) fn looped_back(plan: &Plan, family: Family) -> Vec<Value> {
    vec![
        matches(&json!({ "meta": { "key": "iifname" } }), &set_of(&plan.interfaces())),
        matches(&payload("tcp", "dport"), &json!(25)),
        syn_alone(),
        matches(&key(family), &json!(format!("@{}", opening(family)))),
        count(LOOPED_BACK_DROPPED),
        json!({ "drop": null }),
    ]
}

fn key(family: Family) -> Value {
    let ip = ip(family);
    json!({ "concat": [payload(ip, "saddr"), payload("tcp", "sport"), payload(ip, "daddr")] })
}

fn opening(family: Family) -> &'static str {
    match family {
        Family::V4 => SENT[0],
        Family::V6 => SENT[1],
    }
}

fn add(chain: &str, expressions: &[Value]) -> Value {
    debug_assert_ne!(chain, CHAIN, "its rules change with the stage");
    json!({ "add": { "rule": { "family": FAMILY, "table": TABLE, "chain": chain, "expr": expressions } } })
}
