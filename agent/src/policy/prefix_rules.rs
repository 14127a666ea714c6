//! Rules for prefixes: blocked customers, exempt customers and exempt destinations, for a while, on the operator's
//! word.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use ipnet::IpNet;
use tracing::{info, warn};

use super::{Policy, PolicyError, State, check_words, locked, time};
use crate::steer::{BootTime, MAX_RULES, Refusal, RuleKind, RuleTerms, Rules, Steering};

/// What is known of a rule for a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRule {
    pub until: BootTime,
    /// How a blocked customer's connections are refused.
    pub refusal: Refusal,
    pub reason: String,
}

pub(super) type PrefixRules = BTreeMap<RuleKind, BTreeMap<IpNet, PrefixRule>>;

/// A rule as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub kind: RuleKind,
    pub prefix: IpNet,
    pub rule: PrefixRule,
    /// How often it was applied; `None` where that is not counted for each.
    pub applied: Option<u64>,
}

impl Policy {
    /// Makes a rule, or puts it in the place of an earlier one for the same prefix. After an error everything is as it
    /// was.
    pub fn add_rule(
        &self,
        steering: &Mutex<Box<dyn Steering>>,
        kind: RuleKind,
        prefix: IpNet,
        (duration, refusal, reason): (Duration, Refusal, &str),
    ) -> Result<PrefixRule, PolicyError> {
        let mut state = self.lock();
        check(&state, kind, &prefix)?;
        check_words(duration, reason)?;
        let until = BootTime::now().after(duration);
        let rule = PrefixRule { until, refusal, reason: reason.to_owned() };
        let mut rules = state.rules.get(&kind).cloned().unwrap_or_default();
        rules.insert(prefix, rule.clone());
        self.replace(&mut state, steering, kind, rules)?;
        announce(kind, &prefix, &rule);
        Ok(rule)
    }

    /// Ends a rule, also when that cannot be written down at once.
    pub fn remove_rule(
        &self,
        steering: &Mutex<Box<dyn Steering>>,
        kind: RuleKind,
        prefix: IpNet,
    ) -> Result<(), PolicyError> {
        let mut state = self.lock();
        let mut rules = state.rules.get(&kind).cloned().unwrap_or_default();
        if rules.remove(&prefix).is_none() {
            return Err(PolicyError::NoRule { kind, prefix });
        }
        locked(steering).set_rules(kind, &terms(&state, kind, &rules))?;
        state.rules.insert(kind, rules);
        note_end(kind, &prefix, "the operator has ended it");
        self.save_or_warn(&mut state);
        Ok(())
    }

    /// Has these customers be blocked as filter nodes say, in the place of those that they said before.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn block_for_nodes(
        &self,
        steering: &Mutex<Box<dyn Steering>>,
        blocks: Rules,
    ) -> Result<(), PolicyError> {
        let mut state = self.lock();
        let earlier = std::mem::replace(&mut state.by_nodes, blocks);
        let none = BTreeMap::new();
        let rules = state.rules.get(&RuleKind::Blocked).unwrap_or(&none);
        let all = terms(&state, RuleKind::Blocked, rules);
        let outcome = locked(steering).set_rules(RuleKind::Blocked, &all);
        if outcome.is_err() {
            state.by_nodes = earlier;
        }
        outcome.map_err(PolicyError::from)
    }

    /// Before the start: who is blocked by filter nodes, as far as was known.
    pub fn remember_nodes_blocks(&self, blocks: Rules) {
        self.lock().by_nodes = blocks;
    }

    /// All rules for prefixes, those that are over left out.
    pub fn list_rules(&self, steering: &Mutex<Box<dyn Steering>>) -> Vec<Listed> {
        let (state, now) = (self.lock(), BootTime::now());
        let mut listed = Vec::new();
        for (kind, rules) in &state.rules {
            let applied =
                if rules.is_empty() { Ok(BTreeMap::new()) } else { locked(steering).applied(*kind) };
            let applied = applied.unwrap_or_default();
            let holding = rules.iter().filter(|(_, rule)| rule.until > now);
            listed.extend(holding.map(|(prefix, rule)| {
                let applied = applied.get(prefix).copied();
                Listed { kind: *kind, prefix: *prefix, rule: rule.clone(), applied }
            }));
        }
        listed
    }

    /// The rules, as the kernel needs to know them.
    pub fn rules_in_force(&self) -> BTreeMap<RuleKind, Rules> {
        let (state, none) = (self.lock(), BTreeMap::new());
        let of = |kind| terms(&state, kind, state.rules.get(&kind).unwrap_or(&none));
        RuleKind::ALL
            .into_iter()
            .map(|kind| (kind, of(kind)))
            .filter(|(_, rules)| !rules.is_empty())
            .collect()
    }

    /// How many rules of a kind there are.
    pub fn count_rules(&self, kind: RuleKind) -> usize {
        self.lock().rules.get(&kind).map_or(0, BTreeMap::len)
    }

    /// Ends rules that are over.
    pub(super) fn sweep_rules(&self, state: &mut State, steering: &Mutex<Box<dyn Steering>>, now: BootTime) {
        for kind in RuleKind::ALL {
            let rules = state.rules.get(&kind).into_iter().flatten();
            let (over, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
                rules.map(|(prefix, rule)| (*prefix, rule.clone())).partition(|(_, rule)| rule.until <= now);
            if over.is_empty() {
                continue;
            }
            if let Err(error) = locked(steering).set_rules(kind, &terms(state, kind, &rest)) {
                warn!(%error, "what is left of rules that are over could not be removed");
                continue;
            }
            state.rules.insert(kind, rest);
            over.keys().for_each(|prefix| note_end(kind, prefix, "its time is over"));
            state.unsaved = true;
        }
    }

    fn replace(
        &self,
        state: &mut State,
        steering: &Mutex<Box<dyn Steering>>,
        kind: RuleKind,
        rules: BTreeMap<IpNet, PrefixRule>,
    ) -> Result<(), PolicyError> {
        locked(steering).set_rules(kind, &terms(state, kind, &rules))?;
        let earlier = state.rules.insert(kind, rules).unwrap_or_default();
        if let Err(error) = self.save(state) {
            locked(steering).set_rules(kind, &terms(state, kind, &earlier))?;
            state.rules.insert(kind, earlier);
            return Err(error);
        }
        Ok(())
    }
}

/// With what filter nodes say of customers: a prefix that both block is so as long as either says, and as the operator says.
fn terms(state: &State, kind: RuleKind, rules: &BTreeMap<IpNet, PrefixRule>) -> Rules {
    let mut all = match kind {
        RuleKind::Blocked => state.by_nodes.clone(),
        RuleKind::ExemptCustomer | RuleKind::ExemptDestination => Rules::new(),
    };
    for (prefix, rule) in rules {
        let until = all.get(prefix).map_or(rule.until, |other| other.until.max(rule.until));
        all.insert(*prefix, RuleTerms { until, refusal: rule.refusal });
    }
    all
}

fn check(state: &State, kind: RuleKind, prefix: &IpNet) -> Result<(), PolicyError> {
    if prefix.trunc() != *prefix {
        return Err(PolicyError::Bits { prefix: *prefix });
    }
    if kind != RuleKind::Blocked && prefix.prefix_len() == 0 {
        return Err(PolicyError::Everybody { prefix: *prefix });
    }
    if kind != RuleKind::ExemptDestination && !state.customers.touch(prefix) {
        return Err(PolicyError::NoCustomers { prefix: *prefix });
    }
    let rules = state.rules.get(&kind);
    if rules.is_some_and(|rules| rules.len() >= MAX_RULES && !rules.contains_key(prefix)) {
        return Err(PolicyError::RulesFull);
    }
    Ok(())
}

fn announce(kind: RuleKind, prefix: &IpNet, rule: &PrefixRule) {
    let (until, reason) = (time::rfc3339(rule.until), &rule.reason);
    match kind {
        RuleKind::Blocked => {
            let how = refusal_name(rule.refusal);
            info!(customers = %prefix, until, how, reason, "blocked: new connections are refused");
        }
        RuleKind::ExemptCustomer => {
            info!(customers = %prefix, until, reason, "exempt: new connections go straight");
        }
        RuleKind::ExemptDestination => {
            info!(destinations = %prefix, until, reason, "exempt: new connections go straight");
        }
    }
}

fn note_end(kind: RuleKind, prefix: &IpNet, why: &str) {
    match kind {
        RuleKind::Blocked => info!(customers = %prefix, why, "blocked no more"),
        RuleKind::ExemptCustomer => {
            info!(customers = %prefix, why, "exempt no more: new connections are intercepted");
        }
        RuleKind::ExemptDestination => {
            info!(destinations = %prefix, why, "exempt no more: new connections are intercepted");
        }
    }
}

/// As operators see it.
pub fn refusal_name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Drop => "drop",
        Refusal::Reset => "reset",
        Refusal::Tell => "tell",
    }
}

/// As operators and the state file have it.
pub fn kind_name(kind: RuleKind) -> &'static str {
    match kind {
        RuleKind::Blocked => "blocked",
        RuleKind::ExemptCustomer => "exempt_customer",
        RuleKind::ExemptDestination => "exempt_destination",
    }
}
