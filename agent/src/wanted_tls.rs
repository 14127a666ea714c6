//! Who would have used TLS: a customer that asked for STARTTLS, or left after EHLO without it, where the
//! destination offers it. Such mail is stuck while the pair is intercepted, so the operator must see it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Pairs remembered; when there are more, the one seen least gives way.
const MAX_PAIRS: usize = 10_000;

/// Pairs shown in `status`.
const SHOWN: usize = 20;

#[derive(Debug, Default)]
pub struct WantedTls {
    pairs: Mutex<HashMap<(IpAddr, IpAddr), u64>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Pair {
    pub customer: IpAddr,
    pub destination: IpAddr,
    pub sessions: u64,
}

impl WantedTls {
    pub fn note(&self, customer: IpAddr, destination: IpAddr) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (customer, destination);
        if pairs.len() >= MAX_PAIRS && !pairs.contains_key(&key) {
            let least = pairs.iter().min_by_key(|(_, sessions)| **sessions).map(|(pair, _)| *pair);
            least.and_then(|pair| pairs.remove(&pair));
        }
        *pairs.entry(key).or_default() += 1;
    }

    /// The pairs with the most sessions, most first.
    pub fn top(&self) -> Vec<Pair> {
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = |(&(customer, destination), &sessions): (&(IpAddr, IpAddr), &u64)| Pair {
            customer,
            destination,
            sessions,
        };
        let mut top: Vec<Pair> = pairs.iter().map(pair).collect();
        top.sort_by_key(|pair| (std::cmp::Reverse(pair.sessions), pair.customer, pair.destination));
        top.truncate(SHOWN);
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_pairs_are_kept_and_shown_first() {
        let (wanted, destination) = (WantedTls::default(), IpAddr::from([10, 2, 0, 2]));
        let customer = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..u32::try_from(MAX_PAIRS).unwrap() {
            wanted.note(customer(number), destination);
        }
        for _ in 0..3 {
            wanted.note(customer(7), destination);
        }
        wanted.note(customer(u32::MAX), destination);
        let top = wanted.top();
        assert_eq!((top.len(), top[0].customer, top[0].sessions), (SHOWN, customer(7), 4));
        assert_eq!(wanted.pairs.lock().unwrap().len(), MAX_PAIRS);
    }
}
