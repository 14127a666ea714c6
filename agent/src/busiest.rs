//! Who sends most just now.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::relay::record::{Record, Verdict};
use crate::source::Source;

/// What is shown is of so many spans.
const SPANS: usize = 6;

const SPAN: Duration = Duration::from_secs(10);

/// Customers counted in a span; further ones are not. Who sends much is among the first.
const MAX_CUSTOMERS: usize = 20_000;

/// Customers shown.
const SHOWN: usize = 50;

/// Messages of the last minute, by customer.
#[derive(Debug, Default)]
pub struct Busiest(Mutex<VecDeque<Span>>);

#[derive(Debug)]
struct Span {
    begun: Instant,
    customers: HashMap<Source, Counts>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub messages: u64,
    pub accepted: u64,
    pub deferred: u64,
    pub rejected: u64,
    pub octets: u64,
}

/// Of one customer.
#[derive(Debug, Serialize)]
pub struct Customer {
    pub customer: String,
    #[serde(flatten)]
    pub counts: Counts,
}

impl Counts {
    fn note(&mut self, verdict: Verdict, octets: u64) {
        self.messages += 1;
        self.octets += octets;
        match verdict {
            Verdict::Accept => self.accepted += 1,
            Verdict::Defer => self.deferred += 1,
            Verdict::Reject => self.rejected += 1,
            Verdict::None => {}
        }
    }

    fn add(&mut self, other: &Self) {
        let Self { messages, accepted, deferred, rejected, octets } = other;
        self.messages += messages;
        self.accepted += accepted;
        self.deferred += deferred;
        self.rejected += rejected;
        self.octets += octets;
    }
}

impl Busiest {
    pub fn note(&self, customer: IpAddr, record: &Record, now: Instant) {
        self.count(Source::of(customer), record.verdict, record.size, now);
    }

    fn count(&self, customer: Source, verdict: Verdict, octets: u64, now: Instant) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut spans, now);
        let is_over = |span: &Span| now.saturating_duration_since(span.begun) >= SPAN;
        if spans.back().is_none_or(is_over) {
            spans.push_back(Span { begun: now, customers: HashMap::new() });
        }
        let Some(Span { customers, .. }) = spans.back_mut() else { return };
        if customers.len() < MAX_CUSTOMERS || customers.contains_key(&customer) {
            customers.entry(customer).or_default().note(verdict, octets);
        }
    }

    /// Who sent most in the last minute, most first.
    pub fn top(&self, now: Instant) -> Vec<Customer> {
        let mut sums: HashMap<Source, Counts> = HashMap::new();
        {
            let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            forget(&mut spans, now);
            for (customer, counts) in spans.iter().flat_map(|span| &span.customers) {
                sums.entry(*customer).or_default().add(counts);
            }
        }
        let mut all: Vec<_> = sums.into_iter().collect();
        all.sort_unstable_by_key(|(customer, counts)| (Reverse(counts.messages), *customer));
        let shown = all.into_iter().take(SHOWN);
        shown.map(|(customer, counts)| Customer { customer: customer.to_string(), counts }).collect()
    }
}

fn forget(spans: &mut VecDeque<Span>, now: Instant) {
    let limit = SPAN * u32::try_from(SPANS).unwrap_or(u32::MAX);
    while spans.front().is_some_and(|span| now.saturating_duration_since(span.begun) >= limit) {
        spans.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Source {
        Source::of(IpAddr::from([10, 1, 0, last]))
    }

    #[test]
    fn a_minute_is_counted_and_no_more() {
        let (busiest, start) = (Busiest::default(), Instant::now());
        for second in 0..90 {
            busiest.count(source(1), Verdict::Accept, 10, start + Duration::from_secs(second));
        }
        busiest.count(source(2), Verdict::Reject, 1, start + Duration::from_secs(89));
        let top = busiest.top(start + Duration::from_secs(89));
        let shown: Vec<_> = top.iter().map(|one| (one.customer.as_str(), one.counts)).collect();
        let [(first, counts), second] = shown[..] else { panic!("{shown:?}") };
        assert_eq!(
            (first, counts.accepted, counts.octets),
            ("10.1.0.1", counts.messages, counts.messages * 10)
        );
        assert!((50..=60).contains(&counts.messages), "{counts:?}");
        assert_eq!(second, ("10.1.0.2", Counts { messages: 1, rejected: 1, octets: 1, ..Counts::default() }));
        assert!(busiest.top(start + Duration::from_secs(200)).is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let (busiest, now) = (Busiest::default(), Instant::now());
        let sources = (0..=u32::try_from(MAX_CUSTOMERS).unwrap())
            .map(|number| Source::of(IpAddr::from(number.to_be_bytes())));
        sources.for_each(|source| busiest.count(source, Verdict::Accept, 1, now));
        assert_eq!(busiest.top(now).len(), SHOWN);
        assert_eq!(busiest.0.lock().unwrap()[0].customers.len(), MAX_CUSTOMERS);
    }
}
