//! From one agent to the next without a gap: links are never without a program, and what only the kernel knows goes
//! from map to map.

use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use weir_ebpf_common::{RuleKind, Side};

use super::attach::{self, Attachment};
use super::inherit::{INHERITED, Inherited};
use super::interfaces::known_links;
use super::link::Link;
use super::{Ebpf, Program, pins, remove_pins};
use crate::config::WhenAgentDies;
use crate::handover::Part;
use crate::pulse::Pulse;
use crate::steer::{Bequest, Claim, Known, Plan, SteerError};

impl Ebpf {
    /// Everything that can fail, with nothing changed on the host but what was missing. Until it takes charge it leaves
    /// all as it is.
    pub(in crate::steer) fn prepare(
        plan: Plan,
        known: &Known,
        listener: OwnedFd,
        pulse: Arc<Pulse>,
        bequest: Bequest,
    ) -> Result<Self, SteerError> {
        let (mut program, heart) = Self::load(&plan, known, pulse)?;
        if plan.when_agent_dies == WhenAgentDies::Open {
            program.admit(if bequest.proven { None } else { Some(1) })?;
        }
        let (mut links, mut maps) = (Vec::new(), Vec::new());
        for (part, descriptor) in bequest.parts {
            match part {
                Part::Link { interface, .. } => links.push((interface, Link::from(descriptor))),
                Part::Map { name } if bequest.same_layout => maps.push((name, descriptor)),
                Part::Map { .. } | Part::Listener {} => {}
            }
        }
        let inherited = program.inherit(maps);
        program.set_listener(&listener)?;
        let routing = plan.routing();
        routing.repair()?;
        let mut steering = Self::unattached(plan, routing, program, listener, heart);
        steering.inherited = Some(inherited);
        steering.prepare_pins();
        for (found, side) in steering.plan.places(&known_links()?) {
            if let Some(position) = links.iter().position(|(of, _)| *of == found.index) {
                let (_, link) = links.swap_remove(position);
                steering.attachments.push(Attachment::inherited(found.name.clone(), found.index, side, link));
            }
        }
        Ok(steering)
    }

    /// Copies of what an heir needs.
    pub(super) fn parts(&self) -> Result<Vec<(Part, OwnedFd)>, SteerError> {
        let mut parts = Vec::new();
        for attachment in &self.attachments {
            if let Some(link) = attachment.link() {
                let customer = attachment.side() == Side::Customer;
                let copy = link.as_fd().try_clone_to_owned().map_err(copying)?;
                parts.push((Part::Link { interface: attachment.index(), customer }, copy));
            }
        }
        for name in INHERITED {
            let copy = self.program.descriptor(name)?.try_clone_to_owned().map_err(copying)?;
            parts.push((Part::Map { name: name.to_owned() }, copy));
        }
        Ok(parts)
    }

    /// Puts the program on the interfaces, in the place of another agent's.
    pub(super) fn enter(&mut self, claim: Claim) -> Result<(), SteerError> {
        // The agent before may have been stopped meanwhile, and have removed them.
        self.routing.repair()?;
        self.attach_here()?;
        self.inherited.take().iter().for_each(|inherited| self.program.catch_up(inherited));
        let blocks = self.program.rules.get(&RuleKind::Blocked).is_some_and(|rules| !rules.is_empty());
        self.held = blocks && self.plan.when_agent_dies == WhenAgentDies::Open;
        self.renew_pins()?;
        self.claim = Some(claim);
        self.removed = false;
        Ok(())
    }

    /// This program where another is, and where none is yet: the interfaces towards the internet first.
    fn attach_here(&mut self) -> Result<(), SteerError> {
        let mut inherited = mem::take(&mut self.attachments);
        for (link, side) in self.plan.places(&known_links()?) {
            let known = inherited.iter().position(|attachment| attachment.index() == link.index);
            let attachment = match known.map(|position| inherited.swap_remove(position)) {
                // A link whose interface is gone is of no use.
                Some(attachment) if attachment.renew(&mut self.program).is_ok() => attachment,
                Some(_) | None => {
                    attach::attach_for(&mut self.program, &link.name, side, self.plan.when_agent_dies)?
                }
            };
            self.attachments.push(attachment);
        }
        Ok(())
    }

    /// What outlives the agent, if anything does.
    fn renew_pins(&mut self) -> Result<(), SteerError> {
        let directory = &self.plan.pin_directory;
        if self.held || self.plan.when_agent_dies == WhenAgentDies::Closed {
            pins::renew(&mut self.program, directory, &self.attachments)
        } else {
            remove_pins(directory).map(drop)
        }
    }

    /// All as it was before an heir that has died.
    pub(super) fn restore(&mut self) -> Result<(), SteerError> {
        let renewed: Vec<_> =
            self.attachments.iter().map(|attachment| attachment.renew(&mut self.program)).collect();
        self.routing.repair()?;
        self.renew_pins()?;
        renewed.into_iter().collect()
    }

    /// Not in charge any more. The links are kept: while they are, the heir's program is there for our connections, whatever
    /// becomes of the heir.
    pub(super) fn give_up(&mut self) -> Vec<Attachment> {
        self.removed = true;
        // A filter is the heir's now, and would be removed with this.
        let (filters, links): (Vec<_>, Vec<_>) =
            mem::take(&mut self.attachments).into_iter().partition(Attachment::is_filter);
        filters.into_iter().for_each(Attachment::leave);
        links
    }
}

fn copying(source: std::io::Error) -> SteerError {
    SteerError::System { what: "a copy of a descriptor".into(), source }
}

/// Kept by name, for the program of another version may not have them all.
pub(super) type Maps = Vec<(String, OwnedFd)>;

impl Program {
    /// Takes over what is in these maps, as far as its own are like them.
    fn inherit(&mut self, maps: Maps) -> Inherited {
        let inherited = Inherited::open(maps);
        let missed = self.fill_from(&inherited);
        if !missed.is_empty() {
            let maps = missed.join(" ");
            tracing::warn!(
                maps,
                "the program before kept these maps otherwise: what the kernel counted in them begins anew"
            );
        }
        inherited
    }
}
