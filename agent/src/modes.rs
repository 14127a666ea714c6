//! Modes that the operator switches while the agent runs: for a while, and never without a word in the log.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde_json::Value;
use tracing::{info, warn};

use crate::config::{Customers, Mode};
use crate::prefixes::Prefixes;
use crate::reminder::Reminder;
use crate::shared::Shared;
use crate::treatment::Switched;

/// For longer it is written into the configuration.
pub const MAX_DURATION: Duration = Duration::from_secs(7 * 86_400);

/// Switched at a time: every message is compared with them.
const MAX_SWITCHED: usize = 100;

/// Prefixes named in an error.
const MAX_SHOWN: usize = 10;

/// Why a mode is not switched.
#[derive(Debug, thiserror::Error)]
pub enum ModeError {
    #[error("{prefix} has bits behind its length; {} is meant?", prefix.trunc())]
    Bits { prefix: IpNet },
    #[error(
        "{prefix} has nothing in common with customers.prefixes ({}): nobody's mail from there is intercepted",
        list(customers)
    )]
    NoCustomers { prefix: IpNet, customers: Vec<IpNet> },
    #[error(
        "{seconds} s is no time for a mode: 1 s to {} d; for longer write it into the configuration, and reload",
        MAX_DURATION.as_secs() / 86_400
    )]
    Duration { seconds: u64 },
    #[error(
        "{MAX_SWITCHED} modes are switched already: end some with `weir-agent mode configured --prefix PREFIX`"
    )]
    Full,
    #[error("no mode was switched for {prefix} (`weir-agent status` shows what was)")]
    NotSwitched { prefix: IpNet },
}

/// The first few: there may be a hundred thousand.
fn list(prefixes: &[IpNet]) -> String {
    let (shown, rest) = prefixes.split_at(prefixes.len().min(MAX_SHOWN));
    let mut words: Vec<String> = shown.iter().map(ToString::to_string).collect();
    if !rest.is_empty() {
        words.push(format!("and {} more", rest.len()));
    }
    words.join(", ")
}

/// Switches modes, and alarms as long as one is switched.
pub struct Modes {
    shared: Arc<Shared>,
    customers: Mutex<Prefixes>,
    reminder: Mutex<Reminder>,
}

impl Modes {
    pub fn new(shared: Arc<Shared>, customers: &Customers) -> Self {
        Self { shared, customers: Mutex::new(Prefixes::new(&customers.prefixes)), reminder: Mutex::default() }
    }

    /// Others' mail is intercepted from now on.
    pub fn set_customers(&self, prefixes: &[IpNet]) {
        *self.customers.lock().unwrap_or_else(PoisonError::into_inner) = Prefixes::new(prefixes);
    }

    /// # Errors
    /// If there is no such customer, or it is for too long.
    pub fn switch(
        &self,
        prefix: Option<IpNet>,
        mode: Mode,
        duration: Duration,
    ) -> Result<Switched, ModeError> {
        if let Some(prefix) = prefix {
            check(prefix, &self.customers.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        if !(Duration::from_secs(1)..=MAX_DURATION).contains(&duration) {
            return Err(ModeError::Duration { seconds: duration.as_secs() });
        }
        let now = self.shared.treatments.switched();
        if now.len() >= MAX_SWITCHED && now.iter().all(|entry| entry.prefix != prefix) {
            return Err(ModeError::Full);
        }
        let switched = Switched { prefix, mode, until: Instant::now() + duration };
        self.shared.treatments.switch(switched.clone());
        alarm(&switched);
        Ok(switched)
    }

    /// Goes back to the configuration for this prefix, without one for all.
    ///
    /// # Errors
    /// If nothing was switched for the prefix.
    pub fn configured(&self, prefix: Option<IpNet>) -> Result<Vec<Switched>, ModeError> {
        let ended = self.shared.treatments.end(prefix);
        if let Some(prefix) = prefix
            && ended.is_empty()
        {
            return Err(ModeError::NotSwitched { prefix });
        }
        ended.iter().for_each(|switched| note_end(switched, "the operator has ended it"));
        Ok(ended)
    }

    /// Ends what is over, and says again what is not. To be called every second.
    pub fn sweep(&self) {
        let now = Instant::now();
        let over = self.shared.treatments.expire(now);
        over.iter().for_each(|switched| note_end(switched, "its time is over"));
        let switched = self.shared.treatments.switched();
        let mut reminder = self.reminder.lock().unwrap_or_else(PoisonError::into_inner);
        if reminder.is_due(!switched.is_empty(), now) {
            switched.iter().for_each(alarm);
        }
    }

    /// What is switched now.
    pub fn status(&self) -> Value {
        self.shared.treatments.switched().iter().map(Switched::to_json).collect()
    }
}

fn check(prefix: IpNet, customers: &Prefixes) -> Result<(), ModeError> {
    if prefix.trunc() != prefix {
        return Err(ModeError::Bits { prefix });
    }
    if !customers.touch(&prefix) {
        return Err(ModeError::NoCustomers { prefix, customers: customers.all().to_vec() });
    }
    Ok(())
}

fn alarm(switched: &Switched) {
    let seconds_left = switched.until.saturating_duration_since(Instant::now()).as_secs();
    let (customers, mode) = (switched.customers(), switched.mode.name());
    warn!(customers, mode, seconds_left, "the mode is switched by the operator's command");
}

fn note_end(switched: &Switched, why: &str) {
    let (customers, mode) = (switched.customers(), switched.mode.name());
    info!(customers, mode, why, "the mode is as configured again");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_of_customers() {
        let customers = Prefixes::new(&["10.1.0.0/16", "fd01::/32"].map(|prefix| prefix.parse().unwrap()));
        for (prefix, problem) in [
            ("10.1.2.0/24", None),
            ("10.1.0.0/16", None),
            ("10.0.0.0/8", None),
            ("0.0.0.0/0", None),
            ("fd01:0:7::/48", None),
            (
                "10.2.0.0/16",
                Some("10.2.0.0/16 has nothing in common with customers.prefixes (10.1.0.0/16, fd01::/32)"),
            ),
            ("fd02::/32", Some("fd02::/32 has nothing in common")),
            ("10.1.2.3/24", Some("10.1.2.3/24 has bits behind its length; 10.1.2.0/24 is meant?")),
        ] {
            let found = check(prefix.parse().unwrap(), &customers).map_err(|error| error.to_string());
            match problem {
                None => assert_eq!(found, Ok(()), "{prefix}"),
                Some(words) => {
                    assert!(found.as_ref().is_err_and(|error| error.starts_with(words)), "{found:?}");
                }
            }
        }
    }
}
