//! The daemon: steering, the listener, sessions, the control socket, and an orderly stop.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use weir_daemon::{control as socket, service};

use crate::bare_line_ends::BareLineEnds;
use crate::buffers::Buffers;
use crate::config::{Config, WhenTlsWanted};
use crate::control::{self, Control};
use crate::counters::Counters;
use crate::descriptors;
use crate::drive::{Shared, drive};
use crate::failure::Failure;
use crate::mirrors::{self, Mirrors};
use crate::modes::Modes;
use crate::nodes::names::Names;
use crate::nodes::warm::Warm;
use crate::nodes::{Family, NodeId, Pool, Role, probe};
use crate::places::{Place, Places};
use crate::policy::{Policy, Refusals, Release};
use crate::privileges::{self, Starter};
use crate::pulse::{BEAT, Pulse};
use crate::relay::settings::Settings;
use crate::reload::Reload;
use crate::return_path::ReturnPath;
use crate::spool::Budget;
use crate::steer::{self, Known, Pair, Plan, RuleKind, Steering};
use crate::suspects::Suspects;
use crate::tls;
use crate::transparent::{Accepted, TransparentListener};
use crate::treatment::Treatments;
use crate::wanted_tls::WantedTls;

/// After a failed accept (no descriptors left, as a rule) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the host's rules are looked after.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Pairs that wait to be exempted because they wanted TLS.
const WANTING: usize = 1024;

/// Runs until SIGTERM or SIGINT. SIGHUP reads the configuration anew, from `path`.
///
/// # Errors
/// If the daemon cannot start or the host cannot be cleaned up. Whatever was changed on the host by then is
/// taken back.
pub async fn run(config: Config, path: PathBuf, starter: Starter) -> anyhow::Result<()> {
    let shutdown = service::shutdown_signal().context("signals cannot be watched")?;
    let hangups = service::Hangups::watch().context("signals cannot be watched")?;
    let (wanting, wanted) = mpsc::channel(WANTING);
    let mut names = Names::new(Role::Filter, config.filter.nodes.clone());
    names.resolve().await;
    // The start does not wait for them: they are resolved in the background.
    let mirror = config.filter.mirror.as_ref();
    let mirror_names =
        Names::new(Role::Mirror, mirror.map(|mirror| mirror.nodes.clone()).unwrap_or_default());
    let shared = Arc::new(share(&config, [&names, &mirror_names], wanting)?);
    let port = config.steering.listen_port;
    let listener = TransparentListener::bind(port)
        .with_context(|| format!("steering.listen_port: TCP port {port} cannot be listened on"))?;
    let plan = Plan::new(&config);
    let policy = Arc::new(Policy::of(&config));
    let release = Arc::new(Release::of(&config));
    let pulse = Arc::new(Pulse::default());
    let known =
        Known { exempt: policy.in_force(), rules: policy.rules_in_force(), released: release.until() };
    let mut steering = steer::install(&plan, known, listener.as_fd(), pulse.clone(), &starter)
        .await
        .context("steering cannot be installed")?;
    // From here on nobody can do more than running needs.
    drop(starter);
    let connections = steering.connections().context("connections cannot be counted")?;
    shared.return_path.control(steering.admission().context("steering cannot be told what to take")?);
    let steering = Arc::new(Mutex::new(steering));
    let modes = Arc::new(Modes::new(shared.clone(), &config.customers));
    let problems = Problems::default();
    let _control = control_socket(&config, &shared, &steering, &policy, &modes, &release, &problems);
    let [names, mirror_names] = [names, mirror_names].map(|names| Arc::new(tokio::sync::Mutex::new(names)));
    let mut background = background(&config, [&names, &mirror_names], &shared, &steering, problems);
    let max_sessions = Arc::new(AtomicUsize::new(descriptors::sessions(&config.relay, &config.filter)));
    let reload = Reload {
        path,
        config: config.clone(),
        shared: shared.clone(),
        names,
        mirror_names,
        max_sessions: max_sessions.clone(),
        steering: steering.clone(),
        policy: policy.clone(),
        modes: modes.clone(),
    };
    background.spawn(reload.run(hangups));
    background.spawn(watch_switches(modes, release, steering.clone()));
    background.spawn(watch_policy(policy.clone(), steering.clone(), shared.clone(), wanted));
    service::ready("weir-agent");

    let (stop, stopped) = watch::channel(false);
    let (cut, cutting) = watch::channel(false);
    let mut sessions = JoinSet::new();
    let places = Places::new(
        match config.relay.max_sessions_per_customer {
            0 => usize::MAX,
            limit => limit,
        },
        connections,
    );
    let room = Room { max_sessions, places: Arc::new(places) };
    let accepting = accept(&listener, &shared, &room, &mut sessions, &stopped, &cutting, &pulse);
    tokio::select! {
        () = accepting => {}
        () = shutdown => {}
    }
    service::stopping();
    drop(background);
    let goodbyes = tokio::spawn(shared.warm.clone().close());
    // Sessions are finished and the host is cleaned up whatever fails on the way.
    let withdrawn = with(&steering, |steering| steering.withdraw()).await;
    turn_away_waiting(&listener, &shared).await;
    drop(listener);
    stop.send_replace(true);
    finish(sessions, Duration::from_secs(config.relay.shutdown_timeout), &cut).await;
    // What mirror nodes are asked about is nobody's mail any more.
    shared.budget.recall().await;
    // At most a few seconds, most of which are over.
    let _ = goodbyes.await;
    shared.refusals.save(true);
    let removed = with(&steering, |steering| steering.remove()).await;
    withdrawn?.context("steering cannot be withdrawn")?;
    removed?.context("steering cannot be removed")?;
    let blocked = policy.count_rules(RuleKind::Blocked);
    if blocked > 0 {
        warn!(
            blocked,
            "blocked customers stay blocked until their time is over, or until `weir-agent cleanup`"
        );
    }
    info!("stopped");
    Ok(())
}

/// What sessions share, as it is at the start.
///
/// # Errors
/// If what TLS with the nodes needs cannot be read.
pub(crate) fn share(
    config: &Config,
    [names, mirror_names]: [&Names; 2],
    wanting: mpsc::Sender<Pair>,
) -> anyhow::Result<Shared> {
    let node_tls = config.filter.tls.as_ref().map(tls::Nodes::new).transpose()?;
    let settings = Arc::new(Settings::new(config, hostname().into()));
    let max_wait = Duration::from_secs(config.filter.max_wait);
    let pool = Arc::new(Pool::new(&names.sites(), node_tls.clone(), max_wait));
    let warm = Warm::new(pool.clone(), settings.clone(), config.filter.warm_connections);
    let mirror_pool = Pool::new(&[], node_tls, mirrors::MAX_WAIT);
    let mirrors = Mirrors::new(config.filter.mirror.as_ref(), mirror_pool, pool.clone());
    mirrors.set(&mirror_names.sites());
    Ok(Shared {
        treatments: Treatments::new(&config.filter),
        settings,
        pool,
        warm: Arc::new(warm),
        mirrors: Arc::new(mirrors),
        budget: Arc::new(Budget::new(&config.spool)),
        buffers: Arc::new(Buffers::new(config.relay.max_buffered)),
        upstream_ports: config.steering.upstream_port_range(),
        counters: Counters::default(),
        bare_line_ends: BareLineEnds::default(),
        wanted_tls: match config.relay.wanted_tls {
            WhenTlsWanted::Report => WantedTls::default(),
            WhenTlsWanted::Exempt => WantedTls::telling(wanting),
        },
        refusals: Refusals::of(config),
        return_path: Arc::new(ReturnPath::new(Instant::now())),
        suspects: Suspects::default(),
    })
}

/// For how many sessions there is room, in all and for each customer.
struct Room {
    /// Another after a reload, perhaps.
    max_sessions: Arc<AtomicUsize>,
    places: Arc<Places>,
}

/// Takes connections for ever.
async fn accept(
    listener: &TransparentListener,
    shared: &Arc<Shared>,
    room: &Room,
    sessions: &mut JoinSet<()>,
    stopped: &watch::Receiver<bool>,
    cutting: &watch::Receiver<bool>,
    pulse: &Pulse,
) {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse.show();
        let accepted = tokio::select! {
            _ = beats.tick() => continue,
            accepted = listener.accept() => accepted,
            Some(ended) = sessions.join_next() => {
                note_panic(&ended);
                shared.counters.sessions_now.store(sessions.len() as u64, Ordering::Relaxed);
                continue;
            }
        };
        let accepted = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match admit(&accepted, shared, room, sessions.len()) {
            Ok(place) => {
                Counters::add(&shared.counters.sessions);
                let session = drive(accepted, shared.clone(), stopped.clone(), cutting.clone());
                sessions.spawn(async move {
                    session.await;
                    drop(place);
                });
                shared.counters.sessions_now.store(sessions.len() as u64, Ordering::Relaxed);
            }
            Err(failure) => turn_away(&accepted, failure),
        }
    }
}

/// A place for the session, or why there is none.
fn admit(accepted: &Accepted, shared: &Shared, room: &Room, sessions: usize) -> Result<Place, Failure> {
    let (customer, counters) = (accepted.customer, &shared.counters);
    if sessions >= room.max_sessions.load(Ordering::Relaxed) {
        Counters::add(&counters.overload);
        warn!(%customer, "too many sessions, connection turned away");
        return Err(Failure::Overload);
    }
    if shared.buffers.is_full() {
        Counters::add(&counters.overload_buffered);
        warn!(%customer, "relay.max_buffered is reached, connection turned away");
        return Err(Failure::BuffersFull);
    }
    room.places.take(customer.ip()).map_err(|refused| {
        Counters::add(&counters.overload_customer);
        if refused.is_news {
            let customer = refused.source;
            warn!(%customer, "relay.max_sessions_per_customer is reached, connections turned away");
        }
        Failure::CustomerOverload
    })
}

/// Overload never opens the path past the filter: a spammer could cause it.
fn turn_away(accepted: &Accepted, failure: Failure) {
    // A customer that cannot take one line at once is turned away without it.
    let _ = accepted.stream.try_write(&failure.reply(&accepted.destination).to_bytes());
}

/// Connections that the kernel had taken when the agent was told to stop: closing the listener would
/// reset them.
async fn turn_away_waiting(listener: &TransparentListener, shared: &Shared) {
    while let Ok(Ok(accepted)) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        Counters::add(&shared.counters.sessions);
        turn_away(&accepted, Failure::Stopping);
    }
}

/// A session that panicked took its message's log line with it.
fn note_panic(ended: &Result<(), JoinError>) {
    if let Err(failure) = ended {
        error!(%failure, "session failed: a defect of weir-agent");
    }
}

/// Waits for the sessions; cuts those that are not done in time, but none whose message the destination
/// may have taken already.
async fn finish(mut sessions: JoinSet<()>, limit: Duration, cut: &watch::Sender<bool>) {
    let all = async {
        while let Some(ended) = sessions.join_next().await {
            note_panic(&ended);
        }
    };
    if tokio::time::timeout(limit, all).await.is_err() {
        warn!(sessions = sessions.len(), "sessions cut: relay.shutdown_timeout is over");
        cut.send_replace(true);
        while let Some(ended) = sessions.join_next().await {
            note_panic(&ended);
        }
    }
}

/// What is wrong with steering, in words.
type Problems = Arc<Mutex<Vec<String>>>;

type SharedSteering = Arc<Mutex<Box<dyn Steering>>>;
/// Locked while names are resolved.
type SharedNames = Arc<tokio::sync::Mutex<Names>>;

/// Steering talks to the kernel and blocks for milliseconds, so it has a thread of its own.
async fn with<T: Send + 'static>(
    steering: &SharedSteering,
    act: impl FnOnce(&mut dyn Steering) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let steering = steering.clone();
    let act = move || act(steering.lock().unwrap_or_else(PoisonError::into_inner).as_mut());
    tokio::task::spawn_blocking(act).await.context("steering stopped half-way")
}

/// Probes of the filter nodes and repair of the host's rules. Stops when dropped.
fn background(
    config: &Config,
    [names, mirror_names]: [&SharedNames; 2],
    shared: &Arc<Shared>,
    steering: &SharedSteering,
    problems: Problems,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
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
    tasks.spawn(watch_steering(steering.clone(), shared.return_path.clone(), problems));
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
                Err(failure) => warn!(node = %address, %failure, "{role} failed its probe"),
            }
        }
        tokio::time::sleep(interval).await;
    }
}

async fn watch_steering(steering: SharedSteering, return_path: Arc<ReturnPath>, known: Problems) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        return_path.look(Instant::now());
        let problems = with(&steering, |steering| steering.problems()).await.unwrap_or_default();
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if problems != *known {
            for problem in &problems {
                warn!(%problem, "steering");
            }
            if problems.is_empty() {
                info!("steering is whole again");
            }
            *known = problems;
        }
    }
}

/// What the operator has switched for a while: it is said again and again, and ends.
async fn watch_switches(modes: Arc<Modes>, release: Arc<Release>, steering: SharedSteering) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        modes.sweep();
        let (release, steering) = (release.clone(), steering.clone());
        if let Err(failure) = tokio::task::spawn_blocking(move || release.sweep(&steering)).await {
            error!(%failure, "release: a defect of weir-agent");
        }
    }
}

/// Exempts pairs that wanted TLS (there are none to hear of in `report`), and ends exemptions that are over.
async fn watch_policy(
    policy: Arc<Policy>,
    steering: SharedSteering,
    shared: Arc<Shared>,
    mut wanted: mpsc::Receiver<Pair>,
) {
    let mut sweeps = tokio::time::interval(CHECK_INTERVAL);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut wanting = Vec::new();
        tokio::select! {
            // Nobody tells in `report`.
            _ = wanted.recv_many(&mut wanting, WANTING), if !wanted.is_closed() => {}
            _ = sweeps.tick() => {}
        }
        let (policy, steering, shared) = (policy.clone(), steering.clone(), shared.clone());
        let work = tokio::task::spawn_blocking(move || {
            policy.exempt_wanting(&steering, &shared.refusals, &wanting);
            policy.sweep(&steering, &shared.refusals);
            shared.refusals.save(false);
        });
        if let Err(failure) = work.await {
            error!(%failure, "exemptions: a defect of weir-agent");
        }
    }
}

fn control_socket(
    config: &Config,
    shared: &Arc<Shared>,
    steering: &SharedSteering,
    policy: &Arc<Policy>,
    modes: &Arc<Modes>,
    release: &Arc<Release>,
    problems: &Problems,
) -> Option<socket::Server> {
    let problems = problems.clone();
    let status = status(
        config,
        shared.clone(),
        steering.clone(),
        policy.clone(),
        modes.clone(),
        release.clone(),
        problems,
    );
    let (policy, steering, pool) = (policy.clone(), steering.clone(), shared.pool.clone());
    let control = Control { policy, steering, status, pool, modes: modes.clone(), release: release.clone() };
    socket::serve("agent", move |request| control.answer(request))
}

fn status(
    config: &Config,
    shared: Arc<Shared>,
    steering: SharedSteering,
    policy: Arc<Policy>,
    modes: Arc<Modes>,
    release: Arc<Release>,
    problems: Problems,
) -> impl Fn() -> Value + use<> {
    let backend = config.steering.backend;
    let when_agent_dies = config.steering.when_agent_dies;
    move || {
        // Held only for moments; a status without these numbers is better than one that waits.
        let steering = steering.try_lock().ok().and_then(|mut steering| steering.counters().ok());
        json!({
            "program": "weir-agent",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "backend": backend,
            "when_agent_dies": when_agent_dies,
            "problems": *problems.lock().unwrap_or_else(PoisonError::into_inner),
            "released": release.status(),
            "switched_modes": modes.status(),
            "counters": shared.counters,
            "buffered_bytes": shared.buffers.held(),
            "spool_memory_bytes": shared.budget.in_memory(),
            "spool_disk_bytes": shared.budget.on_disk(),
            "nodes": shared.pool.status(),
            "waiting_for_a_node": shared.pool.waiting(),
            "warm_connections": shared.warm.ready(),
            "suspect_customers": shared.suspects.count(),
            "mirror": shared.mirrors.status(),
            "bare_line_ends": shared.bare_line_ends.top(),
            "wanted_tls": control::wanted_tls(&shared.wanted_tls, &policy, backend),
            "policy_problem": policy.problem(),
            "return_path": shared.return_path.status(Instant::now()),
            "exempt_pairs": policy.count(),
            "exempt_customers": policy.count_rules(RuleKind::ExemptCustomer),
            "exempt_destinations": policy.count_rules(RuleKind::ExemptDestination),
            "blocked": policy.count_rules(RuleKind::Blocked),
            "steering": steering,
            "privileges": privileges::status(),
        })
    }
}

/// The name said in EHLO to filter nodes.
fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let plain = |name: &String| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
    };
    name.filter(plain).unwrap_or_else(|| "weir-agent.invalid".into())
}
