//! What goes on beside the sessions: probes of the nodes, repair of the host's rules, what ends by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};
use weir_daemon::log::said;

use super::{Agent, WANTING};
use crate::config::Config;
use crate::nodes::names::Names;
use crate::nodes::{Family, NodeId, Role, probe};
use crate::shared::Shared;
use crate::steer::{Pair, Steering};

/// How often the host's rules are looked after, though the kernel tells of most changes: not of all, and who knows.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What lies between two checks, however much changes.
const CHECK_PAUSE: Duration = Duration::from_millis(100);

/// What is wrong with steering, in words.
pub(super) type Problems = Arc<Mutex<Vec<String>>>;

pub(super) type SharedSteering = Arc<Mutex<Box<dyn Steering>>>;
/// Locked while names are resolved.
pub(super) type SharedNames = Arc<tokio::sync::Mutex<Names>>;

/// Steering talks to the kernel and blocks for milliseconds, so it has a thread of its own.
pub(super) async fn with<T: Send + 'static>(
    steering: &SharedSteering,
    act: impl FnOnce(&mut dyn Steering) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let steering = steering.clone();
    let act = move || act(steering.lock().unwrap_or_else(PoisonError::into_inner).as_mut());
    tokio::task::spawn_blocking(act).await.context("steering stopped half-way")
}

/// Probes of the filter nodes and repair of the host's rules. Stops when dropped.
pub(super) fn background(
    config: &Config,
    [names, mirror_names]: [&SharedNames; 2],
    agent: &Agent,
) -> JoinSet<()> {
    let (mut tasks, shared) = (JoinSet::new(), &agent.shared);
    let interval = Duration::from_secs(config.filter.probe_interval);
    let families = [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| config.customers.prefixes.iter().any(|prefix| Family::of(prefix.addr()) == *family));
    let families: Vec<_> = families.collect();
    let resolve_interval = Duration::from_secs(config.filter.resolve_interval);
    for (role, names) in [(Role::Filter, names), (Role::Mirror, mirror_names)] {
        let nodes = Nodes { shared: shared.clone(), role };
        tasks.spawn(watch_names(nodes.clone(), names.clone(), resolve_interval));
        tasks.spawn(watch_nodes(nodes, families.clone(), interval));
    }
    tasks.spawn(tend_warm(shared.clone()));
    tasks.spawn(watch_steering(agent.clone()));
    tasks
}

/// Nodes that are looked after.
#[derive(Clone)]
struct Nodes {
    shared: Arc<Shared>,
    role: Role,
}

/// Probes every node that there is, also those that come later.
async fn watch_nodes(all: Nodes, families: Vec<Family>, interval: Duration) {
    let (mut probes, mut known) = (JoinSet::new(), Vec::new());
    loop {
        let nodes = all.shared.pool(all.role).ids();
        for node in nodes.iter().filter(|node| !known.contains(*node)) {
            for family in &families {
                probes.spawn(watch_node(all.clone(), *node, *family, interval));
            }
        }
        known = nodes;
        tokio::time::sleep(CHECK_INTERVAL).await;
        // Of nodes that are gone.
        while probes.try_join_next().is_some() {}
    }
}

/// Connections to the nodes that are kept ready.
async fn tend_warm(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        shared.warm.tend(Instant::now());
    }
}

async fn watch_names(all: Nodes, names: SharedNames, interval: Duration) {
    loop {
        let mut locked = names.lock().await;
        let before = locked.sites();
        locked.resolve().await;
        let sites = locked.sites();
        if sites != before {
            let nodes: Vec<_> = sites.iter().map(|site| site.address.to_string()).collect();
            info!(nodes = nodes.join(" "), "{}s' names have other addresses", all.role);
            all.shared.set_nodes(all.role, &sites);
        }
        drop(locked);
        tokio::time::sleep(interval).await;
    }
}

/// As long as the node is there.
async fn watch_node(all: Nodes, node: NodeId, family: Family, interval: Duration) {
    let Nodes { shared, role } = all;
    let (pool, settings) = (shared.pool(role), &shared.settings);
    let Some(address) = pool.address(node) else { return };
    let limit = settings.node_connect_timeout + settings.node_reply_timeout;
    while pool.ids().contains(&node) {
        let (began, tls) = (Instant::now(), pool.tls(node));
        let found = probe::probe(address, family, &settings.hostname, tls, limit).await;
        if pool.probed(node, family, &found, began, Instant::now()) {
            match found {
                Ok(_) => info!(node = %address, "{role} works again"),
                Err(failure) => warn!(node = %address, failure = said(failure), "{role} failed its probe"),
            }
        }
        tokio::time::sleep(interval).await;
    }
}

async fn watch_steering(agent: Agent) {
    let mut events = match agent.steering.lock().unwrap_or_else(PoisonError::into_inner).events() {
        Ok(events) => events,
        Err(error) => {
            warn!(%error, "the kernel tells of no changes: what others remove is noticed within a second");
            None
        }
    };
    let mut unfinished = false;
    loop {
        tokio::time::sleep(CHECK_PAUSE).await;
        if !unfinished {
            let change = async {
                match &mut events {
                    Some(events) => events.next().await,
                    None => std::future::pending().await,
                }
            };
            // Whether it was one or the other, the check is the same.
            let _ = tokio::time::timeout(CHECK_INTERVAL - CHECK_PAUSE, change).await;
        }
        agent.shared.return_path.look(Instant::now());
        let (charge, steering) = (agent.charge.clone(), agent.steering.clone());
        let check = move || {
            // What an heir does is no problem, and not to be put right. Held before steering is, as everywhere.
            let _held = charge.change().ok()?;
            let mut steering = steering.lock().unwrap_or_else(PoisonError::into_inner);
            Some((steering.problems(), steering.is_unfinished()))
        };
        if let Ok(Some((problems, is_unfinished))) = tokio::task::spawn_blocking(check).await {
            note(problems, &agent.problems);
            unfinished = is_unfinished;
        }
    }
}

fn note(problems: Vec<String>, known: &Problems) {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if problems == *known {
        return;
    }
    for problem in &problems {
        warn!(%problem, "steering");
    }
    if problems.is_empty() {
        info!("steering is whole again");
    }
    *known = problems;
}

/// What the operator has switched for a while: it is said again and again, and ends.
pub(super) async fn watch_switches(agent: Agent) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        agent.modes.sweep();
        let agent = agent.clone();
        let work = tokio::task::spawn_blocking(move || {
            // Otherwise it is another agent's to end it.
            if let Ok(_held) = agent.charge.change() {
                agent.release.sweep(&agent.steering);
            }
        });
        if let Err(failure) = work.await {
            error!(%failure, "release: a defect of weir-agent");
        }
    }
}

/// Exempts pairs that wanted TLS (there are none to hear of in `report`), and ends exemptions that are over.
pub(super) async fn watch_policy(agent: Agent, mut wanted: mpsc::Receiver<Pair>) {
    let mut sweeps = tokio::time::interval(CHECK_INTERVAL);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut wanting = Vec::new();
        tokio::select! {
            // Nobody tells in `report`.
            _ = wanted.recv_many(&mut wanting, WANTING), if !wanted.is_closed() => {}
            _ = sweeps.tick() => {}
        }
        let agent = agent.clone();
        let work = tokio::task::spawn_blocking(move || {
            let Agent { policy, steering, shared, charge, .. } = &agent;
            // Otherwise it is another agent's: refusals are kept for it, and who wants TLS will show it again.
            let Ok(_held) = charge.change() else { return };
            policy.exempt_wanting(steering, &shared.refusals, &wanting);
            policy.sweep(steering, &shared.refusals);
            shared.refusals.save(false);
        });
        if let Err(failure) = work.await {
            error!(%failure, "exemptions: a defect of weir-agent");
        }
    }
}
