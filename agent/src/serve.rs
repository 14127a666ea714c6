//! The daemon: steering, the listener, sessions, the control socket, and an orderly stop.

mod ending;
mod entrance;
mod estate;
mod status;
mod watch;

use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use weir_daemon::service;
use weir_smtp::Reply;

use self::ending::{Ending, note_panic};
use self::entrance::{Before, Entrance};
use self::estate::{Estate, Farewell, Turn};
use self::status::{Steered, control_socket};
use self::watch::{Problems, SharedSteering, background, watch_policy, watch_switches};
use crate::channel::{self as channels, Turned};
use crate::charge::Charge;
use crate::config::{Backend, Config};
use crate::counters::Counters;
use crate::descriptors;
use crate::drive::drive;
use crate::failure::Failure;
use crate::handover::Predecessor;
use crate::metrics::families;
use crate::modes::Modes;
use crate::nodes::Role;
use crate::nodes::names::Names;
use crate::places::{Place, Places};
use crate::policy::{Policy, Release};
use crate::privileges::Starter;
use crate::pulse::{BEAT, Pulse};
use crate::relay::record::SessionId;
use crate::reload::Reload;
use crate::shared::Shared;
use crate::steer::{Claim, Known, Pair, Plan, Steering};
use crate::transparent::{Accepted, TransparentListener};

/// After a failed accept (no descriptors left, as a rule) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Pairs that wait to be exempted because they wanted TLS.
const WANTING: usize = 1024;

/// What all that goes on beside the sessions has a part in.
#[derive(Clone)]
pub(crate) struct Agent {
    pub shared: Arc<Shared>,
    pub steering: SharedSteering,
    pub policy: Arc<Policy>,
    pub release: Arc<Release>,
    pub modes: Arc<Modes>,
    pub charge: Arc<Charge>,
    steers: bool,
    pub steered: Arc<Steered>,
    places: Arc<Places>,
    problems: Problems,
    predecessor: Arc<Mutex<Option<Arc<Predecessor>>>>,
}

impl Agent {
    #[cfg(test)]
    pub(crate) fn of(config: &Config, shared: Shared, steering: Box<dyn Steering>) -> Self {
        let each = usize::MAX;
        let parts = (Arc::new(Policy::of(config)), Arc::new(Release::of(config)));
        Self::new(config, Arc::new(shared), steering, parts, Arc::new(Places::new(each, None)))
    }

    fn new(
        config: &Config,
        shared: Arc<Shared>,
        steering: Box<dyn Steering>,
        (policy, release): (Arc<Policy>, Arc<Release>),
        places: Arc<Places>,
    ) -> Self {
        Self {
            modes: Arc::new(Modes::new(shared.clone(), &config.customers)),
            shared,
            steering: Arc::new(Mutex::new(steering)),
            policy,
            release,
            charge: Arc::default(),
            steers: config.steering.backend != Backend::External,
            steered: Arc::default(),
            places,
            problems: Problems::default(),
            predecessor: Arc::default(),
        }
    }

    /// Whether it changes what the kernel does with packets.
    pub(crate) fn steers(&self) -> bool {
        self.steers
    }

    /// What is wrong with steering, in words.
    pub(crate) fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The agent before this one, as long as it is there.
    fn predecessor(&self) -> Option<Arc<Predecessor>> {
        let predecessor = self.predecessor.lock().unwrap_or_else(PoisonError::into_inner);
        predecessor.clone().filter(|predecessor| predecessor.pid().is_some())
    }

    /// Lets the agent before go, which is told that this one serves.
    fn release_predecessor(&self, before: Before) {
        let released = before.release(&self.places, &self.shared).map(Arc::new);
        *self.predecessor.lock().unwrap_or_else(PoisonError::into_inner) = released;
    }
}

/// In charge, with nothing accepted yet.
struct Begun {
    agent: Agent,
    plan: Plan,
    listener: TransparentListener,
    pulse: Arc<Pulse>,
    claim: Claim,
    before: Option<Before>,
}

/// Runs until SIGTERM or SIGINT, or until another agent has taken over and the last session is over. SIGHUP reads the
/// configuration anew, from `path`. `take_over`: in the place of the agent that runs here, if one does.
///
/// # Errors
/// If the daemon cannot start or the host cannot be cleaned up. Whatever was changed on the host by then is
/// taken back.
pub async fn run(config: Config, path: PathBuf, starter: Starter, take_over: bool) -> anyhow::Result<()> {
    let mut shutdown = pin!(service::shutdown_signal().context("signals cannot be watched")?);
    let hangups = service::Hangups::watch().context("signals cannot be watched")?;
    let (wanting, wanted) = mpsc::channel(WANTING);
    let mut names = Names::new(Role::Filter, config.filter.nodes.clone());
    names.resolve().await;
    // The start does not wait for them: they are resolved in the background.
    let mirror = config.filter.mirror.as_ref();
    let mirror_names =
        Names::new(Role::Mirror, mirror.map(|mirror| mirror.nodes.clone()).unwrap_or_default());
    let begun = begin(&config, [&names, &mirror_names], wanting, starter, take_over).await?;
    let Begun { agent, plan, listener, pulse, claim, before } = begun;
    let (control, metrics) = (control_socket(&config, &agent), serve_metrics(&config, &agent));
    before.into_iter().for_each(|before| agent.release_predecessor(before));
    let [names, mirror_names] = [names, mirror_names].map(|names| Arc::new(tokio::sync::Mutex::new(names)));
    let mut background = background(&config, [&names, &mirror_names], &agent);
    let max_sessions = Arc::new(AtomicUsize::new(descriptors::sessions(&config.relay, &config.filter)));
    let reload = Reload {
        path,
        config: config.clone(),
        names,
        mirror_names,
        max_sessions: max_sessions.clone(),
        agent: agent.clone(),
    };
    background.spawn(reload.run(hangups));
    background.spawn(watch_switches(agent.clone()));
    background.spawn(watch_policy(agent.clone(), wanted));
    channels::watch(&agent, &mut background);
    let (farewell, handed_over) = mpsc::unbounded_channel();
    let turn = Turn::default();
    let estate = Estate::new(&config, &plan, &agent, farewell, turn.clone());
    let listener_copy = estate.expect_heirs(&listener, claim);
    service::ready("weir-agent");

    let mut sessions = JoinSet::new();
    let room = Room { max_sessions, places: agent.places.clone() };
    let door = Door { listener: &listener, shared: &agent.shared, room, pulse: &pulse };
    let accepting = accept(&door, &mut sessions, handed_over);
    let (farewell, told_to_stop) = until_the_end(accepting, shutdown.as_mut(), &turn).await;
    let ending = Ending { relay: config.relay.clone(), agent, background, sessions };
    match farewell {
        None => ending.stop(listener, &listener_copy).await,
        Some(farewell) => {
            drop(listener);
            // The other has its own, and wants the address.
            drop((control, metrics));
            let shutdown = async {
                if !told_to_stop {
                    shutdown.await;
                }
            };
            ending.drain(farewell, shutdown).await;
            Ok(())
        }
    }
}

/// Until that is dropped.
fn serve_metrics(config: &Config, agent: &Agent) -> JoinSet<()> {
    let mut serving = JoinSet::new();
    if let Some(metrics) = &config.metrics {
        let agent = agent.clone();
        serving.spawn(weir_daemon::metrics::serve(metrics.listen.clone(), move || families(&agent).text()));
    }
    serving
}

/// Comes into charge.
async fn begin(
    config: &Config,
    names: [&Names; 2],
    wanting: mpsc::Sender<Pair>,
    starter: Starter,
    take_over: bool,
) -> anyhow::Result<Begun> {
    let mut plan = Plan::new(config);
    let entrance = Entrance::find(config, &plan, take_over)?;
    entrance.complete(&mut plan);
    // Files are read only now: an agent before this one has written what it knows.
    let shared = Arc::new(Shared::new(config, names, wanting)?);
    let (policy, release) = (Arc::new(Policy::of(config)), Arc::new(Release::of(config)));
    if config.steering.backend != Backend::External {
        policy.remember_nodes_blocks(shared.blocked.rules());
    }
    entrance.accepts(&policy)?;
    let listener = entrance.listener(config.steering.listen_port)?;
    let pulse = Arc::new(Pulse::default());
    let known =
        Known { exempt: policy.in_force(), rules: policy.rules_in_force(), released: release.until() };
    let each = match config.relay.max_sessions_per_customer {
        0 => usize::MAX,
        limit => limit,
    };
    // The starter ends with it: from then on nobody can do more than running needs.
    let mut entered = entrance.enter(&plan, known, &listener, pulse.clone(), starter, each).await?;
    if let Some(before) = &entered.before {
        before.inherit(&shared);
    }
    shared.return_path.control(entered.admission.take());
    let agent = Agent::new(config, shared, entered.steering, (policy, release), entered.places);
    Ok(Begun { agent, plan, listener, pulse, claim: entered.claim, before: entered.before })
}

/// Until the agent is to stop (`None`), or another has taken over; and whether it is to stop. A stop does not come between
/// two agents: then this one is in charge for good, or no more.
async fn until_the_end(
    accepting: impl Future<Output = Farewell>,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
    turn: &Turn,
) -> (Option<Farewell>, bool) {
    let mut accepting = pin!(accepting);
    tokio::select! {
        farewell = &mut accepting => return (Some(farewell), false),
        () = &mut shutdown => {}
    }
    tokio::select! {
        farewell = &mut accepting => (Some(farewell), true),
        () = turn.take_for_good() => (None, true),
    }
}

/// For how many sessions there is room, in all and for each customer.
struct Room {
    /// Another after a reload, perhaps.
    max_sessions: Arc<AtomicUsize>,
    places: Arc<Places>,
}

/// Where connections come in.
struct Door<'a> {
    listener: &'a TransparentListener,
    shared: &'a Arc<Shared>,
    room: Room,
    pulse: &'a Pulse,
}

/// Takes connections until another agent does.
async fn accept(
    door: &Door<'_>,
    sessions: &mut JoinSet<()>,
    mut handed_over: mpsc::UnboundedReceiver<Farewell>,
) -> Farewell {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        door.pulse.show();
        let accepted = tokio::select! {
            _ = beats.tick() => continue,
            Some(farewell) = handed_over.recv() => return farewell,
            accepted = door.listener.accept() => accepted,
            Some(ended) = sessions.join_next() => {
                note_panic(&ended);
                door.shared.counters.sessions_now.store(sessions.len() as u64, Ordering::Relaxed);
                continue;
            }
        };
        match accepted {
            Ok(accepted) => door.take(accepted, sessions),
            Err(error) => {
                warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Door<'_> {
    fn take(&self, accepted: Accepted, sessions: &mut JoinSet<()>) {
        let shared = self.shared;
        if let Some(turned) = shared.blocked.turns_away(accepted.customer.ip(), Instant::now()) {
            refuse_blocked(&accepted, shared, turned);
            return;
        }
        match admit(&accepted, shared, &self.room, sessions.len()) {
            Ok(place) => {
                Counters::add(&shared.counters.sessions);
                sessions.spawn(drive(accepted, place, shared.clone()));
                shared.counters.sessions_now.store(sessions.len() as u64, Ordering::Relaxed);
            }
            Err(failure) => turn_away(&accepted, failure),
        }
    }
}

/// At the banner, with the reason (RFC 5321 section 3.1); or without a word, if that was just said.
fn refuse_blocked(accepted: &Accepted, shared: &Shared, turned: Turned) {
    let (customer, destination) = (accepted.customer, accepted.destination);
    let Some(text) = turned.text else {
        Counters::add(&shared.counters.blocked_untold);
        return;
    };
    Counters::add(&shared.counters.blocked_told);
    let id = SessionId::new(rand::random());
    info!(%id, %customer, %destination, %text, "connection of a blocked customer refused");
    let reply = Reply::enhanced(554, "5.7.1", format!("{text} ({id})"));
    // A customer that cannot take one line at once is turned away without it.
    let _ = accepted.stream.try_write(&reply.to_bytes());
}

/// A place for the session, or why there is none.
fn admit(accepted: &Accepted, shared: &Shared, room: &Room, sessions: usize) -> Result<Place, Failure> {
    let (customer, counters) = (accepted.customer, &shared.counters);
    if sessions + room.places.elsewhere() >= room.max_sessions.load(Ordering::Relaxed) {
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
