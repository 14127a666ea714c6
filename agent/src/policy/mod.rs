//! Who is exempt from interception, or blocked: what the operator said, and what the agent found out where
//! `relay.wanted_tls = "exempt"`. It is changed while the agent runs, takes effect in the kernel at once, and is kept
//! in a file for the next start.
//!
//! Rules: pairs of a customer and a destination whose new connections go straight, customers and destinations that are
//! exempt as prefixes, and blocked customers, whose new connections are refused.

mod automatic;
mod error;
pub(crate) mod file;
mod prefix_rules;
mod refusals;
mod release;
mod rules;
#[cfg(test)]
mod tests;
pub mod time;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::config::{Backend, Config};
use crate::prefixes::Prefixes;
use crate::reminder::Reminder;
use crate::source::Source;
use crate::steer::{BootTime, MAX_EXEMPT, Pair, Rules, Steering, Terms};

use prefix_rules::PrefixRules;
use rules::Kept;

pub use error::PolicyError;
pub use prefix_rules::{Listed, PrefixRule, kind_name, refusal_name};
pub use refusals::Refusals;
pub use release::Release;

/// Whoever wants it for longer leaves the customer out of `customers.prefixes`.
const MAX_DURATION: Duration = Duration::from_secs(365 * 86_400);

/// Characters of a reason.
const MAX_REASON: usize = 200;

/// Who made a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Author {
    Operator,
    /// The agent, because the customer wanted TLS.
    WantedTls,
}

impl Author {
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::WantedTls => "wanted_tls",
        }
    }
}

/// What is known of an exempt pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exemption {
    pub until: BootTime,
    pub by: Author,
    pub reason: String,
}

impl Exemption {
    /// What the kernel needs to know of it: the operator's exemptions have no limit.
    fn terms(&self) -> Terms {
        Terms { until: self.until, limited: self.by == Author::WantedTls }
    }
}

type Pairs = BTreeMap<Pair, Exemption>;

/// The rules in force. Steering is always changed with the rules locked, so that both say the same.
#[derive(Debug)]
pub struct Policy {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pairs: Pairs,
    rules: PrefixRules,
    /// Blocks of filter nodes, which are kept elsewhere.
    by_nodes: Rules,
    /// Whose mail is intercepted.
    customers: Prefixes,
    /// Where the file of the last run is, if it could not be read.
    lost: Option<PathBuf>,
    reminder: Reminder,
    /// Changed since the file was written.
    unsaved: bool,
    /// Sources refused since the last sweep.
    refused: Vec<Source>,
}

impl Policy {
    /// The rules of the last run that are not over. Whatever is wrong with the file is said in the log, and no reason
    /// not to start. Where the rules that steer are the operator's own there are none of ours.
    pub fn of(config: &Config) -> Self {
        let (directory, prefixes) = (&config.state.directory, &config.customers.prefixes);
        match config.steering.backend {
            Backend::Ebpf | Backend::Tproxy => Self::open(directory, prefixes),
            Backend::External => {
                let state = State { customers: Prefixes::new(prefixes), ..State::default() };
                Self { file: directory.join(rules::NAME), state: Mutex::new(state) }
            }
        }
    }

    fn open(directory: &Path, prefixes: &[IpNet]) -> Self {
        let (file, customers) = (directory.join(rules::NAME), Prefixes::new(prefixes));
        let Kept { mut pairs, rules, lost } = rules::load(&file);
        pairs.retain(|pair, _| {
            let intercepted = customers.contain(pair.customer());
            if !intercepted {
                let (customer, destination) = (pair.customer(), pair.destination());
                warn!(%customer, %destination, "exempt pair dropped: the customer is in no prefix any more");
            }
            intercepted
        });
        if pairs.len() > MAX_EXEMPT {
            warn!(pairs = pairs.len(), "more exempt pairs than {MAX_EXEMPT}: the others are dropped");
            pairs = pairs.into_iter().take(MAX_EXEMPT).collect();
        }
        Self { file, state: Mutex::new(State { pairs, rules, customers, lost, ..State::default() }) }
    }

    /// Others' mail is intercepted from now on. What was said of those that are no customers any more stays, and says
    /// nothing.
    pub fn set_customers(&self, prefixes: &[IpNet]) {
        self.lock().customers = Prefixes::new(prefixes);
    }

    /// What is wrong with what is known, in words, as long as this agent runs.
    pub fn problem(&self) -> Option<String> {
        let lost = self.lock().lost.clone()?;
        Some(format!(
            "what the last run kept could not be read ({}): who was blocked is not, who was exempt is intercepted",
            lost.display()
        ))
    }

    /// For steering that is about to be installed.
    pub fn in_force(&self) -> Vec<(Pair, Terms)> {
        self.lock().pairs.iter().map(|(pair, exemption)| (*pair, exemption.terms())).collect()
    }

    /// How many connections these pairs made, where that is counted for each.
    pub fn passed(&self, steering: &Mutex<Box<dyn Steering>>, pairs: &[Pair]) -> BTreeMap<Pair, u64> {
        locked(steering).passed(pairs).unwrap_or_default()
    }

    /// All exempt pairs, those that are over left out.
    pub fn list(&self) -> Vec<(Pair, Exemption)> {
        let (state, now) = (self.lock(), BootTime::now());
        let holds = |(_, exemption): &(&Pair, &Exemption)| exemption.until > now;
        state.pairs.iter().filter(holds).map(|(pair, exemption)| (*pair, exemption.clone())).collect()
    }

    /// How many pairs are exempt.
    pub fn count(&self) -> usize {
        self.lock().pairs.len()
    }

    /// Until when a pair is exempt, if it is.
    pub fn exempt_until(&self, pair: &Pair) -> Option<BootTime> {
        let until = self.lock().pairs.get(pair)?.until;
        (until > BootTime::now()).then_some(until)
    }

    /// Exempts a pair because the operator says so. After an error everything is as it was.
    pub fn exempt(
        &self,
        steering: &Mutex<Box<dyn Steering>>,
        pair: Pair,
        duration: Duration,
        reason: &str,
    ) -> Result<Exemption, PolicyError> {
        let mut state = self.lock();
        if !state.customers.contain(pair.customer()) {
            return Err(PolicyError::NoCustomer { customer: pair.customer() });
        }
        check_words(duration, reason)?;
        if state.pairs.len() >= MAX_EXEMPT && !state.pairs.contains_key(&pair) {
            return Err(PolicyError::Full);
        }
        let until = BootTime::now().after(duration);
        let exemption = Exemption { until, by: Author::Operator, reason: reason.to_owned() };
        locked(steering).exempt(&[(pair, exemption.terms())])?;
        let earlier = state.pairs.insert(pair, exemption.clone());
        if let Err(error) = self.save(&mut state) {
            match earlier {
                Some(earlier) => {
                    locked(steering).exempt(&[(pair, earlier.terms())])?;
                    state.pairs.insert(pair, earlier);
                }
                None => {
                    locked(steering).unexempt(&[pair])?;
                    state.pairs.remove(&pair);
                }
            }
            return Err(error);
        }
        announce(&pair, &exemption);
        Ok(exemption)
    }

    /// Ends an exemption, also when that cannot be written down at once.
    pub fn unexempt(&self, steering: &Mutex<Box<dyn Steering>>, pair: Pair) -> Result<(), PolicyError> {
        let mut state = self.lock();
        if !state.pairs.contains_key(&pair) {
            return Err(PolicyError::NotExempt {
                customer: pair.customer(),
                destination: pair.destination(),
            });
        }
        locked(steering).unexempt(&[pair])?;
        state.pairs.remove(&pair);
        note_end(&pair, "the operator has ended it");
        self.save_or_warn(&mut state);
        Ok(())
    }

    /// Has all that is known on the disk, for another agent.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn settle(&self) -> Result<(), PolicyError> {
        let mut state = self.lock();
        if state.unsaved { self.save(&mut state) } else { Ok(()) }
    }

    /// Another agent has read the file, and may have set it aside: then the next sweep writes it anew.
    pub(crate) fn unsettle(&self) {
        let mut state = self.lock();
        let is_empty = state.pairs.is_empty() && state.rules.is_empty();
        state.unsaved |= !is_empty && !self.file.exists();
    }

    /// What is not on the disk is tried again with the next sweep, and lost if the agent ends before: no reason to
    /// leave mail stuck, or unjudged.
    fn save_or_warn(&self, state: &mut State) {
        if let Err(error) = self.save(state) {
            warn!(%error, "the next start will not know who is exempt or blocked");
        }
    }

    fn save(&self, state: &mut State) -> Result<(), PolicyError> {
        state.unsaved = true;
        rules::save(&self.file, &state.pairs, &state.rules)
            .map_err(|source| PolicyError::File { path: self.file.clone(), source })?;
        state.unsaved = false;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_words(duration: Duration, reason: &str) -> Result<(), PolicyError> {
    if !(Duration::from_secs(1)..=MAX_DURATION).contains(&duration) {
        return Err(PolicyError::Duration { seconds: duration.as_secs() });
    }
    if reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
        return Err(PolicyError::Reason);
    }
    Ok(())
}

fn locked(steering: &Mutex<Box<dyn Steering>>) -> MutexGuard<'_, Box<dyn Steering>> {
    steering.lock().unwrap_or_else(PoisonError::into_inner)
}

fn announce(pair: &Pair, exemption: &Exemption) {
    let (customer, destination) = (pair.customer(), pair.destination());
    let (until, by) = (time::rfc3339(exemption.until), exemption.by.name());
    info!(%customer, %destination, until, by, reason = exemption.reason, "exempt: new connections go straight");
}

fn note_end(pair: &Pair, why: &str) {
    let (customer, destination) = (pair.customer(), pair.destination());
    info!(%customer, %destination, why, "exempt no more: new connections are intercepted");
}
