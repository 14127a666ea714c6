//! The back end with the tc program, on kernel 5.10 or newer.
//!
//! `open`: the program's links live in this process and die with it, unless customers are blocked: then they are pinned,
//! and the program goes on refusing them, and passes all others. `closed`: links, program and
//! maps are pinned, and go on dropping customers' new connections when the agent, and with it the
//! listener in the socket map, is gone.

mod attach;
mod clsact;
mod connections;
mod inherit;
#[cfg(test)]
mod interface_tests;
mod interfaces;
mod link;
#[cfg(test)]
mod measurement;
mod pins;
#[cfg(test)]
mod policy_tests;
mod program;
mod query;
mod rules;
mod succession;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::loops::Loops;
use super::routing::{self, Routing};
use super::{
    BootTime, Claim, Connections, Events, Kept, Known, Pair, Plan, RuleKind, Rules, SteerError, Steering,
    Tables, Terms, host, tproxy,
};
use crate::config::WhenAgentDies;
use crate::handover::Part;
use crate::pulse::{BEAT, Heart, Pulse};
use crate::return_path::Admit;
use attach::Attachment;
use inherit::Inherited;
use interfaces::known_links;
use program::Program;
use weir_ebpf_common::{Side, Verdict};

#[cfg(test)]
pub(super) use attach::WITHOUT_TCX;
pub(super) use attach::{remove_filters, remove_links};
pub(super) use pins::remove as remove_pins;

/// From when another agent has been given the links until it takes over, or says that it does not: what it does not know of
/// must not be added meanwhile.
const HANDOVER: Duration = Duration::from_secs(3);

pub(super) struct Ebpf {
    plan: Plan,
    routing: Routing,
    program: Program,
    attachments: Vec<Attachment>,
    /// Kept to put it back into the map after a repair; dropped when withdrawn, for it would keep the
    /// agent's listener open.
    listener: Option<OwnedFd>,
    /// In `open`: the program stays if the agent dies, for customers are blocked.
    held: bool,
    /// There are interfaces to steer on that were too many for one check.
    unfinished: bool,
    warnings: Vec<String>,
    /// The listener is out of the map because marked packets could not be delivered.
    suspended: bool,
    /// Nothing on the host is ours.
    removed: bool,
    /// When another agent was given what is here, to take over or not.
    offered: Option<Instant>,
    /// It is taking over.
    paused: bool,
    /// What the kernel knows by another agent's program, until ours is in its place.
    inherited: Option<Inherited>,
    loops: Loops,
    _heart: Heart,
    /// Last, so that it ends after everything else.
    claim: Option<Claim>,
}

/// Loads the program, and attaches it in a network namespace that is not the host's.
pub(super) fn trial(plan: &Plan, attaches: bool) -> Result<String, SteerError> {
    let mut program = Program::load(plan)?;
    if !attaches {
        return Ok("the kernel takes the steering program".to_owned());
    }
    let attachment = attach::attach(&mut program, "lo", Side::Customer)?;
    let how = if attachment.is_filter() { "a clsact filter" } else { "TCX" };
    attachment.end()?;
    Ok(format!("the kernel takes the steering program, and attaches it by {how}"))
}

impl Ebpf {
    pub(super) fn install(
        plan: Plan,
        known: &Known,
        listener: OwnedFd,
        pulse: Arc<Pulse>,
        claim: Claim,
    ) -> Result<Self, SteerError> {
        // What the kernel lacks is found out here, with nothing changed on the host.
        let (mut program, heart) = Self::load(&plan, known, pulse)?;
        if plan.when_agent_dies == WhenAgentDies::Open {
            // Until something shows that answers come back.
            program.admit(Some(1))?;
        }
        program.set_listener(&listener)?;
        let routing = plan.routing();
        routing.install()?;
        let mut steering = Self::unattached(plan, routing, program, listener, heart);
        // From here on, dropping `steering` is what takes everything back.
        steering.removed = false;
        steering.claim = Some(claim);
        steering.attach()?;
        steering.remove_others();
        steering.hold(known.rules.get(&RuleKind::Blocked).is_some_and(|rules| !rules.is_empty()))?;
        tproxy::remove_table()?;
        steering.prepare_pins();
        Ok(steering)
    }

    /// The program with all that holds, and its heart.
    fn load(plan: &Plan, known: &Known, pulse: Arc<Pulse>) -> Result<(Program, Heart), SteerError> {
        let mut program = Program::load(plan)?;
        program.exempt(&known.exempt)?;
        for (kind, rules) in &known.rules {
            program.set_rules(*kind, rules)?;
        }
        program.release(known.released)?;
        let heart = Heart::start(pulse, BEAT, program.beat()?)
            .map_err(|source| SteerError::System { what: "the heart's thread".into(), source })?;
        Ok((program, heart))
    }

    /// Another agent's program may be where ours was, and must stay there.
    fn is_being_inherited(&self) -> bool {
        self.paused || self.offered.is_some_and(|since| since.elapsed() < HANDOVER)
    }

    /// What only a start has the privileges for.
    fn prepare_pins(&self) {
        if let Err(error) = pins::prepare(&self.plan.pin_directory) {
            tracing::warn!(%error, "no customer can be blocked");
        }
    }

    fn unattached(plan: Plan, routing: Routing, program: Program, listener: OwnedFd, heart: Heart) -> Self {
        Self {
            plan,
            routing,
            program,
            attachments: Vec::new(),
            listener: Some(listener),
            held: false,
            unfinished: false,
            warnings: Vec::new(),
            suspended: false,
            removed: true,
            offered: None,
            paused: false,
            inherited: None,
            loops: Loops::default(),
            _heart: heart,
            claim: None,
        }
    }

    fn attach(&mut self) -> Result<(), SteerError> {
        match self.plan.when_agent_dies {
            WhenAgentDies::Open => {
                for (link, side) in self.plan.places(&known_links()?) {
                    self.attachments.push(attach::attach(&mut self.program, &link.name, side)?);
                }
                remove_pins(&self.plan.pin_directory).map(drop)
            }
            WhenAgentDies::Closed => {
                self.attachments = pins::take_over(&mut self.program, &self.plan)?;
                Ok(())
            }
        }
    }

    /// On kernels without TCX: filters that a dead agent left on interfaces that this one does not steer on. With TCX:
    /// links of a dead agent that one before it, which has handed over to it, still holds for its sessions.
    fn remove_others(&self) {
        let ours: Vec<u32> = self.attachments.iter().map(Attachment::index).collect();
        let programs: Vec<u32> = Side::BOTH.iter().filter_map(|side| self.program.id(*side)).collect();
        for removed in remove_filters(&ours).into_iter().chain(remove_links(&programs)) {
            tracing::info!(removed, "left by another agent");
        }
    }

    /// What is blocked does not end with the agent: while it is to outlive it, the program's links are in files. In
    /// `closed` they are anyway.
    fn hold(&mut self, wanted: bool) -> Result<(), SteerError> {
        if self.plan.when_agent_dies == WhenAgentDies::Closed || wanted == self.held {
            return Ok(());
        }
        let directory = &self.plan.pin_directory;
        if wanted {
            pins::hold(&mut self.program, directory, &self.attachments).inspect_err(|_| {
                // What was pinned of it must not outlive the agent.
                let _ = remove_pins(directory);
            })?;
        } else {
            remove_pins(directory)?;
        }
        self.held = wanted;
        Ok(())
    }

    /// Steering is only as good as the delivery of marked packets: where that cannot be mended, better
    /// let new connections go the way they go without an agent.
    fn repair_routing(&mut self, problems: &mut Vec<String>) {
        match self.routing.repair() {
            Ok(repaired) => {
                problems.extend(repaired.iter().map(|entry| format!("was missing, put back: {entry}")));
                if self.suspended
                    && let Some(listener) = &self.listener
                {
                    match self.program.set_listener(listener) {
                        Ok(()) => self.suspended = false,
                        Err(error) => problems.push(error.to_string()),
                    }
                }
            }
            // Whoever brings a shortage about must not open the path by it.
            Err(error) if error.is_shortage() => {
                problems.push(format!("rules and routes not checked: {error}"));
            }
            Err(error) => {
                problems.push(format!("new connections are not taken: {error}"));
                if self.listener.is_some() && !self.suspended {
                    match self.program.clear_listener() {
                        Ok(()) => self.suspended = true,
                        Err(error) => problems.push(error.to_string()),
                    }
                }
            }
        }
    }
}

impl Steering for Ebpf {
    fn withdraw(&mut self) -> Result<(), SteerError> {
        if self.listener.is_some() {
            self.program.clear_listener()?;
            self.listener = None;
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), SteerError> {
        if self.removed {
            // Another agent's.
            self.attachments.drain(..).for_each(Attachment::leave);
            return Ok(());
        }
        let withdrawn = self.withdraw();
        let held = self.held;
        let end = |attachment: Attachment| match held {
            true => {
                attachment.leave();
                Ok(())
            }
            false => attachment.end(),
        };
        let detached: Vec<_> = self.attachments.drain(..).map(end).collect();
        // Last: until the program is off the interfaces it marks packets of connections in flight.
        routing::remove_all()?;
        withdrawn?;
        detached.into_iter().collect::<Result<(), _>>()?;
        self.removed = true;
        Ok(())
    }

    fn exempt(&mut self, pairs: &[(Pair, Terms)]) -> Result<(), SteerError> {
        self.program.exempt(pairs)
    }

    fn unexempt(&mut self, pairs: &[Pair]) -> Result<(), SteerError> {
        self.program.unexempt(pairs)
    }

    fn release(&mut self, until: Option<BootTime>) -> Result<(), SteerError> {
        self.program.release(until)
    }

    fn set_tables(&mut self, tables: &Tables) -> Result<(), SteerError> {
        let mut plan = self.plan.clone();
        plan.set_tables(tables)?;
        self.program.set_tables(&self.plan.tables, tables)?;
        self.plan = plan;
        Ok(())
    }

    fn set_rules(&mut self, kind: RuleKind, rules: &Rules) -> Result<(), SteerError> {
        // Held from before the first rule until after the last.
        let blocks = kind == RuleKind::Blocked;
        if blocks && !rules.is_empty() {
            self.hold(true)?;
        }
        self.program.set_rules(kind, rules)?;
        if blocks && rules.is_empty() {
            self.hold(false)?;
        }
        Ok(())
    }

    fn applied(&mut self, kind: RuleKind) -> Result<BTreeMap<IpNet, u64>, SteerError> {
        self.program.applied(kind)
    }

    fn passed(&mut self, pairs: &[Pair]) -> Result<BTreeMap<Pair, u64>, SteerError> {
        self.program.passed(pairs)
    }

    fn connections(&mut self) -> Result<Option<Box<dyn Connections>>, SteerError> {
        self.program.connections().map(Some)
    }

    fn admission(&mut self) -> Result<Option<Admit>, SteerError> {
        match self.plan.when_agent_dies {
            WhenAgentDies::Open => self.program.admission().map(Some),
            WhenAgentDies::Closed => Ok(None),
        }
    }

    fn counters(&mut self) -> Result<BTreeMap<String, u64>, SteerError> {
        self.program.counters()
    }

    fn bequeath(&mut self) -> Result<Vec<(Part, OwnedFd)>, SteerError> {
        self.offered = Some(Instant::now());
        self.parts()
    }

    fn pause(&mut self) -> Result<(), SteerError> {
        self.paused = true;
        Ok(())
    }

    fn reclaim(&mut self, touched: bool) -> Result<(), SteerError> {
        self.paused = false;
        if touched { self.restore() } else { Ok(()) }
    }

    fn take_charge(&mut self, claim: Claim) -> Result<(), SteerError> {
        self.enter(claim)
    }

    fn leave(mut self: Box<Self>) -> Kept {
        Box::new(self.give_up())
    }

    fn problems(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.paused {
            return problems;
        }
        self.repair_routing(&mut problems);
        let links = match known_links() {
            Ok(links) => links,
            Err(error) => {
                problems.push(error.to_string());
                return problems;
            }
        };
        if !self.is_being_inherited() {
            self.repair_interfaces(&links, &mut problems);
        }
        for attachment in &self.attachments {
            let program = self.program.id(attachment.side());
            problems.extend(program.and_then(|program| attachment.others_before(program)));
        }
        match self.program.count(Verdict::LoopedBackDropped) {
            Ok(count) => {
                let now = Instant::now();
                self.loops.count(count, now);
                problems.extend(self.loops.problem(now));
            }
            Err(error) => problems.push(error.to_string()),
        }
        if let Some(setting) = host::off_among(&self.plan, &links) {
            let consequence = match self.plan.when_agent_dies {
                WhenAgentDies::Open => "mail will not flow straight when the agent is dead",
                // bpf_fib_lookup stops before it has found out whether an address is local.
                WhenAgentDies::Closed => "customers' mail to this host's own port 25 is intercepted as well",
            };
            problems.push(format!("{setting} is 0: {consequence}"));
        }
        problems
    }

    fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn events(&self) -> io::Result<Option<Events>> {
        Events::of_routing().map(Some)
    }
}

impl Drop for Ebpf {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "steering is left behind; weir-agent cleanup removes it");
        }
    }
}
