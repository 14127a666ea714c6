//! Customers whose messages two filter nodes failed on: they must not take down one node after the other.
//!
//! A message that fails two nodes is deferred as suspect. Its customer then waits, each time twice as long, and after that
//! has one message at a time with the nodes until one of them gives a verdict. Nobody else waits for him.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::relay::record::Record;
use crate::source::Source;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The one message that such a customer may have with the nodes: if nothing is heard of it, the next may follow.
const TRIAL: Duration = Duration::from_secs(60);

/// A customer that is quiet for so long is forgotten.
const MEMORY: Duration = Duration::from_secs(3600);

/// Customers that are remembered; of more, the one with the oldest suspect message is forgotten.
const MAX: usize = 10_000;

#[derive(Debug)]
struct Conduct {
    strikes: u32,
    struck: Instant,
    /// When he may have another message with a node.
    next: Instant,
}

#[derive(Debug, Default)]
pub struct Suspects(Mutex<BTreeMap<Source, Conduct>>);

impl Suspects {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Source, Conduct>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Customers under suspicion.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// Whether nodes are asked about a message of his now. `tries`: if so it is the one that he may have with them.
    pub fn admits(&self, customer: IpAddr, tries: bool, now: Instant) -> bool {
        let mut all = self.all();
        let Some(conduct) = all.get_mut(&Source::of(customer)) else { return true };
        let admits = conduct.next <= now;
        if admits && tries {
            conduct.next = now + TRIAL;
        }
        admits
    }

    /// What became of a message.
    pub fn note(&self, customer: IpAddr, record: &Record, now: Instant) {
        let source = Source::of(customer);
        if record.suspect {
            strike(&mut self.all(), source, now);
        } else if record.node.is_some() {
            self.all().remove(&source);
        }
    }
}

fn strike(all: &mut BTreeMap<Source, Conduct>, source: Source, now: Instant) {
    all.retain(|_, conduct| now.saturating_duration_since(conduct.struck) < MEMORY);
    if all.len() >= MAX
        && !all.contains_key(&source)
        && let Some(oldest) = all.iter().min_by_key(|(_, conduct)| conduct.struck).map(|(source, _)| *source)
    {
        all.remove(&oldest);
    }
    let conduct = all.entry(source).or_insert(Conduct { strikes: 0, struck: now, next: now });
    let pause = pause(conduct.strikes);
    // Messages that were with the nodes together are one strike.
    if conduct.strikes == 0 || now.saturating_duration_since(conduct.struck) >= pause {
        *conduct = Conduct { strikes: conduct.strikes + 1, struck: now, next: now };
        conduct.next += self::pause(conduct.strikes);
    }
}

fn pause(strikes: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << strikes.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUSTOMER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 2));

    fn struck(suspects: &Suspects, now: Instant) {
        strike(&mut suspects.all(), Source::of(CUSTOMER), now);
    }

    #[test]
    fn each_pause_is_twice_as_long_and_then_one_message_is_tried() {
        let (suspects, start) = (Suspects::default(), Instant::now());
        let mut now = start;
        assert!(suspects.admits(CUSTOMER, true, now) && suspects.admits(CUSTOMER, true, now));
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            struck(&suspects, now);
            assert!(!suspects.admits(CUSTOMER, true, now + Duration::from_millis(seconds * 1000 - 1)));
            now += Duration::from_secs(seconds);
            assert!(suspects.admits(CUSTOMER, false, now), "a question is no try");
            assert!(suspects.admits(CUSTOMER, true, now));
            assert!(!suspects.admits(CUSTOMER, true, now), "one at a time");
        }
        assert!(suspects.admits(CUSTOMER, true, now + TRIAL), "nothing was heard of it");
        assert!(suspects.admits(IpAddr::from([10, 1, 0, 3]), true, now), "somebody else");
    }

    #[test]
    fn messages_that_failed_together_are_one_strike() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        for milliseconds in 0..100 {
            struck(&suspects, now + Duration::from_millis(milliseconds));
        }
        assert!(suspects.admits(CUSTOMER, true, now + FIRST_PAUSE));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        for number in 0..MAX + 10 {
            let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
            let at = now + Duration::from_millis(number as u64);
            strike(&mut suspects.all(), Source::of([10, a, b, c].into()), at);
        }
        assert_eq!(suspects.count(), MAX);
        strike(&mut suspects.all(), Source::of(CUSTOMER), now + 2 * MEMORY);
        assert_eq!(suspects.count(), 1);
    }
}
