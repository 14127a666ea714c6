//! What is remembered of the last so many.

use std::hash::Hash;

use indexmap::IndexMap;
use indexmap::map::Entry;

/// A map with a limit; beyond it, what was put in first goes.
#[derive(Debug)]
pub struct Bounded<K, V> {
    entries: IndexMap<K, V>,
    capacity: usize,
    /// Where the next one to go is.
    hand: usize,
}

impl<K: Hash + Eq, V> Bounded<K, V> {
    pub fn new(capacity: usize) -> Self {
        Self { entries: IndexMap::new(), capacity: capacity.max(2), hand: 0 }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    /// In the place of an earlier one for the same key.
    pub fn insert(&mut self, key: K, value: V) {
        match self.entries.entry(key) {
            Entry::Occupied(mut entry) => {
                entry.insert(value);
            }
            Entry::Vacant(entry) => {
                entry.insert(value);
                self.shrink();
            }
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.entries.swap_remove(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn shrink(&mut self) {
        while self.entries.len() > self.capacity {
            // The newest is at the end, and takes the place of the one that goes, behind the hand.
            let at = self.hand % self.capacity;
            self.entries.swap_remove_index(at);
            self.hand = at + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_first_goes() {
        let mut map = Bounded::new(100);
        for number in 0..1000_u32 {
            map.insert(number, number);
            assert!(map.len() <= 100);
            // None of the last half goes.
            assert!((number.saturating_sub(49)..=number).all(|last| map.get(&last).is_some()), "{number}");
        }
        map.insert(999, 7);
        assert_eq!(map.get(&999), Some(&7));
        assert_eq!((map.remove(&999), map.len()), (Some(7), 99));
    }
}
