//! How long a message would wait for a scanner: from how long scans took, and from those in line.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How much of the mean the last scan is: one in so many.
const WEIGHT: u32 = 8;

/// No clock: whoever asks says what time it is.
#[derive(Debug)]
pub(super) struct Line {
    concurrency: usize,
    waiting: usize,
    /// When those began that are with the scanner now.
    running: BTreeMap<u64, Instant>,
    next: u64,
    mean: Option<Duration>,
}

impl Line {
    pub(super) fn new(concurrency: usize) -> Self {
        Self { concurrency, waiting: 0, running: BTreeMap::new(), next: 0, mean: None }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// How long a scan takes, as far as is known. One that hangs has not been measured yet, but when all do, the one that
    /// began last has already taken so long.
    pub(super) fn expected(&self, now: Instant) -> Duration {
        let least = if self.is_full() { self.running.values().max() } else { None };
        let age = least.map_or(Duration::ZERO, |began| now.saturating_duration_since(*began));
        self.mean.unwrap_or_default().max(age)
    }

    /// How long a message would wait that came now.
    pub(super) fn estimate(&self, now: Instant) -> Duration {
        if !self.is_full() && self.waiting == 0 {
            return Duration::ZERO;
        }
        let before = u32::try_from(self.waiting + 1).unwrap_or(u32::MAX);
        let at_a_time = u32::try_from(self.concurrency.max(1)).unwrap_or(u32::MAX);
        self.expected(now).saturating_mul(before) / at_a_time
    }

    pub(super) fn enters(&mut self) {
        self.waiting += 1;
    }

    pub(super) fn leaves(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// A scan begins; what is given back names it.
    pub(super) fn begins(&mut self, now: Instant) -> u64 {
        let scan = self.next;
        self.next += 1;
        self.running.insert(scan, now);
        scan
    }

    /// It ended. Only how long a scan took that came to its end, or to its limit, says something of the next.
    pub(super) fn ends(&mut self, scan: u64, now: Instant, measured: bool) {
        let Some(began) = self.running.remove(&scan) else { return };
        if measured {
            let took = now.saturating_duration_since(began);
            self.mean = Some(self.mean.map_or(took, |mean| (mean * (WEIGHT - 1) + took) / WEIGHT));
        }
    }

    fn is_full(&self) -> bool {
        self.running.len() >= self.concurrency
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn hung_scans_are_known_by_their_age() {
        let start = Instant::now();
        let mut line = Line::new(2);
        let first = line.begins(start);
        assert_eq!(line.estimate(start + 60 * SECOND), Duration::ZERO);
        line.begins(start + 50 * SECOND);
        line.enters();
        // The last began 10 s ago, and two are before this one.
        assert_eq!(line.estimate(start + 60 * SECOND), 10 * SECOND);
        line.ends(first, start + 60 * SECOND, false);
        assert_eq!(line.expected(start + 60 * SECOND), Duration::ZERO);
    }

    #[test]
    fn the_mean_follows_what_is_measured() {
        let start = Instant::now();
        let mut line = Line::new(1);
        for took in [8, 16] {
            let scan = line.begins(start);
            line.ends(scan, start + took * SECOND, true);
        }
        assert_eq!(line.expected(start), 9 * SECOND);
    }

    proptest! {
        /// Against a line that is played through: scans of one length, all messages at once.
        #[test]
        fn the_estimate_is_at_most_one_scan_wrong(concurrency in 1usize..20, before in 0usize..100, millis in 1u64..5000) {
            let (start, length) = (Instant::now(), Duration::from_millis(millis));
            let mut line = Line::new(concurrency);
            let measured = line.begins(start);
            line.ends(measured, start + length, true);
            let now = start + length;
            for _ in 0..before.min(concurrency) {
                line.begins(now);
            }
            for _ in concurrency..before {
                line.enters();
            }
            let turns = u32::try_from(before / concurrency).unwrap();
            let (estimate, real) = (line.estimate(now), length * turns);
            prop_assert!(estimate <= real + length && real <= estimate + length, "{estimate:?} for {real:?}");
        }
    }
}
