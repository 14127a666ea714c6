//! How port 25 reaches the agent: installs what steers customers' packets to the listener, checks and
//! repairs it while the agent runs, and removes it.
//!
//! Three back ends: [`Backend::Ebpf`] (a tc program on the interfaces), [`Backend::Tproxy`] (one nftables
//! table) and [`Backend::External`] (nothing: the operator's own rules). The first two share the policy rules
//! and routes of `routing`.
//!
//! What a dead agent leaves is inert, or in `closed` drops new connections of customers. The next
//! [`install`] takes it over, [`cleanup`] removes it.

mod attributes;
mod claim;
mod cleanup;
mod ebpf;
mod error;
mod events;
mod exempt;
mod external;
mod grace;
mod host;
mod links;
mod loops;
mod netlink;
mod plan;
mod routing;
mod rules;
#[cfg(test)]
mod succession_tests;
mod tables;
#[cfg(test)]
mod test_host;
#[cfg(test)]
mod tests;
mod tproxy;
mod trial;
pub(crate) mod view;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use cleanup::{Report, cleanup};
pub use error::SteerError;
pub use events::Events;
pub use exempt::{BootTime, MAX_EXEMPT, PER_HOUR, Pair, Terms};
pub(crate) use host::{forwarding_off, is_in_bpffs, kernel_version, rules_on_bridges};
pub use plan::Plan;
pub(crate) use routing::MARK_MASK;
pub use rules::{MAX_RULES, Refusal, RuleKind, RuleTerms, Rules};
pub use tables::{Limits, Tables};
pub(crate) use trial::trial;

use ipnet::IpNet;

pub use claim::Claim;

use crate::config::Backend;
use crate::handover::Part;
use crate::privileges::Starter;
use crate::pulse::{Beat, Pulse};
use crate::return_path::Admit;
use crate::source::Source;

/// Steering that is in place. Dropped without [`Steering::remove`] (by a panic, say) it removes itself
/// just the same.
///
/// The functions talk to the kernel, or to nft(8), and block for milliseconds.
pub trait Steering: Send {
    /// Takes no new connections any more; those in flight are steered on. New ones then go straight
    /// to their destination (`open`) or are dropped (`closed`). To be called before the listener is closed.
    fn withdraw(&mut self) -> Result<(), SteerError>;

    /// Removes everything from the host (`open`), or all but what goes on dropping customers' new
    /// connections (`closed`), or refusing those that are blocked.
    fn remove(&mut self) -> Result<(), SteerError>;

    /// Lets new connections of these pairs go straight, from now on and on these terms, which replace earlier ones.
    /// Connections that the agent has stay with it.
    fn exempt(&mut self, pairs: &[(Pair, Terms)]) -> Result<(), SteerError>;

    /// Steers new connections of these pairs again. Connections that went straight go on undisturbed.
    fn unexempt(&mut self, pairs: &[Pair]) -> Result<(), SteerError>;

    /// Lets all new connections of customers go straight until then, also if the agent dies meanwhile; `None` ends
    /// that. Connections that the agent has stay with it.
    fn release(&mut self, until: Option<BootTime>) -> Result<(), SteerError>;

    /// Puts what is configured for prefixes in the place of what was. No packet sees some of each, and after an error
    /// all is as it was.
    fn set_tables(&mut self, tables: &Tables) -> Result<(), SteerError>;

    /// Has these rules of the kind hold, and no others. They hold until their time is over, also if the agent dies
    /// meanwhile. Connections that there are go on as they go.
    fn set_rules(&mut self, kind: RuleKind, rules: &Rules) -> Result<(), SteerError>;

    /// How often rules of the kind were applied, where each is counted by itself.
    fn applied(&mut self, kind: RuleKind) -> Result<BTreeMap<IpNet, u64>, SteerError>;

    /// How many connections exempt pairs made, where each is counted by itself.
    fn passed(&mut self, pairs: &[Pair]) -> Result<BTreeMap<Pair, u64>, SteerError>;

    /// Who is to be told how many connections each source has, where limits ask for it.
    fn connections(&mut self) -> Result<Option<Box<dyn Connections>>, SteerError>;

    /// By which it is told how many new connections to take, where that can be told.
    fn admission(&mut self) -> Result<Option<Admit>, SteerError> {
        Ok(None)
    }

    /// Packets by what became of them, since the start.
    fn counters(&mut self) -> Result<BTreeMap<String, u64>, SteerError>;

    /// Descriptors that an agent that takes over needs.
    fn bequeath(&mut self) -> Result<Vec<(Part, OwnedFd)>, SteerError> {
        Ok(Vec::new())
    }

    /// Another agent is about to take over: does without what would be in its way, for seconds at most.
    fn pause(&mut self) -> Result<(), SteerError> {
        Ok(())
    }

    /// It did not: goes on as before. `_touched`: it may have changed something on the host before it died.
    fn reclaim(&mut self, _touched: bool) -> Result<(), SteerError> {
        Ok(())
    }

    /// Steers from now on, in the place of the agent that has given the claim. After an error that one must reclaim, or
    /// nobody steers.
    fn take_charge(&mut self, _claim: Claim) -> Result<(), SteerError> {
        Ok(())
    }

    /// Another agent is in charge: changes nothing on the host any more, and lets go of all but what sessions need that
    /// are left here. That is to be kept until the last of them is over.
    fn leave(self: Box<Self>) -> Kept {
        Box::new(())
    }

    /// Looks whether all is still in place, puts back rules and routes that are missing, and says in
    /// words what was or is wrong. While a rule is missing customers get no answer: call it every second.
    fn problems(&mut self) -> Vec<String>;

    /// There was too much for one call of `problems`: the next is due soon.
    fn is_unfinished(&self) -> bool {
        false
    }

    /// What need not be wrong but may be unwanted, as `problems` found it.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Tells when a call of `problems` is due at once.
    fn events(&self) -> io::Result<Option<Events>> {
        Ok(None)
    }
}

/// To be dropped when nothing needs it any more.
pub type Kept = Box<dyn Send>;

/// The connections of each source, as the limits in the kernel see them.
pub trait Connections: Send + fmt::Debug {
    /// What cannot be told is said in the log: the limits of the agent itself hold in any case.
    fn set(&mut self, source: Source, connections: usize);
}

/// What holds from the first packet on.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub exempt: Vec<(Pair, Terms)>,
    pub rules: BTreeMap<RuleKind, Rules>,
    pub released: Option<BootTime>,
}

/// What the agent before leaves to the one that takes over.
#[derive(Debug, Default)]
pub(crate) struct Bequest {
    pub parts: Vec<(Part, OwnedFd)>,
    /// Answers come back from the internet.
    pub proven: bool,
    /// What is in its maps means the same here.
    pub same_layout: bool,
}

/// Installs steering to `listener`, which must be the transparent one on `plan.listen_port`.
/// While `pulse` is not shown the agent is taken for hung. `starter` has the privileges for it.
///
/// The host is checked before anything is changed, and after an error everything is as it was (but that leftovers
/// of a dead agent may be gone).
pub async fn install(
    plan: &Plan,
    known: Known,
    listener: BorrowedFd<'_>,
    pulse: Arc<Pulse>,
    claim: Claim,
    starter: &Starter,
) -> Result<Box<dyn Steering>, SteerError> {
    let (plan, listener) = (plan.clone(), copy(listener)?);
    start(starter, move || install_blocking(plan, known, listener, pulse, claim)).await
}

/// Gets ready to steer in the place of a running agent, to whose listener `listener` is a way. All that can fail has been
/// tried when this returns, and nothing is changed on the host but for rules and routes that were missing.
pub(crate) async fn prepare(
    plan: &Plan,
    known: Known,
    listener: BorrowedFd<'_>,
    pulse: Arc<Pulse>,
    bequest: Bequest,
    starter: &Starter,
) -> Result<Box<dyn Steering>, SteerError> {
    let (plan, listener) = (plan.clone(), copy(listener)?);
    start(starter, move || prepare_blocking(plan, known, listener, pulse, bequest)).await
}

fn copy(listener: BorrowedFd<'_>) -> Result<OwnedFd, SteerError> {
    listener.try_clone_to_owned().map_err(|error| SteerError::Listener { reason: error.to_string() })
}

/// On the thread that may do it.
pub(crate) async fn start<T: Send + 'static>(
    starter: &Starter,
    work: impl FnOnce() -> Result<T, SteerError> + Send + 'static,
) -> Result<T, SteerError> {
    starter.perform(work).await.unwrap_or_else(|| {
        let source = io::Error::other("a defect of weir-agent");
        Err(SteerError::System { what: "steering stopped half-way".to_owned(), source })
    })
}

fn prepare_blocking(
    plan: Plan,
    known: Known,
    listener: OwnedFd,
    pulse: Arc<Pulse>,
    bequest: Bequest,
) -> Result<Box<dyn Steering>, SteerError> {
    if plan.backend == Backend::External {
        return Ok(Box::new(external::External::default()));
    }
    host::check(&plan)?;
    Ok(match plan.backend {
        Backend::Ebpf => Box::new(ebpf::Ebpf::prepare(plan, &known, listener, pulse, bequest)?),
        Backend::Tproxy => Box::new(tproxy::Tproxy::prepare(plan, known, pulse)?),
        Backend::External => Box::new(external::External::default()),
    })
}

fn install_blocking(
    plan: Plan,
    known: Known,
    listener: OwnedFd,
    pulse: Arc<Pulse>,
    claim: Claim,
) -> Result<Box<dyn Steering>, SteerError> {
    if plan.backend == Backend::External {
        return Ok(Box::new(external::External::new(claim)));
    }
    host::check(&plan)?;
    Ok(match plan.backend {
        Backend::Ebpf => Box::new(ebpf::Ebpf::install(plan, &known, listener, pulse, claim)?),
        Backend::Tproxy => Box::new(tproxy::Tproxy::install(plan, known, pulse, claim)?),
        Backend::External => Box::new(external::External::new(claim)),
    })
}

/// Steers nothing, and leaves all as it is.
pub(crate) fn nothing() -> Box<dyn Steering> {
    Box::new(external::External::default())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SteerError> + Send + 'static,
) -> Result<T, SteerError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        let source = io::Error::other(error.to_string());
        Err(SteerError::System { what: "steering stopped half-way".to_owned(), source })
    })
}
