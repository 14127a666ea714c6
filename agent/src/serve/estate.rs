//! What an agent that takes over is given, and how this one comes out of it: in charge as before, or not at all.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};
use tracing::{error, warn};
use weir_daemon::service;
use weir_ebpf_common::LAYOUT;

use super::Agent;
use crate::config::Config;
use crate::handover::{self, Channel, Last, Offer, PROTOCOL, Part, SwitchedMode};
use crate::steer::{Claim, Kept, Plan, nothing};
use crate::transparent::TransparentListener;

/// Another agent is in charge.
pub(super) struct Farewell {
    /// To that one, which is told of what is left.
    pub channel: Channel,
    pub kept: Kept,
}

/// Whose turn it is: a stop and a hand-over exclude each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// When no hand-over is under way; there will be none.
    pub(super) async fn take_for_good(&self) {
        std::mem::forget(self.0.clone().lock_owned().await);
    }
}

/// The listener, for an heir; taken back when it is to be closed.
pub(super) type ListenerCopy = Arc<std::sync::Mutex<Option<OwnedFd>>>;

pub(super) struct Estate {
    settings: Map<String, Value>,
    families: Vec<u8>,
    agent: Agent,
    farewell: mpsc::UnboundedSender<Farewell>,
    turn: Turn,
    taken: Option<OwnedMutexGuard<()>>,
    listener: ListenerCopy,
}

impl Estate {
    pub(super) fn new(
        config: &Config,
        plan: &Plan,
        agent: &Agent,
        farewell: mpsc::UnboundedSender<Farewell>,
        turn: Turn,
    ) -> Self {
        let (settings, families) = (handover::settings(config), plan.family_versions());
        Self {
            settings,
            families,
            agent: agent.clone(),
            farewell,
            turn,
            taken: None,
            listener: ListenerCopy::default(),
        }
    }

    /// From now on another agent can take over. While the copy of the listener is there, connections come in.
    pub(super) fn expect_heirs(self, listener: &TransparentListener, claim: Claim) -> ListenerCopy {
        let copy = self.listener.clone();
        let begun = listener.as_fd().try_clone_to_owned().and_then(|listener| {
            *copy.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
            handover::keep_giving(claim, self, Self::leave)
        });
        if let Err(error) = begun {
            warn!(%error, "no other agent will be able to take over from this one");
        }
        copy
    }

    fn settle(&self) -> Result<(), String> {
        self.agent.policy.settle().map_err(|error| error.to_string())?;
        self.agent.release.settle().map_err(|error| error.to_string())?;
        self.agent.shared.refusals.save(true);
        Ok(())
    }

    fn parts(&self) -> Result<Vec<(Part, OwnedFd)>, String> {
        let mut parts = Vec::new();
        if let Some(listener) = &*self.listener.lock().unwrap_or_else(PoisonError::into_inner) {
            let listener = listener.try_clone().map_err(|error| error.to_string())?;
            parts.push((Part::Listener {}, listener));
        }
        let mut steering = self.agent.steering.lock().unwrap_or_else(PoisonError::into_inner);
        parts.extend(steering.bequeath().map_err(|error| error.to_string())?);
        Ok(parts)
    }

    fn describe(&self) -> Offer {
        let shared = &self.agent.shared;
        let modes = shared.treatments.switched().into_iter().map(|switched| SwitchedMode {
            prefix: switched.prefix,
            mode: switched.mode,
            seconds_left: switched.until.saturating_duration_since(Instant::now()).as_secs(),
        });
        let drained = shared.pool.status().into_iter().filter(|node| node.draining).map(|node| node.address);
        Offer {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            settings: self.settings.clone(),
            families: self.families.clone(),
            layout: LAYOUT,
            proven: shared.return_path.status(Instant::now()).proven,
            before: self.agent.predecessor().map(|before| before.pids().collect()).unwrap_or_default(),
            modes: modes.collect(),
            drained: drained.collect(),
        }
    }

    /// The other is in charge.
    pub(super) fn leave(self, channel: Channel) {
        let mut steering = self.agent.steering.lock().unwrap_or_else(PoisonError::into_inner);
        let left = std::mem::replace(&mut *steering, nothing());
        drop(steering);
        self.agent.charge.leave();
        self.agent.shared.return_path.control(None);
        self.agent.places.leave_kernel();
        let kept = left.leave();
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // If nobody hears it the process is about to end.
        let _ = self.farewell.send(Farewell { channel, kept });
    }
}

impl handover::Estate for Estate {
    fn offer(&mut self) -> Result<(Offer, Vec<(Part, OwnedFd)>), String> {
        self.agent.charge.offer();
        let offered = self.settle().and_then(|()| Ok((self.describe(), self.parts()?)));
        offered.inspect_err(|_| self.agent.charge.take_back())
    }

    fn hold(&mut self) -> Result<Last, String> {
        let stopping = || "the running agent is stopping".to_owned();
        self.taken = Some(self.turn.0.clone().try_lock_owned().map_err(|_| stopping())?);
        let mut steering = self.agent.steering.lock().unwrap_or_else(PoisonError::into_inner);
        steering.pause().map_err(|error| error.to_string())?;
        let proven = self.agent.shared.return_path.status(Instant::now()).proven;
        Ok(Last { sessions: self.agent.places.counts(), proven })
    }

    fn call_off(&mut self, touched: bool) {
        if let Some(turn) = self.taken.take() {
            let mut steering = self.agent.steering.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = steering.reclaim(touched) {
                error!(%error, "steering is not as it was before another agent wanted to take over");
            }
            drop(steering);
            self.agent.places.forget_news();
            drop(turn);
        }
        if touched {
            // It may have said that it is the service.
            service::is_main();
        }
        self.agent.policy.unsettle();
        self.agent.charge.take_back();
    }
}
