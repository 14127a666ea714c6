//! The copies of all messages, in this process's memory.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;

use super::cluster::Cluster;
use super::rule::{Measures, Rule};
use super::signature::{KEYS, Text};
use super::{Counted, Level, Sighting, Store};
use crate::rate::{Away, Moment};

/// Keys that two messages share to be copies: about a fifth of what they say.
const ALIKE: usize = 5;

/// Messages whose keys all find their cluster; what copies have in common is in a few of them.
const EXEMPLARS: usize = 4;

/// Clusters that one key leads to.
const OWNERS: usize = 4;

/// When the store is full, this many clusters are looked at, and that goes of which the least is lost.
const EVICTION_SAMPLE: usize = 16;

/// Bounded by the number of different messages that are remembered.
#[derive(Debug)]
pub struct Memory {
    max_messages: usize,
    rule: Rule,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// Different messages and attachments that are remembered.
    pub messages: usize,
    /// Forgotten for want of room.
    pub evicted: u64,
}

#[derive(Debug, Default)]
struct State {
    texts: IndexMap<u32, (Cluster, Vec<u32>)>,
    /// Which clusters have a key; 0 is none.
    owners: HashMap<u32, [u32; OWNERS]>,
    attachments: IndexMap<u64, Cluster>,
    last_id: u32,
    /// When counting began.
    since: Option<u64>,
    evicted: u64,
    dice: u64,
}

impl Memory {
    pub fn new(max_messages: usize, rule: Rule) -> Self {
        Self { max_messages: max_messages.max(1), rule, state: Mutex::default() }
    }

    pub fn usage(&self) -> Usage {
        let state = self.lock();
        Usage { messages: state.texts.len() + state.attachments.len(), evicted: state.evicted }
    }

    pub fn count(&self, sighting: &Sighting, now: Moment) -> Counted {
        let mut state = self.lock();
        let since = *state.since.get_or_insert(now.0);
        let count_in = |cluster: &mut Cluster| count_in(cluster, &self.rule, sighting, now.0, since);
        let mut counted = Counted::default();
        if let Some(text) = &sighting.signature.text {
            let id = state.cluster_of(text, self.max_messages, now.0);
            if let Some((cluster, _)) = state.texts.get_mut(&id) {
                let (level, measures) = count_in(cluster);
                (counted.text, counted.copies, counted.customers) =
                    (level, measures.copies, measures.customers);
            }
        }
        for hash in &sighting.signature.attachments {
            let cluster = state.attachment(*hash, self.max_messages, now.0);
            counted.attachment = counted.attachment.max(count_in(cluster).0);
        }
        counted
    }

    /// What a customer sent is not his successor's.
    pub fn forget(&self, customer: u64) {
        let mut state = self.lock();
        state.texts.values_mut().for_each(|(cluster, _)| cluster.forget(customer));
        state.attachments.values_mut().for_each(|cluster| cluster.forget(customer));
    }

    /// Forgets all copies.
    pub fn clear(&self) {
        let mut state = self.lock();
        *state = State { evicted: state.evicted, ..State::default() };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    async fn count(&self, sighting: &Sighting, now: Moment) -> Result<Counted, Away> {
        Ok(Memory::count(self, sighting, now))
    }
}

fn count_in(
    cluster: &mut Cluster,
    rule: &Rule,
    sighting: &Sighting,
    now: u64,
    since: u64,
) -> (Level, Measures) {
    cluster.count(sighting, now);
    let measures = cluster.measures(now, since);
    let (level, is_outbreak) = rule.level(&measures);
    if is_outbreak {
        cluster.is_outbreak(now);
    }
    (level, measures)
}

impl State {
    /// The cluster of which most keys are here, or a new one.
    fn cluster_of(&mut self, text: &Text, max_messages: usize, now: u64) -> u32 {
        let mut votes: HashMap<u32, usize> = HashMap::new();
        for owner in
            text.keys.iter().filter_map(|key| self.owners.get(key)).flatten().filter(|owner| **owner != 0)
        {
            *votes.entry(*owner).or_default() += 1;
        }
        let best = votes
            .into_iter()
            .filter(|(_, votes)| *votes >= ALIKE)
            .max_by_key(|(id, votes)| (*votes, u32::MAX - id));
        let id = best.map_or_else(|| self.new_cluster(max_messages, now), |(id, _)| id);
        self.lead(id, text);
        id
    }

    fn new_cluster(&mut self, max_messages: usize, now: u64) -> u32 {
        while self.texts.len() + self.attachments.len() >= max_messages {
            self.evict();
        }
        loop {
            self.last_id = self.last_id.wrapping_add(1).max(1);
            if !self.texts.contains_key(&self.last_id) {
                break;
            }
        }
        self.texts.insert(self.last_id, (Cluster::new(now), Vec::new()));
        self.last_id
    }

    /// Has the keys of the first messages lead to their cluster.
    fn lead(&mut self, id: u32, text: &Text) {
        let State { texts, owners, .. } = self;
        let Some((_, keys)) = texts.get_mut(&id) else { return };
        if keys.len() >= EXEMPLARS * KEYS {
            return;
        }
        for key in text.keys.iter().filter(|key| !keys.contains(key)).collect::<Vec<_>>() {
            let known = owners.entry(*key).or_default();
            // The youngest is the likeliest to be that of the next message.
            known.rotate_right(1);
            known[0] = id;
            keys.push(*key);
        }
    }

    fn attachment(&mut self, hash: u64, max_messages: usize, now: u64) -> &mut Cluster {
        if !self.attachments.contains_key(&hash) {
            while self.texts.len() + self.attachments.len() >= max_messages {
                self.evict();
            }
        }
        self.attachments.entry(hash).or_insert_with(|| Cluster::new(now))
    }

    fn evict(&mut self) {
        self.evicted += 1;
        if self.attachments.len() > self.texts.len() {
            let sample =
                (0..EVICTION_SAMPLE).map(|_| self.dice_below(self.attachments.len())).collect::<Vec<_>>();
            let least = sample
                .into_iter()
                .min_by_key(|at| self.attachments.get_index(*at).map(|(_, cluster)| cluster.worth()));
            least.and_then(|at| self.attachments.swap_remove_index(at));
            return;
        }
        let sample = (0..EVICTION_SAMPLE).map(|_| self.dice_below(self.texts.len())).collect::<Vec<_>>();
        let least = sample
            .into_iter()
            .min_by_key(|at| self.texts.get_index(*at).map(|(_, (cluster, _))| cluster.worth()));
        let Some((id, (_, keys))) = least.and_then(|at| self.texts.swap_remove_index(at)) else { return };
        for key in keys {
            let Some(known) = self.owners.get_mut(&key) else { continue };
            known.iter_mut().filter(|owner| **owner == id).for_each(|owner| *owner = 0);
            if known.iter().all(|owner| *owner == 0) {
                self.owners.remove(&key);
            }
        }
    }

    /// Nothing depends on its being unpredictable.
    fn dice_below(&mut self, count: usize) -> usize {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.dice >> 33).unwrap_or_default() % count.max(1)
    }
}
