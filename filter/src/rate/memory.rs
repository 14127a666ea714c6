//! Counts in this process's memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;

use super::{Answer, Ask, Away, BUCKETS, Counters, Moment};

/// When the store is full, this many keys are looked at and the one unused for longest goes.
const EVICTION_SAMPLE: usize = 8;

/// Least time between two searches for expired keys in a full store: each looks at every key.
const SWEEP_PAUSE: u64 = 10_000;

/// Bounded by the number of keys; one that has nothing in its longest window left is forgotten.
#[derive(Debug)]
pub struct Memory {
    max_keys: usize,
    store: Mutex<Store>,
}

/// How full a [`Memory`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub keys: usize,
    /// Keys forgotten before their time, for want of room.
    pub evicted: u64,
}

#[derive(Debug, Default)]
struct Store {
    namespaces: HashMap<Box<str>, Namespace>,
    keys: usize,
    evicted: u64,
    swept: u64,
    dice: Dice,
}

/// Which keys are looked at when one has to go; nothing depends on their being unpredictable.
#[derive(Debug, Default)]
struct Dice(u64);

/// All keys of a namespace have the windows it was ever asked with: what is counted with one is
/// read with another.
#[derive(Debug, Default)]
struct Namespace {
    windows: Vec<u64>,
    keys: IndexMap<Box<str>, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// One for each window of the namespace, in the same order; may lack the newest.
    series: Vec<Series>,
    last: u64,
}

/// Counts in the buckets of one window, oldest first; empty buckets take no room.
#[derive(Debug)]
struct Series {
    width: u64,
    buckets: Vec<(u64, u64)>,
}

impl Memory {
    pub fn new(max_keys: usize) -> Self {
        Self { max_keys: max_keys.max(1), store: Mutex::new(Store::default()) }
    }

    pub fn usage(&self) -> Usage {
        let store = self.lock();
        Usage { keys: store.keys, evicted: store.evicted }
    }

    /// Forgets keys whose windows are empty. Called now and then; correctness does not need it.
    pub fn sweep(&self, now: Moment) {
        self.lock().sweep(now.0);
    }

    pub fn ask(&self, ask: Ask<'_>, now: Moment) -> Answer {
        self.lock().ask(ask, now.0, self.max_keys)
    }

    /// Counts stay usable after a panic elsewhere: each call leaves them whole.
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters for Memory {
    async fn rate(&self, ask: Ask<'_>, now: Moment) -> Result<Answer, Away> {
        Ok(self.ask(ask, now))
    }
}

impl Store {
    fn ask(&mut self, ask: Ask<'_>, now: u64, max_keys: usize) -> Answer {
        let namespace = self.namespaces.entry(ask.namespace.into()).or_default();
        let window = namespace.window(ask.seconds);
        let entry = namespace.keys.get_mut(ask.key);
        let sum = entry.map_or(0, |entry| {
            entry.complete(&namespace.windows, now);
            entry.series[window].sum(now)
        });
        let after = sum.saturating_add(ask.weight);
        if ask.limit == 0 || after > ask.limit {
            return Answer { within: false, sum };
        }
        self.count(ask, now, max_keys);
        Answer { within: true, sum: after }
    }

    fn count(&mut self, ask: Ask<'_>, now: u64, max_keys: usize) {
        let known = self.namespaces.get(ask.namespace).is_some_and(|space| space.keys.contains_key(ask.key));
        if !known {
            if self.keys >= max_keys {
                self.make_room(now);
            }
            self.keys += 1;
        }
        let namespace = self.namespaces.entry(ask.namespace.into()).or_default();
        let entry = namespace.keys.entry(ask.key.into()).or_default();
        entry.complete(&namespace.windows, now);
        entry.last = now;
        for series in &mut entry.series {
            series.add(now, ask.weight);
        }
    }

    fn make_room(&mut self, now: u64) {
        if now >= self.swept.saturating_add(SWEEP_PAUSE) {
            let before = self.keys;
            self.sweep(now);
            if self.keys < before {
                return;
            }
        }
        let fullest = self.namespaces.values_mut().max_by_key(|namespace| namespace.keys.len());
        let Some(namespace) = fullest.filter(|namespace| !namespace.keys.is_empty()) else { return };
        let count = namespace.keys.len();
        let sample = (0..EVICTION_SAMPLE).map(|_| self.dice.below(count));
        let oldest = sample.min_by_key(|at| namespace.keys.get_index(*at).map(|(_, entry)| entry.last));
        if let Some(at) = oldest {
            namespace.keys.swap_remove_index(at);
            self.keys -= 1;
            self.evicted += 1;
        }
    }

    fn sweep(&mut self, now: u64) {
        self.swept = now;
        for namespace in self.namespaces.values_mut() {
            let longest =
                namespace.windows.iter().copied().max().map_or(0, |seconds| width(seconds) * (BUCKETS + 1));
            namespace.keys.retain(|_, entry| entry.last.saturating_add(longest) > now);
        }
        self.keys = self.namespaces.values().map(|namespace| namespace.keys.len()).sum();
    }
}

impl Dice {
    /// The next of a splitmix64 sequence, below `count`.
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed >> 32) % count.max(1) as u64).unwrap_or(0)
    }
}

impl Namespace {
    /// The index of a window, which is new at its first use.
    fn window(&mut self, seconds: u64) -> usize {
        self.windows.iter().position(|known| *known == seconds).unwrap_or_else(|| {
            self.windows.push(seconds);
            self.windows.len() - 1
        })
    }
}

impl Entry {
    /// Adds the series of windows that are newer than this key, filled from the longest one there is.
    fn complete(&mut self, windows: &[u64], now: u64) {
        for seconds in &windows[self.series.len()..] {
            let mut series = Series { width: width(*seconds), buckets: Vec::new() };
            if let Some(longest) = self.series.iter().max_by_key(|series| series.width) {
                for (bucket, count) in &longest.buckets {
                    // As late as it can have been, so that no limit is loosened.
                    let end = (bucket + 1).saturating_mul(longest.width) - 1;
                    series.add(end.min(now), *count);
                }
            }
            self.series.push(series);
        }
    }
}

impl Series {
    fn sum(&mut self, now: u64) -> u64 {
        self.expire(now);
        self.buckets.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// A bucket is dropped when all of it is older than the window.
    fn expire(&mut self, now: u64) {
        let current = now / self.width;
        let live = self.buckets.iter().position(|(bucket, _)| bucket + BUCKETS >= current);
        self.buckets.drain(..live.unwrap_or(self.buckets.len()));
    }

    fn add(&mut self, now: u64, weight: u64) {
        self.expire(now);
        let current = now / self.width;
        match self.buckets.last_mut() {
            // A clock that went back must not put buckets out of order.
            Some((bucket, count)) if *bucket >= current => *count = count.saturating_add(weight),
            _ => self.buckets.push((current, weight)),
        }
    }
}

/// Milliseconds of a bucket; rounded up, so that the buckets cover the window.
fn width(seconds: u64) -> u64 {
    seconds.clamp(1, u64::MAX / 100_000).saturating_mul(1000).div_ceil(BUCKETS)
}
