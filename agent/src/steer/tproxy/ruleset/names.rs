//! What the sets of prefixes are called. One that takes the place of another has another number in its name. It is made in a
//! transaction, the rules that ask it come in the next, and the other one goes in a third, since what the kernel finds in a set
//! of ranges does not change in one moment with the rules:
//!
//! - while a range is in a set twice, as it was and as it will be, old kernels (seen on Linux 6.1 and 6.12) find neither;
//! - what is new is found a moment after the rules are new (seen on Linux 6.18);
//! - a packet that is in the old rules at that moment asks the old set.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{FAMILY, TABLE, prefixes};
use crate::steer::routing::Family;

/// The set of the customers' prefixes; the family and the number follow in its name, as with the sets of [`prefixes`].
pub(in crate::steer::tproxy) const CUSTOMERS: &str = "customers";

/// Of the sets of prefixes that are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::steer::tproxy) struct Names {
    numbers: BTreeMap<&'static str, u32>,
    next: u32,
}

impl Names {
    /// None of which is one of `present`.
    pub(in crate::steer::tproxy) fn beside(present: &[String]) -> Self {
        let numbers = present.iter().filter_map(|name| name.rsplit('_').next()?.parse::<u32>().ok());
        let number = numbers.max().map_or(0, |last| last.wrapping_add(1));
        Self { numbers: beginnings().map(|name| (name, number)).collect(), next: number.wrapping_add(1) }
    }

    /// With other names for these.
    pub(in crate::steer::tproxy) fn with_new(&self, sets: impl IntoIterator<Item = &'static str>) -> Self {
        let mut names = self.clone();
        names.numbers.extend(sets.into_iter().map(|set| (set, self.next)));
        names.next = self.next.wrapping_add(1);
        names
    }

    /// Has the next names be others than these and those before them.
    pub(in crate::steer::tproxy) fn leave_out(&mut self, names: &Self) {
        self.next = names.next;
    }

    pub(super) fn of(&self, set: &'static str, family: Family) -> String {
        let number = self.numbers.get(set).copied().unwrap_or_default();
        match family {
            Family::V4 => format!("{set}_v4_{number}"),
            Family::V6 => format!("{set}_v6_{number}"),
        }
    }

    pub(super) fn in_a_rule(&self, set: &'static str, family: Family) -> Value {
        json!(format!("@{}", self.of(set, family)))
    }

    /// All of them.
    pub(in crate::steer::tproxy) fn all(&self) -> Vec<String> {
        Family::ALL.into_iter().flat_map(|family| beginnings().map(move |set| self.of(set, family))).collect()
    }

    /// Those among the sets of a table that were called otherwise.
    pub(in crate::steer::tproxy) fn replaced(&self, present: &[String]) -> Vec<String> {
        let used = self.all();
        let is_ours = |name: &&String| beginnings().any(|set| name.starts_with(set));
        present.iter().filter(is_ours).filter(|name| !used.contains(name)).cloned().collect()
    }
}

/// Commands that remove sets of which no rule knows any more.
pub(in crate::steer::tproxy) fn delete(sets: &[String]) -> Vec<Value> {
    let set =
        |name: &String| json!({ "delete": { "set": { "family": FAMILY, "table": TABLE, "name": name } } });
    sets.iter().map(set).collect()
}

fn beginnings() -> impl Iterator<Item = &'static str> {
    [CUSTOMERS].into_iter().chain(prefixes::names())
}
