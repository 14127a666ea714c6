//! How an agent comes into charge: as the first, or in the place of a running one.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use tracing::{info, warn};
use weir_daemon::service;
use weir_ebpf_common::LAYOUT;

use crate::config::Config;
use crate::handover::{self, Channel, FromHeir, Heritage, Line, Offer};
use crate::places::Places;
use crate::policy::Policy;
use crate::privileges::Starter;
use crate::pulse::Pulse;
use crate::return_path::Admit;
use crate::shared::Shared;
use crate::steer::{self, Bequest, Claim, Known, Plan, Steering};
use crate::transparent::TransparentListener;
use crate::treatment::Switched;

pub(super) enum Entrance {
    First(Claim),
    Next(Channel, Box<Heritage>),
}

/// In charge.
pub(super) struct Entered {
    pub steering: Box<dyn Steering>,
    pub places: Arc<Places>,
    pub admission: Option<Admit>,
    pub claim: Claim,
    pub before: Option<Before>,
}

/// The agent before, which does not know yet that this one serves.
pub(super) struct Before {
    channel: Channel,
    offer: Offer,
}

impl Entrance {
    /// # Errors
    /// If another agent runs and is not to be replaced, or will not be.
    pub(super) fn find(config: &Config, plan: &Plan, take_over: bool) -> anyhow::Result<Self> {
        if take_over {
            let name = Claim::name(plan);
            match handover::ask(&name, config)
                .context("this agent does not take over, and the other goes on")?
            {
                Some((channel, heritage)) => return Ok(Self::Next(channel, Box::new(heritage))),
                None => info!("no agent is running here: there is nothing to take over"),
            }
        }
        Ok(Self::First(Claim::take(plan)?))
    }

    /// What the agent before depends on is there for this one too.
    pub(super) fn complete(&self, plan: &mut Plan) {
        if let Self::Next(_, heritage) = self {
            plan.keep_families(&heritage.offer.families);
        }
    }

    /// Who is blocked there must be so here.
    pub(super) fn accepts(&self, policy: &Policy) -> anyhow::Result<()> {
        match (self, policy.problem()) {
            (Self::Next(..), Some(problem)) => bail!("this agent does not take over: {problem}"),
            _ => Ok(()),
        }
    }

    pub(super) fn listener(&self, port: u16) -> anyhow::Result<TransparentListener> {
        match self {
            Self::First(_) => TransparentListener::bind(port)
                .with_context(|| format!("steering.listen_port: TCP port {port} cannot be listened on")),
            Self::Next(_, heritage) => heritage
                .listener
                .try_clone()
                .and_then(TransparentListener::adopt)
                .context("the running agent's listener cannot be used"),
        }
    }

    /// Steers from now on, with `each` places for each source.
    pub(super) async fn enter(
        self,
        plan: &Plan,
        known: Known,
        listener: &TransparentListener,
        pulse: Arc<Pulse>,
        starter: Starter,
        each: usize,
    ) -> anyhow::Result<Entered> {
        let (mut steering, first, next) = match self {
            Self::First(claim) => {
                let steering = steer::install(plan, known, listener.as_fd(), pulse, claim.clone(), &starter)
                    .await
                    .context("steering cannot be installed")?;
                (steering, Some(claim), None)
            }
            Self::Next(channel, heritage) => {
                let Heritage { offer, parts, .. } = *heritage;
                let (proven, same_layout) = (offer.proven, offer.layout == LAYOUT);
                let bequest = Bequest { parts, proven, same_layout };
                let steering = steer::prepare(plan, known, listener.as_fd(), pulse, bequest, &starter)
                    .await
                    .context("steering cannot be prepared, and the running agent goes on")?;
                (steering, None, Some(Before { channel, offer }))
            }
        };
        let connections = steering.connections().context("connections cannot be counted")?;
        let mut admission = steering.admission().context("steering cannot be told what to take")?;
        let places = Arc::new(Places::new(each, connections));
        match (first, next) {
            (Some(claim), _) => Ok(Entered { steering, places, admission, claim, before: None }),
            (None, None) => Err(anyhow!("a defect of weir-agent")),
            (None, Some(mut before)) => {
                let plan = plan.clone();
                let work = move || {
                    let claim = take_charge(&mut before, &mut steering, &places, &plan, &mut admission)?;
                    Ok(Entered { steering, places, admission, claim, before: Some(before) })
                };
                starter.perform(work).await.unwrap_or_else(|| Err(anyhow!("a defect of weir-agent")))
            }
        }
    }
}

/// From here on there is one in charge all the time: the agent before, or this one.
fn take_charge(
    before: &mut Before,
    steering: &mut Box<dyn Steering>,
    places: &Places,
    plan: &Plan,
    admission: &mut Option<Admit>,
) -> anyhow::Result<Claim> {
    let taken = handover::take(&before.channel, Claim::given, || Claim::take(plan));
    let handover::Taken { claim, last } = taken.context("this agent does not take over")?;
    // All in the kernel before the first packet meets this agent's program.
    let sources = last.as_ref().map_or(0, |last| last.sessions.len());
    if let Some(last) = last {
        places.set_elsewhere(&last.sessions);
        if last.proven && !before.offer.proven {
            // While this agent got ready the first answer came.
            admission.iter_mut().for_each(|admit| admit(None));
            before.offer.proven = true;
        }
    }
    if let Err(error) = steering.take_charge(claim.clone()) {
        // It must be gone before the agent before hears of it, and reclaims what it has.
        *steering = steer::nothing();
        return Err(error).context("steering cannot be taken over: the agent before takes it back");
    }
    // Before the agent before hears that it may end: without its main process systemd would end the service.
    service::is_main();
    info!(before = before.offer.pid, sources, "taken over");
    Ok(claim)
}

impl Before {
    /// What the operator has switched there, and what is known there of the way back from the internet.
    pub(super) fn inherit(&self, shared: &Shared) {
        if self.offer.proven {
            shared.return_path.inherit();
        }
        for mode in &self.offer.modes {
            let until = Instant::now() + Duration::from_secs(mode.seconds_left);
            shared.treatments.switch(Switched { prefix: mode.prefix, mode: mode.mode, until });
        }
        for node in &self.offer.drained {
            if let Err(problem) = shared.pool.drain(*node, true) {
                info!(%problem, "it was drained");
            }
        }
    }

    /// Lets it go: it ends when its last session is over.
    pub(super) fn release(self, places: &Arc<Places>, shared: &Arc<Shared>) -> Option<handover::Predecessor> {
        // If it has died there is nobody to be told.
        let _ = self.channel.send(&FromHeir::Serving {}, &[]);
        let (pid, places, shared) = (self.offer.pid, places.clone(), shared.clone());
        handover::Predecessor::listen(self.channel, pid, &self.offer.before, places, shared)
            .inspect_err(|error| warn!(%error, "the sessions of the agent before are not counted"))
            .ok()
    }
}
