//! Which node is asked next: no clock, no socket, no randomness of its own.
//!
//! Of two nodes drawn by weight the less loaded one is taken ("the power of two choices", Mitzenmacher 2001): nearly
//! as even as asking the least loaded of all, and not every message runs to the node that just came back. Load
//! is latency times messages in flight, as in Finagle's balancers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::latency::Latency;
use super::standing::Standing;
use super::{Family, NodeId};

/// Of two nodes the second one drawn must be better by this factor: weights decide where load does not.
const CLEARLY: f64 = 1.25;

/// So many choices go by weight and messages in flight alone: a node that was slow once is timed anew.
const TIMED_ANEW: f64 = 0.1;

/// A node, and what is known of it.
#[derive(Debug, Clone)]
pub struct Member {
    pub weight: u32,
    /// Most messages at a time.
    pub max_in_flight: usize,
    pub in_flight: usize,
    pub latency: Latency,
    /// How long it has a message, from the choice of the node to the end.
    pub occupation: Latency,
    pub standing: [Standing; 2],
    pub draining: bool,
}

impl Member {
    pub fn new(weight: u32, max_in_flight: usize) -> Self {
        Self {
            weight,
            max_in_flight,
            in_flight: 0,
            latency: Latency::default(),
            occupation: Latency::default(),
            standing: [Standing::default(); 2],
            draining: false,
        }
    }

    pub fn standing(&mut self, family: Family) -> &mut Standing {
        &mut self.standing[family as usize]
    }

    /// Weight and slow start.
    fn share(&self, family: Family, now: Instant) -> f64 {
        f64::from(self.weight) * self.standing[family as usize].share(now)
    }

    fn has_room(&self) -> bool {
        self.in_flight < self.max_in_flight
    }

    /// How many messages a new one would share the node with, for its share. `mean`: the nodes' mean share.
    fn crowd(&self, share: f64, mean: f64) -> f64 {
        1.0 + count(self.in_flight) * mean / share
    }
}

/// What came of asking for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Node {
        node: NodeId,
        /// Whether it stays ejected depends on this message.
        trial: bool,
    },
    /// All that could be asked have as many messages as they may.
    Full,
    /// All were tried, or are drained.
    None,
}

#[derive(Debug, Default)]
pub struct Members(pub BTreeMap<usize, Member>);

impl Members {
    /// The next node for a customer of this family, without those tried already. An ejected node gets its trial
    /// when that is due; all others come before it, but if there is none it is asked all the same: nothing is
    /// refused because a node failed a moment ago. Those that are unfit for the message come after all others.
    pub fn choose(
        &self,
        tried: &[NodeId],
        unfit: &[NodeId],
        family: Family,
        now: Instant,
        random: &mut impl Rng,
    ) -> Choice {
        let out = |node: &NodeId| tried.contains(node) || unfit.contains(node);
        let open = || {
            let all = self.0.iter().map(|(id, member)| (NodeId(*id), member));
            all.filter(|(node, member)| !member.draining && !out(node))
        };
        let trial_at = |member: &Member| member.standing[family as usize].trial_at();
        // Not with a message that a node has failed already.
        let due = |member: &Member| tried.is_empty() && trial_at(member).is_some_and(|at| at <= now);
        if let Some((node, _)) = open().find(|(_, member)| member.has_room() && due(member)) {
            return Choice::Node { node, trial: true };
        }
        let well = open().filter(|(_, member)| member.standing[family as usize].is_well());
        if let Some(node) = draw(well.filter(|(_, member)| member.has_room()), family, now, random) {
            return Choice::Node { node, trial: false };
        }
        if open().any(|(_, member)| member.standing[family as usize].is_well()) {
            return Choice::Full;
        }
        // None is well. First the one whose pause ends first; last those that have their trial already.
        let ejected = open().filter(|(_, member)| member.has_room());
        match ejected.min_by_key(|(_, member)| (trial_at(member).is_none(), trial_at(member))) {
            Some((node, member)) => Choice::Node { node, trial: trial_at(member).is_some() },
            None if open().next().is_some() => Choice::Full,
            // What is known of them may be out of date.
            None if !unfit.is_empty() => self.choose(tried, &[], family, now, random),
            None => Choice::None,
        }
    }

    /// How long a message that comes now would wait until a node has room, with so many waiting before it.
    pub fn estimate(&self, waiting: usize) -> Duration {
        let open = self.0.values().filter(|member| !member.draining);
        let a_second: f64 = open.map(|member| count(member.in_flight.max(1)) / member.occupation.get()).sum();
        let seconds = count(waiting + 1) / a_second.max(1e-9);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Numbers of messages are far below what f64 counts exactly.
#[expect(clippy::cast_precision_loss)]
fn count(messages: usize) -> f64 {
    messages as f64
}

/// Two by weight, and the less loaded one of them.
fn draw<'a>(
    members: impl Iterator<Item = (NodeId, &'a Member)>,
    family: Family,
    now: Instant,
    random: &mut impl Rng,
) -> Option<NodeId> {
    let mut members: Vec<_> =
        members.map(|(node, member)| (node, member, member.share(family, now))).collect();
    let first = draw_one(&mut members, random)?;
    let Some(second) = draw_one(&mut members, random) else { return Some(first.0) };
    let mean = f64::midpoint(first.2, second.2);
    let by_latency = !random.random_bool(TIMED_ANEW);
    let cost = |(_, member, share): &Weighed<'_>| {
        let latency = if by_latency { member.latency.get() } else { 1.0 };
        latency * member.crowd(*share, mean)
    };
    Some(if cost(&second) * CLEARLY < cost(&first) { second.0 } else { first.0 })
}

type Weighed<'a> = (NodeId, &'a Member, f64);

fn draw_one<'a>(members: &mut Vec<Weighed<'a>>, random: &mut impl Rng) -> Option<Weighed<'a>> {
    let total: f64 = members.iter().map(|(_, _, share)| share).sum();
    let mut left = random.random::<f64>() * total;
    let passed = |(_, _, share): &Weighed<'_>| {
        left -= share;
        left < 0.0
    };
    // Rounding may leave a rest beyond the last one.
    let at = members.iter().position(passed).or_else(|| members.len().checked_sub(1))?;
    Some(members.swap_remove(at))
}
