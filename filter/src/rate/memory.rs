//! Counts in this process's memory.

use std::collections::HashMap;
use std::mem;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;

use super::series::{Entry, life};
use super::{Answer, Ask, Away, Counters, Moment};

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

/// What a file is told of a namespace, or tells.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) namespace: Box<str>,
    pub(super) windows: Vec<u64>,
    /// Milliseconds after which nothing is left of what is counted now.
    pub(super) life: u64,
    pub(super) entries: Vec<(Box<str>, Entry)>,
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

    /// Drops what was counted for a key, in all namespaces, and in the file with the next saving.
    pub fn forget(&self, key: &str) {
        let mut store = self.lock();
        let entries = store.namespaces.values_mut().filter_map(|namespace| namespace.keys.get_mut(key));
        entries.for_each(|entry| *entry = Entry::forgotten());
    }

    pub(super) fn namespaces(&self) -> Vec<Box<str>> {
        self.lock().namespaces.keys().cloned().collect()
    }

    /// Looks at the keys of a namespace, by their places, with its windows. False: there are no such places.
    pub(super) fn visit(
        &self,
        namespace: &str,
        places: Range<usize>,
        mut look: impl FnMut(&[u64], &str, &mut Entry),
    ) -> bool {
        let mut store = self.lock();
        let Some(Namespace { windows, keys }) = store.namespaces.get_mut(namespace) else { return false };
        let places = places.start..places.end.min(keys.len());
        let Some(keys) = keys.get_range_mut(places).filter(|keys| !keys.is_empty()) else { return false };
        for (key, entry) in keys {
            look(windows, key, entry);
        }
        true
    }

    /// What was counted since the last call. Namespace by namespace, for nothing is counted while one is looked at.
    pub(super) fn changes(&self) -> Vec<Change> {
        let names: Vec<Box<str>> = self.lock().namespaces.keys().cloned().collect();
        names.into_iter().filter_map(|name| self.lock().changes(name)).collect()
    }

    /// Puts back what was saved.
    pub(super) fn restore(&self, change: Change, now: Moment) {
        self.lock().restore(change, now.0, self.max_keys);
    }

    /// Has everything saved again.
    pub(super) fn mark_changed(&self) {
        let mut store = self.lock();
        let entries = store.namespaces.values_mut().flat_map(|namespace| namespace.keys.values_mut());
        entries.for_each(|entry| entry.changed = true);
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
            entry.sum(window, now)
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
        entry.add(now, ask.weight);
    }

    fn changes(&mut self, name: Box<str>) -> Option<Change> {
        let namespace = self.namespaces.get_mut(&name)?;
        let windows = namespace.windows.clone();
        let mut entries = Vec::new();
        for (key, entry) in &mut namespace.keys {
            if mem::take(&mut entry.changed) {
                entries.push((key.clone(), entry.clone()));
            }
        }
        Some(Change { life: namespace.life(), namespace: name, windows, entries })
    }

    fn restore(&mut self, change: Change, now: u64, max_keys: usize) {
        let namespace = self.namespaces.entry(change.namespace).or_default();
        namespace.windows = change.windows;
        namespace.keys.extend(change.entries);
        self.keys = self.namespaces.values().map(|namespace| namespace.keys.len()).sum();
        while self.keys > max_keys {
            self.make_room(now);
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
            let longest = namespace.life();
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
    /// Milliseconds after which nothing is left of what is counted now.
    fn life(&self) -> u64 {
        self.windows.iter().copied().max().map_or(0, life)
    }

    /// The index of a window, which is new at its first use.
    fn window(&mut self, seconds: u64) -> usize {
        self.windows.iter().position(|known| *known == seconds).unwrap_or_else(|| {
            self.windows.push(seconds);
            self.windows.len() - 1
        })
    }
}
