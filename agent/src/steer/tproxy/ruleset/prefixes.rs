//! Prefixes that are not intercepted, or refused: sets of ranges with timeouts, of which the kernel itself drops what
//! is over. What is configured and what the operator said for a while are in the same sets. A set is replaced whole, by one of
//! another name.

use serde_json::{Value, json};

use super::{COUNTERS, Names, accept, add_elements, address_type, count, ip, matches, payload};
use crate::prefixes::Prefixes;
use crate::steer::routing::Family;
use crate::steer::rules::flatten;
use crate::steer::tproxy::State;
use crate::steer::{BootTime, Refusal, RuleKind, RuleTerms, Rules};

/// A set, by what becomes of new connections that are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    BlockedDropped,
    BlockedReset,
    ExemptCustomer,
    ExemptDestination,
}

impl Set {
    const ALL: [Self; 4] =
        [Self::BlockedDropped, Self::BlockedReset, Self::ExemptCustomer, Self::ExemptDestination];

    /// Of its counter; family and number follow in the set's name.
    const fn name(self) -> &'static str {
        match self {
            Self::BlockedDropped => "blocked_dropped",
            Self::BlockedReset => "blocked_reset",
            Self::ExemptCustomer => "exempt_customer",
            Self::ExemptDestination => "exempt_destination",
        }
    }

    const fn kind(self) -> RuleKind {
        match self {
            Self::BlockedDropped | Self::BlockedReset => RuleKind::Blocked,
            Self::ExemptCustomer => RuleKind::ExemptCustomer,
            Self::ExemptDestination => RuleKind::ExemptDestination,
        }
    }

    fn has(self, refusal: Refusal) -> bool {
        match self {
            Self::BlockedDropped => refusal == Refusal::Drop,
            // There is no way to count out who is told.
            Self::BlockedReset => matches!(refusal, Refusal::Reset | Refusal::Tell),
            Self::ExemptCustomer | Self::ExemptDestination => true,
        }
    }

    /// What the set is about, in a packet of the customer's.
    const fn field(self) -> &'static str {
        match self {
            Self::BlockedDropped | Self::BlockedReset | Self::ExemptCustomer => "saddr",
            Self::ExemptDestination => "daddr",
        }
    }

    fn verdict(self) -> Value {
        match self {
            Self::BlockedDropped => json!({ "drop": null }),
            Self::BlockedReset => json!({ "reject": { "type": "tcp reset" } }),
            Self::ExemptCustomer | Self::ExemptDestination => accept(),
        }
    }
}

/// How the names of the sets begin.
pub fn names() -> impl Iterator<Item = &'static str> {
    Set::ALL.into_iter().map(Set::name)
}

/// Those of these kinds.
pub fn names_of(kinds: &[RuleKind]) -> impl Iterator<Item = &'static str> {
    Set::ALL.into_iter().filter(|set| kinds.contains(&set.kind())).map(Set::name)
}

/// Commands that make the sets of these kinds, empty.
pub fn sets(kinds: &[RuleKind], names: &Names) -> Vec<Value> {
    let mut commands = Vec::new();
    for set in names_of(kinds) {
        for family in Family::ALL {
            let set = super::set(&names.of(set, family), address_type(family), &["interval", "timeout"]);
            commands.push(json!({ "add": { "set": set } }));
        }
    }
    commands
}

/// What is done with new connections of blocked customers.
pub fn refusals(family: Family, names: &Names) -> [Vec<Value>; 2] {
    [Set::BlockedDropped, Set::BlockedReset].map(|set| rule(set, family, names))
}

/// What is done with new connections of exempt customers and to exempt destinations.
pub fn exemptions(family: Family, names: &Names) -> [Vec<Value>; 2] {
    [Set::ExemptCustomer, Set::ExemptDestination].map(|set| rule(set, family, names))
}

fn rule(set: Set, family: Family, names: &Names) -> Vec<Value> {
    let name = set.name();
    debug_assert!(COUNTERS.contains(&name), "{name} has no counter");
    vec![
        matches(&payload(ip(family), set.field()), &names.in_a_rule(name, family)),
        count(name),
        set.verdict(),
    ]
}

/// Commands that put what holds now into the sets of these kinds, which are empty.
pub fn fill(
    kinds: &[RuleKind],
    names: &Names,
    families: &[Family],
    state: &State,
    now: BootTime,
) -> Vec<Value> {
    let mut commands = Vec::new();
    for set in Set::ALL.into_iter().filter(|set| kinds.contains(&set.kind())) {
        let rules = holding(set.kind(), state, now);
        for family in families {
            let elements: Vec<Value> = flatten(&rules, *family)
                .into_iter()
                .filter(|range| set.has(range.terms.refusal))
                .map(|range| {
                    let addresses = if range.first == range.last {
                        json!(range.first.to_string())
                    } else {
                        json!({ "range": [range.first.to_string(), range.last.to_string()] })
                    };
                    if range.terms.until == BootTime::NEVER {
                        return addresses;
                    }
                    // A timeout of 0 would be none at all.
                    let timeout = range.terms.until.seconds_since(now).max(1);
                    json!({ "elem": { "val": addresses, "timeout": timeout } })
                })
                .collect();
            if !elements.is_empty() {
                commands.push(add_elements(&names.of(set.name(), *family), &elements));
            }
        }
    }
    commands
}

/// What the operator said, with what is configured.
fn holding(kind: RuleKind, state: &State, now: BootTime) -> Rules {
    let said = state.rules.get(&kind).into_iter().flatten();
    let mut rules: Rules =
        said.filter(|(_, terms)| terms.until > now).map(|(prefix, terms)| (*prefix, *terms)).collect();
    let tables = &state.tables;
    let none = Prefixes::default();
    let configured = match kind {
        RuleKind::Blocked => &none,
        RuleKind::ExemptCustomer => &tables.exempt,
        RuleKind::ExemptDestination => &tables.exempt_destinations,
    };
    let always = RuleTerms { until: BootTime::NEVER, refusal: Refusal::Drop };
    rules.extend(configured.all().iter().map(|prefix| (*prefix, always)));
    rules
}
