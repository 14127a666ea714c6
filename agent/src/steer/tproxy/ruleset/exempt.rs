//! Exempt pairs: sets with timeouts, of which the kernel itself drops what is over. They change without a change
//! of the rules.

use serde_json::{Value, json};

use super::{EXEMPT, FAMILY, TABLE, accept, address_type, count, ip, matches, payload};
use crate::steer::routing::Family;
use crate::steer::{BootTime, MAX_EXEMPT, PER_HOUR, Pair, Terms};

/// Filled by rules: what the pairs with a limit have made.
pub(super) const MADE: [&str; 2] = ["made_v4", "made_v6"];

/// Whether the pairs in a set have a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Unlimited,
    Limited,
}

impl Set {
    const BOTH: [Self; 2] = [Self::Unlimited, Self::Limited];

    fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Unlimited, Family::V4) => "exempt_v4",
            (Self::Unlimited, Family::V6) => "exempt_v6",
            (Self::Limited, Family::V4) => "limited_v4",
            (Self::Limited, Family::V6) => "limited_v6",
        }
    }
}

pub(super) fn sets(family: Family) -> [Value; 2] {
    Set::BOTH.map(|set| pairs(set.name(family), family))
}

/// Outlives changes of the rules: a bucket that is empty is not filled by them.
pub(super) fn made_set(family: Family) -> Value {
    pairs(made(family), family)
}

fn pairs(name: &str, family: Family) -> Value {
    let mut set = super::set(name, json!([address_type(family), address_type(family)]), &["timeout"]);
    set["size"] = json!(MAX_EXEMPT);
    set
}

fn made(family: Family) -> &'static str {
    match family {
        Family::V4 => MADE[0],
        Family::V6 => MADE[1],
    }
}

/// What is done with new connections of exempt pairs, set by set. A pair with a limit has a bucket of as many
/// connections, refilled over an hour; while it is empty the next rules decide.
pub(super) fn rules(family: Family) -> [Vec<Value>; 2] {
    let pair = json!({ "concat": [payload(ip(family), "saddr"), payload(ip(family), "daddr")] });
    Set::BOTH.map(|set| {
        let mut rule = vec![matches(&pair, &json!(format!("@{}", set.name(family))))];
        if set == Set::Limited {
            rule.push(json!({ "set": {
                // An element that is asked for stays; one that is forgotten after an hour would have been filled again.
                "op": "update",
                "set": format!("@{}", made(family)),
                "elem": { "elem": { "val": pair, "timeout": 3600 } },
                "stmt": [{ "limit": { "rate": PER_HOUR, "per": "hour", "burst": PER_HOUR } }],
            } }));
        }
        rule.extend([count(EXEMPT), accept()]);
        rule
    })
}

/// Commands that exempt these pairs, whether or not they were exempt.
pub fn exempt(pairs: &[(Pair, Terms)], now: BootTime) -> Vec<Value> {
    let only: Vec<Pair> = pairs.iter().map(|(pair, _)| *pair).collect();
    let mut commands = unexempt(&only);
    commands.extend(exempt_in_empty_sets(pairs, now));
    commands
}

/// As `exempt`, where the sets are empty: that takes a fifth of the time.
pub fn exempt_in_empty_sets(pairs: &[(Pair, Terms)], now: BootTime) -> Vec<Value> {
    let mut commands = Vec::new();
    for family in [Family::V4, Family::V6] {
        for set in Set::BOTH {
            let chosen = pairs
                .iter()
                .filter(|(pair, terms)| family_of(pair) == family && terms.limited == (set == Set::Limited));
            // A timeout of 0 would be none at all.
            let element = |(pair, terms): &(Pair, Terms)| {
                let timeout = terms.until.seconds_since(now).max(1);
                json!({ "elem": { "val": key(pair), "timeout": timeout } })
            };
            commands.extend(change("add", set, family, chosen.map(element).collect()));
        }
    }
    commands
}

/// Commands that end exemptions, whether or not there are any: what is not there can't be removed, what was just
/// added can.
pub fn unexempt(pairs: &[Pair]) -> Vec<Value> {
    let mut commands = Vec::new();
    for family in [Family::V4, Family::V6] {
        let keys: Vec<Value> = pairs.iter().filter(|pair| family_of(pair) == family).map(key).collect();
        for set in Set::BOTH {
            commands.extend(change("add", set, family, keys.clone()));
            commands.extend(change("delete", set, family, keys.clone()));
        }
    }
    commands
}

fn change(command: &str, set: Set, family: Family, elements: Vec<Value>) -> Option<Value> {
    let whole = |elements| {
        json!({ command: { "element": {
            "family": FAMILY, "table": TABLE, "name": set.name(family), "elem": elements } } })
    };
    (!elements.is_empty()).then(|| whole(Value::Array(elements)))
}

fn key(pair: &Pair) -> Value {
    json!({ "concat": [pair.customer().to_string(), pair.destination().to_string()] })
}

fn family_of(pair: &Pair) -> Family {
    match pair {
        Pair::V4 { .. } => Family::V4,
        Pair::V6 { .. } => Family::V6,
    }
}
