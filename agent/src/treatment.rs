//! How customers' messages are treated, by prefix: from the configuration, and as the operator switches it live.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::config::{Filter, Mode, Override, WhenUnavailable};

/// What becomes of a customer's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Treatment {
    pub mode: Mode,
    pub when_unavailable: WhenUnavailable,
}

/// A mode that was switched on by command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// `None`: all customers.
    pub prefix: Option<IpNet>,
    pub mode: Mode,
    pub until: Instant,
}

impl Switched {
    /// As `status` and the answer to the command show it.
    pub fn to_json(&self) -> Value {
        json!({
            "customers": self.customers(),
            "mode": self.mode,
            "seconds_left": self.until.saturating_duration_since(Instant::now()).as_secs(),
        })
    }

    /// Whose messages, in words.
    pub fn customers(&self) -> String {
        self.prefix.map_or_else(|| "all".to_owned(), |prefix| prefix.to_string())
    }
}

/// Everybody's treatment.
#[derive(Debug)]
pub struct Treatments {
    configured: RwLock<Configured>,
    switched: RwLock<Vec<Switched>>,
    /// Grows with every change, so that sessions notice.
    version: AtomicU64,
}

#[derive(Debug)]
struct Configured {
    all: Treatment,
    /// Longest prefixes first.
    overrides: Vec<(IpNet, Treatment)>,
}

impl Configured {
    fn new(filter: &Filter) -> Self {
        Self::of(filter.mode, filter.when_unavailable, &filter.overrides)
    }

    fn of(mode: Mode, when_unavailable: WhenUnavailable, overrides: &[Override]) -> Self {
        let all = Treatment { mode, when_unavailable };
        let treatment = |entry: &Override| Treatment {
            mode: entry.mode.unwrap_or(all.mode),
            when_unavailable: entry.when_unavailable.unwrap_or(all.when_unavailable),
        };
        let each = |entry: &Override| {
            let of = treatment(entry);
            entry.prefixes.iter().map(move |prefix| (*prefix, of)).collect::<Vec<_>>()
        };
        let mut overrides: Vec<_> = overrides.iter().flat_map(each).collect();
        overrides.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        Self { all, overrides }
    }
}

impl Treatments {
    pub fn new(filter: &Filter) -> Self {
        Self {
            configured: RwLock::new(Configured::new(filter)),
            switched: RwLock::default(),
            version: AtomicU64::new(0),
        }
    }

    /// As the configuration says now. What is switched stays.
    pub fn configure(&self, filter: &Filter) {
        *self.configured.write().unwrap_or_else(PoisonError::into_inner) = Configured::new(filter);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Changes whenever a treatment may have.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What was switched by command goes before the configuration; in both the longest prefix decides.
    pub fn of(&self, customer: IpAddr) -> Treatment {
        let customer = customer.to_canonical();
        let configured = self.configured.read().unwrap_or_else(PoisonError::into_inner);
        let longest = configured.overrides.iter().find(|(prefix, _)| prefix.contains(&customer));
        let treatment = longest.map_or(configured.all, |(_, treatment)| *treatment);
        drop(configured);
        let switched = self.switched.read().unwrap_or_else(PoisonError::into_inner);
        let fits = |entry: &&Switched| entry.prefix.is_none_or(|prefix| prefix.contains(&customer));
        let length = |entry: &&Switched| entry.prefix.map_or(0, |prefix| u16::from(prefix.prefix_len()) + 1);
        let mode = switched.iter().filter(fits).max_by_key(length).map_or(treatment.mode, |entry| entry.mode);
        Treatment { mode, ..treatment }
    }

    /// In place of what was switched for the same prefix.
    pub fn switch(&self, new: Switched) {
        let mut switched = self.switched.write().unwrap_or_else(PoisonError::into_inner);
        switched.retain(|entry| entry.prefix != new.prefix);
        switched.push(new);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Goes back to the configuration for this prefix, without one for all, and gives what is ended.
    pub fn end(&self, prefix: Option<IpNet>) -> Vec<Switched> {
        self.take(|entry| prefix.is_none() || entry.prefix == prefix)
    }

    /// Ends what was switched for a while that is over, and gives it.
    pub fn expire(&self, now: Instant) -> Vec<Switched> {
        self.take(|entry| entry.until <= now)
    }

    fn take(&self, which: impl Fn(&Switched) -> bool) -> Vec<Switched> {
        let mut switched = self.switched.write().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<_> = switched.extract_if(.., |entry| which(entry)).collect();
        if !taken.is_empty() {
            self.version.fetch_add(1, Ordering::Release);
        }
        taken
    }

    /// What is switched by command now.
    pub fn switched(&self) -> Vec<Switched> {
        self.switched.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn treatments() -> Treatments {
        let entry = |prefixes: &[&str], mode, when_unavailable| Override {
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            mode,
            when_unavailable,
        };
        let overrides = vec![
            entry(&["10.1.0.0/16", "fd01::/32"], Some(Mode::Shadow), None),
            entry(&["10.1.2.0/24"], None, Some(WhenUnavailable::Accept)),
        ];
        Treatments {
            configured: RwLock::new(Configured::of(Mode::Enforce, WhenUnavailable::Defer, &overrides)),
            switched: RwLock::default(),
            version: AtomicU64::new(0),
        }
    }

    fn mode(treatments: &Treatments, customer: &str) -> Mode {
        treatments.of(customer.parse().unwrap()).mode
    }

    #[test]
    fn the_longest_prefix_decides() {
        let treatments = treatments();
        assert_eq!(mode(&treatments, "192.0.2.1"), Mode::Enforce);
        assert_eq!(mode(&treatments, "10.1.9.9"), Mode::Shadow);
        assert_eq!(mode(&treatments, "::ffff:10.1.9.9"), Mode::Shadow);
        assert_eq!(mode(&treatments, "fd01::7"), Mode::Shadow);
        let inner = treatments.of("10.1.2.3".parse().unwrap());
        let expected = Treatment { mode: Mode::Enforce, when_unavailable: WhenUnavailable::Accept };
        assert_eq!(inner, expected, "what an override does not say is as for all");
    }

    #[test]
    fn a_switch_goes_before_the_configuration_until_it_is_over() {
        let (treatments, now) = (treatments(), Instant::now());
        let version = treatments.version();
        let (minute, inner) = (Duration::from_secs(60), "10.1.2.0/24".parse().ok());
        treatments.switch(Switched { prefix: None, mode: Mode::Bypass, until: now + minute });
        treatments.switch(Switched { prefix: inner, mode: Mode::Shadow, until: now + minute });
        treatments.switch(Switched { prefix: inner, mode: Mode::Enforce, until: now });
        assert_ne!(treatments.version(), version);
        assert_eq!(mode(&treatments, "192.0.2.1"), Mode::Bypass);
        assert_eq!(mode(&treatments, "10.1.9.9"), Mode::Bypass);
        assert_eq!(mode(&treatments, "10.1.2.3"), Mode::Enforce);
        assert_eq!(treatments.expire(now.checked_sub(Duration::from_secs(1)).unwrap()).len(), 0);
        assert_eq!(treatments.expire(now).len(), 1);
        assert_eq!(mode(&treatments, "10.1.2.3"), Mode::Bypass);
        assert_eq!(treatments.end(inner), []);
        assert_eq!(treatments.end(None).len(), 1);
        assert_eq!(mode(&treatments, "10.1.9.9"), Mode::Shadow);
        assert!(treatments.switched().is_empty());
    }
}
