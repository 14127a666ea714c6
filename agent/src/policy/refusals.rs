//! Whose mail a filter node has refused lately: such a customer is not exempted by itself.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::relay::record::{Record, Verdict};

/// How long a refusal counts.
const MEMORY: Duration = Duration::from_secs(86_400);

/// Sources remembered; when there are more, the one whose last refusal is the oldest is forgotten, and counts as one
/// that had none.
const MAX_SOURCES: usize = 100_000;

/// A customer as far as his conduct goes: an IPv4 address or an IPv6 /64, of which he has every address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
    pub fn of(customer: IpAddr) -> Self {
        Self(match customer.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        })
    }

    /// First and last address.
    pub fn range(self) -> (IpAddr, IpAddr) {
        let last = match self.0 {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() | u128::from(u64::MAX)).into(),
        };
        (self.0, last)
    }
}

#[derive(Debug, Default)]
pub struct Refusals {
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    /// The number of each source's last refusal.
    last: HashMap<Source, u64>,
    /// By number, which is by age.
    by_age: BTreeMap<u64, (Source, Instant)>,
    next: u64,
    /// Sources refused since somebody asked.
    news: Vec<Source>,
}

impl Refusals {
    /// Remembers the customer if a node refused the message. What weir refused in a node's place, or the
    /// destination, says nothing of the customer.
    pub fn note(&self, customer: IpAddr, record: &Record) {
        let refused = matches!(record.verdict, Verdict::Reject | Verdict::Defer);
        if refused && record.node.is_some() && record.failure.is_none() {
            self.add(Source::of(customer), Instant::now());
        }
    }

    pub(super) fn add(&self, source: Source, now: Instant) {
        let mut history = self.lock();
        let number = history.next;
        history.next += 1;
        if let Some(earlier) = history.last.insert(source, number) {
            history.by_age.remove(&earlier);
        }
        history.by_age.insert(number, (source, now));
        if history.last.len() > MAX_SOURCES
            && let Some((_, (oldest, _))) = history.by_age.pop_first()
        {
            history.last.remove(&oldest);
        }
        if history.news.len() < MAX_SOURCES {
            history.news.push(source);
        }
    }

    /// Whether a message of this source was refused in the last 24 hours.
    pub(super) fn is_recent(&self, source: Source, now: Instant) -> bool {
        let history = self.lock();
        let when = history.last.get(&source).and_then(|number| history.by_age.get(number));
        when.is_some_and(|(_, when)| now.saturating_duration_since(*when) < MEMORY)
    }

    /// Sources refused since the last call.
    pub(super) fn take_news(&self) -> Vec<Source> {
        std::mem::take(&mut self.lock().news)
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn a_source_is_an_address_or_a_slash_64() {
        assert_eq!(source("10.1.0.2"), source("::ffff:10.1.0.2"));
        assert_ne!(source("10.1.0.2"), source("10.1.0.3"));
        assert_eq!(source("fd01::2"), source("fd01::ffff:0:0:3"));
        assert_ne!(source("fd01::2"), source("fd01:0:0:1::2"));
        let (first, last) = source("fd01::2").range();
        assert_eq!(
            (first.to_string().as_str(), last.to_string().as_str()),
            ("fd01::", "fd01::ffff:ffff:ffff:ffff")
        );
    }

    #[test]
    fn a_refusal_counts_for_a_day() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        refusals.add(source("fd01::2"), now);
        assert!(refusals.is_recent(source("fd01::3"), now + MEMORY - Duration::from_secs(1)));
        assert!(!refusals.is_recent(source("fd01::3"), now + MEMORY));
        assert!(!refusals.is_recent(source("fd02::2"), now));
        assert_eq!(refusals.take_news(), [source("fd01::2")]);
        assert_eq!(refusals.take_news(), []);
    }

    #[test]
    fn the_oldest_give_way() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let numbered = |number: usize| Source::of(IpAddr::from(u32::try_from(number).unwrap().to_be_bytes()));
        for number in 0..MAX_SOURCES {
            refusals.add(numbered(number), now);
        }
        refusals.add(numbered(0), now);
        refusals.add(numbered(MAX_SOURCES), now);
        assert!(refusals.is_recent(numbered(0), now), "refused again");
        assert!(!refusals.is_recent(numbered(1), now), "the oldest");
        assert!(refusals.is_recent(numbered(2), now));
        let history = refusals.lock();
        assert_eq!((history.last.len(), history.by_age.len()), (MAX_SOURCES, MAX_SOURCES));
    }
}
