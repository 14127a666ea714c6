//! Counts since the start, and the object that `weir-filter status` shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::policy::Verdict;
use crate::policy::script::Keeper;
use crate::serve::Node;

#[derive(Debug)]
pub struct Counters {
    started: Instant,
    sessions_open: Arc<AtomicUsize>,
    pub(crate) sessions: AtomicU64,
    pub(crate) refused_connections: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) deferred: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) unscanned: AtomicU64,
    pub(crate) refused_early: AtomicU64,
    pub(crate) incomplete: AtomicU64,
    pub(crate) handshakes: AtomicU64,
    pub(crate) failed_handshakes: AtomicU64,
    pub(crate) savings: AtomicU64,
    pub(crate) failed_savings: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            sessions_open: Arc::default(),
            sessions: AtomicU64::default(),
            refused_connections: AtomicU64::default(),
            accepted: AtomicU64::default(),
            deferred: AtomicU64::default(),
            rejected: AtomicU64::default(),
            unscanned: AtomicU64::default(),
            refused_early: AtomicU64::default(),
            incomplete: AtomicU64::default(),
            handshakes: AtomicU64::default(),
            failed_handshakes: AtomicU64::default(),
            savings: AtomicU64::default(),
            failed_savings: AtomicU64::default(),
        }
    }
}

/// Counts a session as open until it is dropped, however it ends.
#[derive(Debug)]
pub struct OpenSession(Arc<AtomicUsize>);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counters {
    pub fn open_session(&self) -> OpenSession {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.sessions_open.fetch_add(1, Ordering::Relaxed);
        OpenSession(self.sessions_open.clone())
    }

    pub fn sessions_open(&self) -> usize {
        self.sessions_open.load(Ordering::Relaxed)
    }

    pub fn refused_connection(&self) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A transaction or one of its recipients, before there was a message.
    pub fn refused_early(&self) {
        self.refused_early.fetch_add(1, Ordering::Relaxed);
    }

    pub fn incomplete(&self) {
        self.incomplete.fetch_add(1, Ordering::Relaxed);
    }

    pub fn handshake(&self, done: bool) {
        let counter = if done { &self.handshakes } else { &self.failed_handshakes };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts of what was sent were written to their file, or could not be.
    pub fn saved(&self, done: bool) {
        let counter = if done { &self.savings } else { &self.failed_savings };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn judged(&self, verdict: &Verdict, unscanned: bool) {
        let counter = match verdict {
            Verdict::Accept => &self.accepted,
            Verdict::Refuse(refusal) if refusal.code < 500 => &self.deferred,
            Verdict::Refuse(_) => &self.rejected,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if unscanned {
            self.unscanned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The status object. `listen` are the addresses listened on.
pub fn status(node: &Node, listen: &[String]) -> Value {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &node.counters;
    let store = node.policy.counters();
    let usage = store.memory().usage();
    let scanners: Map<String, Value> =
        node.scanners.counts().map(|(name, counts)| (name.to_string(), json!(counts))).collect();
    json!({
        "program": "weir-filter",
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_seconds": counters.started.elapsed().as_secs(),
        "listen": listen,
        "sessions": {
            "open": counters.sessions_open(),
            "total": of(&counters.sessions),
            "refused": of(&counters.refused_connections),
            "in_tls": of(&counters.handshakes),
            "tls_failed": of(&counters.failed_handshakes),
        },
        "messages": {
            "accepted": of(&counters.accepted),
            "deferred": of(&counters.deferred),
            "rejected": of(&counters.rejected),
            "unscanned": of(&counters.unscanned),
            "refused_early": of(&counters.refused_early),
            "incomplete": of(&counters.incomplete),
        },
        "counters": {
            "keys": usage.keys,
            "shared": store.shared().map(|shared| shared.state()),
            "evicted": usage.evicted,
            "savings": of(&counters.savings),
            "failed_savings": of(&counters.failed_savings),
        },
        "outbreak": node.inside.outbreaks().map(|engine| {
            let nodes = engine.store();
            json!({ "messages": nodes.memory().usage(), "shared": nodes.shared() })
        }),
        "script": node.scripts.as_ref().map(Keeper::status),
        "customers": node.customers.status(),
        "blocks": node.blocks.len(),
        "script_blocks": node.blocker.status(),
        "outcomes": node.judged.status(),
        "channel": node.channel.as_ref().map(crate::channel::Channel::status),
        "scanners": scanners,
        "outside": node.outside.status(),
        "quarantine": node.quarantine.as_ref().map(crate::quarantine::Quarantine::status),
        "audit_log": node.privacy.audit_log,
        "events": node.records.as_ref().map(|records| records.writer.status()),
    })
}
