//! Who comes up most often, in bounded memory.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Keys remembered; when there are more, the one seen least gives way.
const MAX_KEYS: usize = 10_000;

/// Keys shown in `status`.
const SHOWN: usize = 20;

/// How often each key was seen.
#[derive(Debug)]
pub struct Top<K> {
    seen: Mutex<HashMap<K, u64>>,
}

impl<K> Default for Top<K> {
    fn default() -> Self {
        Self { seen: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash + Ord> Top<K> {
    pub fn note(&self, key: K) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_KEYS && !seen.contains_key(&key) {
            let least = seen.iter().min_by_key(|(_, times)| **times).map(|(key, _)| key.clone());
            least.and_then(|key| seen.remove(&key));
        }
        *seen.entry(key).or_default() += 1;
    }

    /// The keys seen most, most first, and how often.
    pub fn top(&self) -> Vec<(K, u64)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut top: Vec<_> = seen.iter().collect();
        top.sort_unstable_by_key(|(key, times)| (Reverse(**times), *key));
        top.into_iter().take(SHOWN).map(|(key, times)| (key.clone(), *times)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_are_kept_and_shown_first() {
        let top = Top::default();
        (0..MAX_KEYS).for_each(|key| top.note(key));
        (0..3).for_each(|_| top.note(7));
        top.note(usize::MAX);
        let shown = top.top();
        assert_eq!((shown.len(), shown[0]), (SHOWN, (7, 4)));
        assert_eq!(top.seen.lock().unwrap().len(), MAX_KEYS);
    }
}
