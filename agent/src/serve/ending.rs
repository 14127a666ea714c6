//! The end: at once, or when the last session is over.

use std::pin::pin;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tracing::{error, info, warn};

use weir_daemon::service;

use super::estate::{Farewell, ListenerCopy};
use super::watch::with;
use super::{Agent, turn_away};
use crate::config::Relay;
use crate::counters::Counters;
use crate::failure::Failure;
use crate::handover::{Predecessor, Reporter};
use crate::orders::Orders;
use crate::shared::Shared;
use crate::steer::RuleKind;
use crate::transparent::TransparentListener;

/// How often an agent that has handed over says what is left.
const PROGRESS: Duration = Duration::from_secs(60);

/// What is left when nothing is accepted any more.
pub(super) struct Ending {
    pub relay: Relay,
    pub agent: Agent,
    pub background: JoinSet<()>,
    pub sessions: JoinSet<()>,
}

impl Ending {
    /// Told to stop: sessions are finished and the host is cleaned up whatever fails on the way.
    pub(super) async fn stop(
        mut self,
        listener: TransparentListener,
        copy: &ListenerCopy,
    ) -> anyhow::Result<()> {
        let agent = self.agent.clone();
        let Agent { shared, steering, policy, .. } = &agent;
        service::stopping();
        self.background = JoinSet::new();
        let withdrawn = with(steering, |steering| steering.withdraw()).await;
        turn_away_waiting(&listener, shared).await;
        // It is closed when nobody has it any more.
        *copy.lock().unwrap_or_else(PoisonError::into_inner) = None;
        drop(listener);
        self.finish().await;
        shared.refusals.save(true);
        let removed = with(steering, |steering| steering.remove()).await;
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

    /// Another agent has taken over: sessions go on here until they end by themselves, for `relay.drain_timeout`, or
    /// until `shutdown`.
    pub(super) async fn drain(mut self, farewell: Farewell, shutdown: impl Future<Output = ()>) {
        service::is_replaced();
        let Farewell { channel, kept } = farewell;
        let (places, shared) = (self.agent.places.clone(), self.agent.shared.clone());
        let reporter = Reporter::start(channel, places, shared)
            .inspect_err(|error| warn!(%error, "the other agent does not hear of this one's sessions"))
            .ok();
        let sessions = self.sessions.len();
        info!(sessions, "handed over: another agent is in charge, and this one ends with its last session");
        self.until_drained(reporter.as_ref(), shutdown).await;
        self.finish().await;
        drop((reporter, kept));
        info!("stopped: all sessions are over, or were cut");
    }

    async fn until_drained(&mut self, reporter: Option<&Reporter>, shutdown: impl Future<Output = ()>) {
        let limit = Duration::from_secs(self.relay.drain_timeout);
        let (mut deadline, mut shutdown) = (pin!(sleep(limit)), pin!(shutdown));
        let mut progress = tokio::time::interval(PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        progress.reset();
        let predecessor = self.agent.predecessor();
        let told_to_stop = async {
            match reporter {
                Some(reporter) => reporter.stop().await,
                None => std::future::pending().await,
            }
        };
        let mut told_to_stop = pin!(told_to_stop);
        let gone = async {
            if let Some(predecessor) = &predecessor {
                predecessor.gone().await;
            }
        };
        let (mut gone, mut is_last) = (pin!(gone), false);
        while !(is_last && self.sessions.is_empty()) {
            let now = &self.agent.shared.counters.sessions_now;
            now.store(self.sessions.len() as u64, std::sync::atomic::Ordering::Relaxed);
            tokio::select! {
                Some(ended) = self.sessions.join_next() => note_panic(&ended),
                () = &mut gone, if !is_last => is_last = true,
                _ = progress.tick() => {
                    let elsewhere = self.agent.places.elsewhere();
                    info!(sessions = self.sessions.len(), elsewhere, "handed over: these sessions are left");
                }
                () = &mut deadline => {
                    warn!(sessions = self.sessions.len(), "relay.drain_timeout is over: the sessions that are left end");
                    return;
                }
                () = &mut shutdown => return,
                () = &mut told_to_stop => return,
            }
        }
    }

    /// Sessions without a message end, messages in flight are finished, here and in agents before this one.
    async fn finish(self) {
        let Self { relay, agent, background, sessions } = self;
        drop(background);
        let goodbyes = tokio::spawn(agent.shared.warm.clone().close());
        let predecessor = agent.predecessor();
        predecessor.iter().for_each(|predecessor| predecessor.stop());
        agent.shared.orders.stop();
        finish(sessions, Duration::from_secs(relay.shutdown_timeout), &agent.shared.orders).await;
        // What mirror nodes are asked about is nobody's mail any more.
        agent.shared.budget.recall().await;
        // At most a few seconds, most of which are over.
        let _ = goodbyes.await;
        if let Some(predecessor) = predecessor {
            wait_for(&predecessor, Duration::from_secs(relay.shutdown_timeout + relay.end_of_data_timeout))
                .await;
        }
    }
}

async fn wait_for(predecessor: &Predecessor, limit: Duration) {
    if timeout(limit, predecessor.gone()).await.is_err() {
        warn!(pid = predecessor.pid(), "the agent before this one does not end");
    }
}

/// Connections that the kernel had taken when the agent was told to stop: closing the listener would
/// reset them.
async fn turn_away_waiting(listener: &TransparentListener, shared: &Shared) {
    while let Ok(Ok(accepted)) = timeout(Duration::ZERO, listener.accept()).await {
        Counters::add(&shared.counters.sessions);
        turn_away(&accepted, Failure::Stopping);
    }
}

/// A session that panicked took its message's log line with it.
pub(super) fn note_panic(ended: &Result<(), JoinError>) {
    if let Err(failure) = ended {
        error!(%failure, "session failed: a defect of weir-agent");
    }
}

/// Waits for the sessions; cuts those that are not done in time, but none whose message the destination
/// may have taken already.
async fn finish(mut sessions: JoinSet<()>, limit: Duration, orders: &Orders) {
    let all = async {
        while let Some(ended) = sessions.join_next().await {
            note_panic(&ended);
        }
    };
    if timeout(limit, all).await.is_err() {
        warn!(sessions = sessions.len(), "sessions cut: relay.shutdown_timeout is over");
        orders.cut();
        while let Some(ended) = sessions.join_next().await {
            note_panic(&ended);
        }
    }
}
