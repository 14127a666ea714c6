//! Counts as the operator sees them, and drops them.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Moment;
use super::memory::Memory;
use super::series::Entry;

/// Keys looked at before messages are counted again.
const AT_ONCE: usize = 10_000;

/// What was counted for a key in one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub namespace: String,
    pub key: String,
    pub count: u64,
    /// Of the window.
    pub seconds: u64,
}

impl Memory {
    /// The keys with most in the longest window of their namespace, most first; of one namespace or of all.
    pub fn top(&self, namespace: Option<&str>, limit: usize, now: Moment) -> Vec<Shown> {
        let mut top: Vec<Shown> = Vec::new();
        for name in self.namespaces().into_iter().filter(|name| namespace.is_none_or(|only| only == &**name))
        {
            self.visit_all(&name, |windows, key, entry| {
                let longest = windows.iter().copied().enumerate().max_by_key(|(_, seconds)| *seconds);
                if let Some((window, seconds)) = longest {
                    top.extend(shown(&name, key, entry, window, seconds, now));
                }
                if top.len() >= limit.saturating_add(AT_ONCE) {
                    keep_most(&mut top, limit);
                }
            });
        }
        keep_most(&mut top, limit);
        top
    }

    /// What is counted for these keys and what is beneath them (`KEY domain`), in every namespace and window.
    pub fn show(&self, keys: &[String], now: Moment) -> Vec<Shown> {
        let mut found = Vec::new();
        let keys: HashSet<&str> = keys.iter().map(String::as_str).collect();
        for name in self.namespaces() {
            self.visit_all(&name, |windows, one, entry| {
                if is_of(&keys, one) {
                    for (window, seconds) in windows.iter().copied().enumerate() {
                        found.extend(shown(&name, one, entry, window, seconds, now));
                    }
                }
            });
        }
        found.sort_by(|one, other| {
            (&one.key, &one.namespace, one.seconds).cmp(&(&other.key, &other.namespace, other.seconds))
        });
        found.dedup();
        found
    }

    /// Drops what is counted for these keys and what is beneath them, in one namespace or in all, and in the file with the next
    /// saving. The number of keys.
    pub fn clear(&self, namespace: Option<&str>, keys: &[String]) -> usize {
        let mut cleared = 0;
        let keys: HashSet<&str> = keys.iter().map(String::as_str).collect();
        for name in self.namespaces().into_iter().filter(|name| namespace.is_none_or(|only| only == &**name))
        {
            self.visit_all(&name, |_, one, entry| {
                if is_of(&keys, one) {
                    *entry = Entry::forgotten();
                    cleared += 1;
                }
            });
        }
        cleared
    }

    /// A key that is moved while nobody looks may be missed, or seen twice.
    fn visit_all(&self, namespace: &str, mut look: impl FnMut(&[u64], &str, &mut Entry)) {
        let mut from = 0;
        while self.visit(namespace, from..from + AT_ONCE, &mut look) {
            from += AT_ONCE;
        }
    }
}

fn is_of(keys: &HashSet<&str>, one: &str) -> bool {
    keys.contains(one) || one.match_indices(' ').any(|(at, _)| keys.contains(&one[..at]))
}

fn shown(
    namespace: &str,
    key: &str,
    entry: &mut Entry,
    window: usize,
    seconds: u64,
    now: Moment,
) -> Option<Shown> {
    let count = entry.sum(window, now.0);
    (count > 0).then(|| Shown { namespace: namespace.into(), key: key.into(), count, seconds })
}

pub(super) fn keep_most(top: &mut Vec<Shown>, limit: usize) {
    top.sort_by(|one, other| {
        other
            .count
            .cmp(&one.count)
            .then_with(|| (&one.namespace, &one.key).cmp(&(&other.namespace, &other.key)))
    });
    top.dedup();
    top.truncate(limit);
}
