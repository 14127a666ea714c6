//! The daemon: steering, the listener, sessions, the control socket, and an orderly stop.

mod status;
mod watch;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use weir_daemon::service;

use self::status::control_socket;
use self::watch::{Problems, background, watch_policy, watch_switches, with};
use crate::config::Config;
use crate::counters::Counters;
use crate::descriptors;
use crate::drive::drive;
use crate::failure::Failure;
use crate::modes::Modes;
use crate::nodes::Role;
use crate::nodes::names::Names;
use crate::places::{Place, Places};
use crate::policy::{Policy, Release};
use crate::privileges::Starter;
use crate::pulse::{BEAT, Pulse};
use crate::reload::Reload;
use crate::shared::Shared;
use crate::steer::{self, Known, Plan, RuleKind};
use crate::transparent::{Accepted, TransparentListener};

/// After a failed accept (no descriptors left, as a rule) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    let shared = Arc::new(Shared::new(&config, [&names, &mirror_names], wanting)?);
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

    let (stop, stopped) = channel::channel(false);
    let (cut, cutting) = channel::channel(false);
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
    stopped: &channel::Receiver<bool>,
    cutting: &channel::Receiver<bool>,
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
async fn finish(mut sessions: JoinSet<()>, limit: Duration, cut: &channel::Sender<bool>) {
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
