//! The filter nodes: which one is asked next, and what is known of each.

pub mod dial;
mod latency;
mod line;
mod members;
pub mod names;
pub mod needs;
pub mod probe;
mod standing;
#[cfg(test)]
mod tests;
pub mod warm;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::info;
use weir_smtp::extension::Extensions;

use self::line::Line;
pub use self::line::Waiting;
use self::members::{Choice, Member, Members};
use self::names::Site;
use self::needs::Needs;
use self::standing::Severity;
use crate::relay::conversation::NodeFailure;
use crate::source::Source;
use crate::tls;

/// Former nodes of which the address is still known.
const FORMER: usize = 256;

/// A node. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(pub usize);

/// What nodes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Filter,
    Mirror,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter node",
            Self::Mirror => "mirror node",
        })
    }
}

/// A node that may be asked.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub node: NodeId,
    /// Its health probe's XCLIENT was refused too, or not yet tried: a refusal says nothing about the customer.
    pub probe_refused: bool,
    /// It is to be spoken to in TLS.
    pub tls: bool,
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

/// What is known of a node beside what the choice needs.
#[derive(Debug)]
struct About {
    address: SocketAddr,
    /// The host name by which it is configured.
    host: Option<Arc<str>>,
    /// Its XCLIENT was refused to a probe. `None`: not probed yet.
    probe_refused: [Option<bool>; 2],
    /// What it announced when it was last well. `None`: not known yet.
    announced: Option<Extensions>,
    verdicts: u64,
    failures: u64,
    last_failure: Option<String>,
}

impl About {
    fn new(address: SocketAddr, host: Option<Arc<str>>) -> Self {
        Self {
            address,
            host,
            probe_refused: [None; 2],
            announced: None,
            verdicts: 0,
            failures: 0,
            last_failure: None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    members: Members,
    about: BTreeMap<usize, About>,
    /// Messages that wait for room.
    line: Line,
    /// The next node's number.
    next: usize,
}

impl State {
    /// The nodes that are there now.
    fn nodes(&self) -> impl Iterator<Item = (usize, &About, &Member)> {
        self.members.0.iter().filter_map(|(id, member)| Some((*id, self.about.get(id)?, member)))
    }

    /// Those that are known to lack what a message needs, unless all are.
    fn unfit(&self, needs: Needs) -> Vec<NodeId> {
        let lacks = |about: &About| about.announced.as_ref().and_then(|announced| needs.lacking(announced));
        let unfit = self.nodes().filter(|(_, about, _)| lacks(about).is_some());
        let mut unfit: Vec<_> = unfit.map(|(id, ..)| NodeId(id)).collect();
        if unfit.len() == self.members.0.len() {
            unfit.clear();
        }
        unfit
    }
}

/// All nodes.
#[derive(Debug)]
pub struct Pool {
    // Held for moments, and never while anything is awaited.
    state: Mutex<State>,
    tls: Option<tls::Nodes>,
    max_wait: Duration,
}

/// What came of asking for a node.
#[derive(Debug)]
pub enum Chosen {
    Node(Asked),
    /// All are at their limits, and may soon not be.
    Later(Waiting),
    /// All are at their limits, and will be for too long.
    Busy,
    /// All were tried.
    None,
}

/// A node as `status` shows it.
#[derive(Debug, Serialize)]
pub struct NodeStatus {
    pub address: SocketAddr,
    pub healthy: bool,
    /// Gets no more messages, by the operator's command.
    pub draining: bool,
    pub weight: u32,
    /// Messages it has now.
    pub in_flight: usize,
    /// From the end of a message to its verdict, smoothed.
    pub latency_ms: u64,
    pub verdicts: u64,
    pub failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// Why a node is not drained.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    #[error("{node} is no filter node; these are: {}", list(nodes))]
    Unknown { node: SocketAddr, nodes: Vec<SocketAddr> },
    #[error("{0} is the last node that is not drained: nobody could judge")]
    Last(SocketAddr),
}

fn list(nodes: &[SocketAddr]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Pool {
    pub fn new(sites: &[Site], tls: Option<tls::Nodes>, max_wait: Duration) -> Self {
        let pool = Self { state: Mutex::default(), tls, max_wait };
        pool.set(sites);
        pool
    }

    /// These are the nodes from now on. Those that stay keep what is known of them; those that go finish what they
    /// have.
    pub fn set(&self, sites: &[Site]) {
        let mut state = self.state();
        let State { members, about, next, .. } = &mut *state;
        let is_there = |address: SocketAddr| sites.iter().any(|site| site.address == address);
        members.0.retain(|id, _| about.get(id).is_some_and(|about| is_there(about.address)));
        for Site { address, host, weight, max_in_flight } in sites.iter().cloned() {
            let known = |id: &usize| about.get(id).is_some_and(|about| about.address == address);
            if let Some(id) = members.0.keys().copied().find(known)
                && let (Some(member), Some(about)) = (members.0.get_mut(&id), about.get_mut(&id))
            {
                (member.weight, member.max_in_flight) = (weight, max_in_flight);
                about.host = host;
                continue;
            }
            members.0.insert(*next, Member::new(weight, max_in_flight));
            about.insert(*next, About::new(address, host));
            *next += 1;
        }
        // The log lines of messages under way still name the former ones.
        while about.len() > members.0.len() + FORMER {
            let Some(id) = about.keys().find(|id| !members.0.contains_key(id)).copied() else { break };
            about.remove(&id);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages that wait for room.
    pub fn waiting(&self) -> usize {
        self.state().line.len()
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.state().nodes().map(|(id, ..)| NodeId(id)).collect()
    }

    /// Of the nodes that are there now.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.state().nodes().map(|(_, about, _)| about.address).collect()
    }

    /// `None`: it is gone for long.
    pub fn address(&self, node: NodeId) -> Option<SocketAddr> {
        self.state().about.get(&node.0).map(|about| about.address)
    }

    /// Messages that the node may have beside those that it has.
    pub fn spare(&self, node: NodeId) -> usize {
        let state = self.state();
        let member = state.members.0.get(&node.0).filter(|member| !member.draining);
        member.map_or(0, |member| member.max_in_flight.saturating_sub(member.in_flight))
    }

    /// Whether the node is there and is given messages.
    pub fn takes(&self, node: NodeId) -> bool {
        self.state().members.0.get(&node.0).is_some_and(|member| !member.draining)
    }

    /// With whom TLS is to be had at a node, if it is.
    pub fn tls(&self, node: NodeId) -> Option<tls::Peer> {
        let tls = self.tls.as_ref()?;
        let state = self.state();
        let about = state.about.get(&node.0)?;
        Some(tls.peer(about.host.as_deref(), about.address.ip()))
    }

    /// The next node for a message of this customer, without those tried already.
    pub fn choose(
        self: &Arc<Self>,
        tried: &[NodeId],
        needs: Needs,
        customer: IpAddr,
        now: Instant,
    ) -> Chosen {
        let family = Family::of(customer);
        let mut state = self.state();
        let unfit = state.unfit(needs);
        // Nobody passes those that wait, but for his turn among them.
        let choice = if tried.is_empty() && unfit.is_empty() && state.line.has(family) {
            Choice::Full
        } else {
            state.members.choose(tried, &unfit, family, now, &mut rand::rng())
        };
        let before = || if tried.is_empty() { state.line.before(Source::of(customer)) } else { 0 };
        if choice == Choice::Full && state.members.estimate(before()) <= self.max_wait {
            let waiting = Waiting::join(self.clone(), &mut state, tried, needs, customer, now);
            return Chosen::Later(waiting);
        }
        self.begin(&mut state, choice, family, now)
    }

    /// The message is in flight with the node that was chosen.
    fn begin(self: &Arc<Self>, state: &mut State, choice: Choice, family: Family, now: Instant) -> Chosen {
        let (node, trial) = match choice {
            Choice::Node { node, trial } => (node, trial),
            Choice::Full => return Chosen::Busy,
            Choice::None => return Chosen::None,
        };
        let State { members, about, .. } = state;
        let (Some(member), Some(about)) = (members.0.get_mut(&node.0), about.get(&node.0)) else {
            return Chosen::None;
        };
        member.in_flight += 1;
        if trial {
            member.standing(family).begin_trial();
        }
        let probe_refused = about.probe_refused[family as usize].unwrap_or(true);
        let candidate = Candidate { node, probe_refused, tls: self.tls.is_some() };
        Chosen::Node(Asked { pool: self.clone(), candidate, family, trial, began: now, in_flight: true })
    }

    /// Gives a node no more messages, or gives it some again. The number of those that it still has.
    ///
    /// # Errors
    /// If there is no such node, or no other would be left.
    pub fn drain(&self, node: SocketAddr, draining: bool) -> Result<usize, DrainError> {
        let mut state = self.state();
        let Some((id, ..)) = state.nodes().find(|(_, about, _)| about.address == node) else {
            let nodes = state.nodes().map(|(_, about, _)| about.address).collect();
            return Err(DrainError::Unknown { node, nodes });
        };
        if draining && !state.nodes().any(|(other, _, member)| other != id && !member.draining) {
            return Err(DrainError::Last(node));
        }
        let Some(member) = state.members.0.get_mut(&id) else { return Ok(0) };
        if std::mem::replace(&mut member.draining, draining) != draining {
            let gets = if draining { "no more messages" } else { "messages again" };
            info!(%node, "filter node gets {gets}, by the operator's command");
        }
        Ok(member.in_flight)
    }

    /// Every node takes messages that are no lines (RFC 3030).
    pub fn takes_binary(&self) -> bool {
        let state = self.state();
        let takes = |announced: &Extensions| announced.has("CHUNKING") && announced.has("BINARYMIME");
        state.nodes().next().is_some()
            && state.nodes().all(|(_, about, _)| about.announced.as_ref().is_some_and(takes))
    }

    /// What the probe that began at `began` found. `true`: that is news.
    pub fn probed(
        &self,
        node: NodeId,
        family: Family,
        found: &Result<Extensions, probe::Error>,
        began: Instant,
        now: Instant,
    ) -> bool {
        let mut state = self.state();
        let State { members, about, .. } = &mut *state;
        let (Some(member), Some(about)) = (members.0.get_mut(&node.0), about.get_mut(&node.0)) else {
            return false;
        };
        about.probe_refused[family as usize] = Some(matches!(found, Err(probe::Error::XclientRefused(_))));
        match found {
            Ok(announced) => {
                about.announced = Some(announced.clone());
                member.standing(family).probed_well(now)
            }
            Err(failure) => {
                about.last_failure = Some(failure.to_string());
                member.standing(family).probe_failed(began, now)
            }
        }
    }

    pub fn status(&self) -> Vec<NodeStatus> {
        let state = self.state();
        let status = |(_, about, member): (usize, &About, &Member)| NodeStatus {
            address: about.address,
            healthy: member.standing.iter().all(standing::Standing::is_well),
            draining: member.draining,
            weight: member.weight,
            in_flight: member.in_flight,
            latency_ms: milliseconds(member.latency.get()),
            verdicts: about.verdicts,
            failures: about.failures,
            last_failure: about.last_failure.clone(),
        };
        state.nodes().map(status).collect()
    }
}

/// A message that a node was chosen for. In flight until it is released or dropped.
#[derive(Debug)]
pub struct Asked {
    pool: Arc<Pool>,
    pub candidate: Candidate,
    family: Family,
    /// Whether the node stays ejected depends on this message, and it is not known yet.
    trial: bool,
    began: Instant,
    in_flight: bool,
}

impl Asked {
    pub fn address(&self) -> Option<SocketAddr> {
        self.pool.address(self.candidate.node)
    }

    /// The node is done with the message; what came of it may still be reported.
    pub fn release(&mut self) {
        if !std::mem::take(&mut self.in_flight) {
            return;
        }
        let mut state = self.pool.state();
        if let Some(member) = state.members.0.get_mut(&self.candidate.node.0) {
            member.in_flight = member.in_flight.saturating_sub(1);
            let now = Instant::now();
            member.occupation.observe(now.saturating_duration_since(self.began), now);
        }
        state.line.wake();
    }

    /// What came of it: a failure, or a verdict so long after the message's last octet went to the node. `true`:
    /// that is news.
    pub fn report(&mut self, outcome: Result<Duration, &NodeFailure>, now: Instant) -> bool {
        let was_trial = std::mem::take(&mut self.trial);
        let mut state = self.pool.state();
        let State { members, about, .. } = &mut *state;
        let node = &self.candidate.node.0;
        let (Some(member), Some(about)) = (members.0.get_mut(node), about.get_mut(node)) else {
            return false;
        };
        match outcome {
            Ok(took) => {
                about.verdicts += 1;
                member.latency.observe(took, now);
                member.standing(self.family).succeeded(was_trial, now)
            }
            Err(failure) => {
                about.failures += 1;
                about.last_failure = Some(failure.to_string());
                member.standing(self.family).failed(severity(failure), self.began, was_trial, now)
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.release();
        if self.trial
            && let Some(member) = self.pool.state().members.0.get_mut(&self.candidate.node.0)
        {
            member.standing(self.family).end_trial();
        }
    }
}

fn milliseconds(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX)
}

fn severity(failure: &NodeFailure) -> Severity {
    match failure {
        NodeFailure::Connect(_)
        | NodeFailure::NoTls
        | NodeFailure::Handshake(_)
        | NodeFailure::NoXclient
        | NodeFailure::XclientRefused(_)
        | NodeFailure::XforwardRefused(_) => Severity::Reach,
        NodeFailure::Closed(_)
        | NodeFailure::Silent(_)
        | NodeFailure::Malformed(..)
        | NodeFailure::Answer(..)
        | NodeFailure::Lacks(_) => Severity::Message,
    }
}
