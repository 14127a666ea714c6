//! The slow channel to the agents, beside mail: they fetch who is blocked, and report what destinations answered. Other
//! nodes ask for events.

mod log;
mod outcomes;
mod server;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use ipnet::IpNet;
use serde_json::{Value, json};
use weir_daemon::http::Token;

use crate::bounded::Bounded;
use crate::config::{Channel as Config, Tls as TlsConfig};
use crate::serve::tls::Tls;

pub use log::ask_others;
pub use outcomes::{Judged, NAMESPACES};
pub use server::serve;

/// Agents of which something is known.
const MAX_AGENTS: usize = 1000;

/// Attempts without the token are said in the log this often at most.
const COMPLAINT: Duration = Duration::from_secs(1);

/// Who may use the channel, and what came of it.
pub struct Channel {
    pub listen: Vec<SocketAddr>,
    agents: Vec<IpNet>,
    nodes: Vec<IpAddr>,
    token: Token,
    tls: Option<Tls>,
    /// Tells this run's list of blocks from that of another.
    instance: u64,
    known: Mutex<Bounded<IpAddr, Agent>>,
    complained: Mutex<Option<Instant>>,
    strangers: AtomicU64,
    unauthenticated: AtomicU64,
}

/// What is known of an agent.
#[derive(Debug)]
struct Agent {
    last: Instant,
    /// The list of blocks that it has.
    has: Option<String>,
    outcomes: u64,
    lost: u64,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl Channel {
    /// Agents are `proxies` where the section names none; its certificate is that of the mail port.
    ///
    /// # Errors
    /// Which file will not do, and why.
    pub fn new(config: &Config, proxies: &[IpNet], tls: Option<&TlsConfig>) -> anyhow::Result<Self> {
        let tls = tls.filter(|_| config.tls).map(Tls::new).transpose()?;
        let agents = if config.agents.is_empty() { proxies } else { &config.agents };
        Ok(Self {
            listen: config.listen.clone(),
            agents: agents.to_vec(),
            nodes: config.nodes.iter().map(|node| node.ip().to_canonical()).collect(),
            token: Token::read(&config.token_file).context("channel.token_file")?,
            tls,
            instance: rand::random(),
            known: Mutex::new(Bounded::new(MAX_AGENTS)),
            complained: Mutex::default(),
            strangers: AtomicU64::default(),
            unauthenticated: AtomicU64::default(),
        })
    }

    fn may_connect(&self, peer: IpAddr) -> bool {
        let may = self.is_node(peer) || self.agents.iter().any(|prefix| prefix.contains(&peer));
        if !may {
            self.strangers.fetch_add(1, Ordering::Relaxed);
            self.complain(peer, "none of the agents and nodes that may use the channel");
        }
        may
    }

    fn is_node(&self, peer: IpAddr) -> bool {
        self.nodes.contains(&peer)
    }

    fn without_token(&self, peer: IpAddr) {
        self.unauthenticated.fetch_add(1, Ordering::Relaxed);
        self.complain(peer, "without the token of channel.token_file");
    }

    fn complain(&self, peer: IpAddr, what: &str) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            *complained = Some(Instant::now());
            tracing::warn!(%peer, what, "refused on the channel");
        }
    }

    fn heard_of(&self, peer: IpAddr, note: impl FnOnce(&mut Agent)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&peer).is_none() {
            known.insert(peer, Agent { last: Instant::now(), has: None, outcomes: 0, lost: 0 });
        }
        if let Some(agent) = known.get_mut(&peer) {
            agent.last = Instant::now();
            note(agent);
        }
    }

    pub fn status(&self) -> Value {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let agents = known.iter().map(|(address, agent)| {
            json!({
                "address": address,
                "last_contact_seconds": agent.last.elapsed().as_secs(),
                "has_blocks": agent.has,
                "outcomes": agent.outcomes,
                "outcomes_lost": agent.lost,
            })
        });
        json!({
            "agents": agents.collect::<Vec<_>>(),
            "refused_strangers": self.strangers.load(Ordering::Relaxed),
            "refused_without_token": self.unauthenticated.load(Ordering::Relaxed),
        })
    }
}
