//! The copies of one message, as far as they are kept.

use super::Sighting;
use super::rule::{HOUR, Measures};

/// Copies that are kept; of more the oldest go.
const MAX_COPIES: usize = 256;

/// Hours that are counted.
const HOURS: usize = 24;

/// Bits that customers are spread over, to count them.
const BITS: u32 = 1024;

#[derive(Debug, Clone, Copy)]
struct Copy {
    at: u64,
    customer: u32,
    source: u32,
    recipient: u32,
    domain: u32,
}

#[derive(Debug)]
pub(super) struct Cluster {
    first: u64,
    pub(super) last: u64,
    copies: Vec<Copy>,
    /// Messages of each of the last hours, by the hour's number modulo their count.
    hours: [u32; HOURS],
    hour: u64,
    /// None before the second customer.
    seen: Option<Box<[u64; (BITS / 64) as usize]>>,
    outbreak: Option<u64>,
}

impl Cluster {
    pub(super) fn new(now: u64) -> Self {
        Self {
            first: now,
            last: now,
            copies: Vec::new(),
            hours: [0; HOURS],
            hour: now / HOUR,
            seen: None,
            outbreak: None,
        }
    }

    /// One message more.
    pub(super) fn count(&mut self, sighting: &Sighting, now: u64) {
        self.last = self.last.max(now);
        self.turn_to(now / HOUR);
        let slot = self.slot(self.hour);
        self.hours[slot] = self.hours[slot].saturating_add(1);
        let (customer, source) = (short(sighting.customer), short(sighting.source));
        for (recipient, domain) in &sighting.recipients {
            let (recipient, domain) = (short(*recipient), short(*domain));
            // Told again, it is the same copy, now.
            self.copies.retain(|copy| (copy.customer, copy.recipient) != (customer, recipient));
            if self.copies.len() >= MAX_COPIES {
                self.copies.remove(0);
            }
            self.copies.push(Copy { at: now, customer, source, recipient, domain });
        }
        self.mark(customer);
    }

    /// `since`: when counting began.
    pub(super) fn measures(&self, now: u64, since: u64) -> Measures {
        let recent = || self.copies.iter().filter(|copy| copy.at.saturating_add(HOUR) > now);
        let before = || {
            (1..HOURS as u64)
                .filter_map(|back| self.hour.checked_sub(back))
                .map(|hour| self.hours[self.slot(hour)])
        };
        let active = before().filter(|count| *count > 0).count();
        let sum: u32 = before().fold(0, u32::saturating_add);
        Measures {
            copies: count(recent().map(|copy| u64::from(copy.customer) << 32 | u64::from(copy.recipient))),
            customers: count(recent().map(|copy| copy.customer.into())),
            sources: count(recent().map(|copy| copy.source.into())),
            domains: count(recent().map(|copy| copy.domain.into())),
            age: now.saturating_sub(self.first),
            usual: f64::from(sum) / (active.max(1)) as f64,
            active_hours: u32::try_from(active).unwrap_or(u32::MAX),
            ever: self.ever(),
            this_hour: self.hours[self.slot(self.hour)],
            since_outbreak: self.outbreak.map(|at| now.saturating_sub(at)),
            watched: now.saturating_sub(since),
        }
    }

    pub(super) fn is_outbreak(&mut self, now: u64) {
        self.outbreak = Some(now);
    }

    /// How much would be lost with it.
    pub(super) fn worth(&self) -> (bool, usize, u64) {
        (self.outbreak.is_some(), self.copies.len().min(8), self.last)
    }

    /// Forgets a customer: his address has a new owner.
    pub(super) fn forget(&mut self, customer: u64) {
        self.copies.retain(|copy| copy.customer != short(customer));
    }

    fn turn_to(&mut self, hour: u64) {
        let passed = hour.saturating_sub(self.hour).min(HOURS as u64);
        for back in 0..passed {
            let slot = self.slot(hour - back);
            self.hours[slot] = 0;
        }
        self.hour = self.hour.max(hour);
    }

    fn slot(&self, hour: u64) -> usize {
        usize::try_from(hour % HOURS as u64).unwrap_or_default()
    }

    fn mark(&mut self, customer: u32) {
        if self.seen.is_none() && self.copies.iter().all(|copy| copy.customer == customer) {
            return;
        }
        let first = self.copies.first().map(|copy| copy.customer);
        let seen = self.seen.get_or_insert_default();
        for customer in first.into_iter().chain([customer]) {
            let bit = customer % BITS;
            seen[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    /// By the bits that are still free (linear counting).
    fn ever(&self) -> u32 {
        let Some(seen) = &self.seen else { return 1 };
        let set: u32 = seen.iter().map(|word| word.count_ones()).sum();
        let free = f64::from(BITS.saturating_sub(set).max(1)) / f64::from(BITS);
        let estimate = -f64::from(BITS) * free.ln();
        // At most 7,098, with one bit free.
        let mut rounded = set;
        while f64::from(rounded) < estimate {
            rounded += 1;
        }
        rounded
    }
}

fn count(numbers: impl Iterator<Item = u64>) -> u32 {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers.dedup();
    u32::try_from(numbers.len()).unwrap_or(u32::MAX)
}

fn short(hash: u64) -> u32 {
    (hash >> 32) as u32
}
