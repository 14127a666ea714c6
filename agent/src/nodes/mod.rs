//! The filter nodes: which one is asked next, and what is known of each.

pub mod probe;

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use weir_smtp::extension::Extensions;

use crate::relay::conversation::NodeFailure;

/// A node that failed is asked last for this long.
const COOLDOWN: Duration = Duration::from_secs(10);

/// A node of the configuration, by its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(pub usize);

/// A node that may be asked.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub node: NodeId,
    /// Its health probe's XCLIENT was refused too, or not yet tried: a refusal says nothing about the customer.
    pub probe_refused: bool,
}

/// The customer's address family: a node may fail for one and serve the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Health {
    failed_at: Option<Instant>,
    last_failure: Option<String>,
    /// `None`: not probed yet.
    probe_refused: Option<bool>,
}

#[derive(Debug)]
struct Node {
    address: SocketAddr,
    health: [Mutex<Health>; 2],
    /// It announced CHUNKING and BINARYMIME when it was last well.
    takes_binary: AtomicBool,
    verdicts: AtomicU64,
    failures: AtomicU64,
}

impl Node {
    fn health(&self, family: Family) -> std::sync::MutexGuard<'_, Health> {
        self.health[family as usize].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_cooling(&self, family: Family, now: Instant) -> bool {
        self.health(family).failed_at.is_some_and(|at| now.saturating_duration_since(at) < COOLDOWN)
    }
}

/// All nodes. They are asked in turn; one that failed lately comes after the others.
#[derive(Debug)]
pub struct Pool {
    nodes: Vec<Node>,
    turn: AtomicUsize,
}

/// A node as `status` shows it.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    pub address: SocketAddr,
    pub healthy: bool,
    pub verdicts: u64,
    pub failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

impl Pool {
    pub fn new(addresses: &[SocketAddr]) -> Self {
        let node = |address: &SocketAddr| Node {
            address: *address,
            health: [Mutex::default(), Mutex::default()],
            takes_binary: AtomicBool::new(false),
            verdicts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        Self { nodes: addresses.iter().map(node).collect(), turn: AtomicUsize::new(0) }
    }

    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    pub fn address(&self, node: NodeId) -> SocketAddr {
        self.nodes[node.0].address
    }

    /// The next node for a customer of this family, without those tried already.
    pub fn choose(&self, tried: &[NodeId], family: Family, now: Instant) -> Option<Candidate> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..self.nodes.len()).map(|step| NodeId((first + step) % self.nodes.len()));
        let untried = in_turn.filter(|node| !tried.contains(node));
        let node = untried.min_by_key(|node| self.nodes[node.0].is_cooling(family, now))?;
        let probe_refused = self.nodes[node.0].health(family).probe_refused.unwrap_or(true);
        Some(Candidate { node, probe_refused })
    }

    /// Every node takes messages that are no lines (RFC 3030).
    pub fn takes_binary(&self) -> bool {
        self.nodes.iter().all(|node| node.takes_binary.load(Ordering::Relaxed))
    }

    /// What came of asking a node. `true`: that is news.
    pub fn report(&self, node: NodeId, family: Family, failure: Option<&NodeFailure>, now: Instant) -> bool {
        let counter =
            if failure.is_some() { &self.nodes[node.0].failures } else { &self.nodes[node.0].verdicts };
        counter.fetch_add(1, Ordering::Relaxed);
        self.note(node, family, failure.map(ToString::to_string), now)
    }

    /// What the probe found. `true`: that is news.
    pub fn probed(
        &self,
        node: NodeId,
        family: Family,
        found: &Result<Extensions, probe::Error>,
        now: Instant,
    ) -> bool {
        if let Ok(announced) = found {
            let binary = announced.has("CHUNKING") && announced.has("BINARYMIME");
            self.nodes[node.0].takes_binary.store(binary, Ordering::Relaxed);
        }
        let refused = matches!(found, Err(probe::Error::XclientRefused(_)));
        self.nodes[node.0].health(family).probe_refused = Some(refused);
        self.note(node, family, found.as_ref().err().map(ToString::to_string), now)
    }

    fn note(&self, node: NodeId, family: Family, failure: Option<String>, now: Instant) -> bool {
        let mut health = self.nodes[node.0].health(family);
        let was_well = health.failed_at.is_none();
        health.failed_at = failure.is_some().then_some(now);

        health.last_failure = failure.or(health.last_failure.take());
        was_well != health.failed_at.is_none()
    }

    pub fn status(&self) -> Vec<NodeStatus> {
        let status = |node: &Node| {
            let health = [node.health(Family::V4).clone(), node.health(Family::V6).clone()];
            NodeStatus {
                address: node.address,
                healthy: health.iter().all(|health| health.failed_at.is_none()),
                verdicts: node.verdicts.load(Ordering::Relaxed),
                failures: node.failures.load(Ordering::Relaxed),
                last_failure: health.into_iter().find_map(|health| health.last_failure),
            }
        };
        self.nodes.iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new(&["10.3.0.11:25".parse().unwrap(), "10.3.0.12:25".parse().unwrap()])
    }

    #[test]
    fn nodes_take_turns_and_none_is_asked_twice() {
        let (pool, now) = (pool(), Instant::now());
        let first = pool.choose(&[], Family::V4, now).unwrap().node;
        let second = pool.choose(&[], Family::V4, now).unwrap().node;
        assert_ne!(first, second);
        assert_eq!(pool.choose(&[first], Family::V4, now).unwrap().node, second);
        assert!(pool.choose(&[first, second], Family::V4, now).is_none());
    }

    #[test]
    fn a_node_that_failed_is_last_until_it_cooled_and_only_for_its_family() {
        let (pool, now) = (pool(), Instant::now());
        let failure = NodeFailure::NoXclient;
        assert!(pool.report(NodeId(0), Family::V6, Some(&failure), now));
        assert!(!pool.report(NodeId(0), Family::V6, Some(&failure), now));
        for _ in 0..4 {
            assert_eq!(pool.choose(&[], Family::V6, now).unwrap().node, NodeId(1));
        }
        assert_eq!(pool.choose(&[NodeId(1)], Family::V6, now).unwrap().node, NodeId(0));
        let v4: Vec<_> = (0..2).map(|_| pool.choose(&[], Family::V4, now).unwrap().node.0).collect();
        assert_eq!(v4.iter().sum::<usize>(), 1);
        let later = now + COOLDOWN;
        let v6: Vec<_> = (0..2).map(|_| pool.choose(&[], Family::V6, later).unwrap().node.0).collect();
        assert_eq!(v6.iter().sum::<usize>(), 1);
        assert!(pool.report(NodeId(0), Family::V6, None, now));
    }

    #[test]
    fn a_refused_probe_is_told_to_the_engine() {
        let (pool, now) = (pool(), Instant::now());
        let refused = || pool.choose(&[NodeId(1)], Family::V4, now).unwrap().probe_refused;
        assert!(refused(), "not probed yet");
        pool.probed(NodeId(0), Family::V4, &Err(probe::Error::XclientRefused("550 no".into())), now);
        pool.report(NodeId(0), Family::V4, None, now);
        assert!(refused(), "a message changes nothing");
        pool.probed(NodeId(0), Family::V4, &Ok(Extensions::default()), now);
        assert!(!refused());
    }

    #[test]
    fn binary_messages_are_taken_when_every_node_takes_them() {
        let (pool, now) = (pool(), Instant::now());
        let announced = |keywords: &str| {
            Ok(Extensions::from_reply(&weir_smtp::Reply::new(250, format!("filter.example\n{keywords}"))))
        };
        pool.probed(NodeId(0), Family::V4, &announced("CHUNKING\nBINARYMIME"), now);
        assert!(!pool.takes_binary(), "the other one was not asked yet");
        pool.probed(NodeId(1), Family::V4, &announced("CHUNKING\nBINARYMIME"), now);
        assert!(pool.takes_binary());
        pool.probed(NodeId(1), Family::V6, &Err(probe::Error::NoXclient), now);
        assert!(pool.takes_binary(), "a failure says nothing of it");
        pool.probed(NodeId(1), Family::V4, &announced("CHUNKING"), now);
        assert!(!pool.takes_binary());
    }
}
