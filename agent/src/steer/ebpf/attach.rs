//! Where the program runs: TCX links from kernel 6.6 on, tc filters before.

use std::io::{self, ErrorKind};
use std::mem;
use std::os::fd::AsFd;
use std::path::Path;

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use nix::libc;
use weir_ebpf_common::Side;

use super::link::{self, Link};
use super::program::{self, Program, describe};
use super::{clsact, query};
use crate::config::WhenAgentDies;
use crate::steer::SteerError;
use crate::steer::host::interface_index;

/// The place of the filter on kernels without TCX: fixed, so that a later start replaces it in one step.
const PRIORITY: u16 = 25;
const HANDLE: TcHandle = TcHandle::new(0, 0x4d58);

/// The program on one interface.
pub(super) struct Attachment {
    interface: String,
    index: u32,
    side: Side,
    hold: Hold,
}

pub(super) enum Hold {
    /// Ends with the process, unless a file holds it as well.
    Link(Link),
    /// A filter, which stays when the process ends. It is `end` that removes it, if at all.
    Filter(SchedClassifierLink, WhenAgentDies),
}

impl Attachment {
    pub(super) fn new(interface: String, index: u32, side: Side, hold: Hold) -> Self {
        Self { interface, index, side, hold }
    }

    /// Another agent's, until it is renewed.
    pub(super) fn inherited(interface: String, index: u32, side: Side, link: Link) -> Self {
        Self::new(interface, index, side, Hold::Link(link))
    }

    pub(super) fn link(&self) -> Option<&Link> {
        match &self.hold {
            Hold::Link(link) => Some(link),
            Hold::Filter(..) => None,
        }
    }

    /// Puts this program in the place of the one that is there, in one step.
    pub(super) fn renew(&self, program: &mut Program) -> Result<(), SteerError> {
        let classifier = program.classifier(self.side)?;
        match &self.hold {
            Hold::Link(link) => replace(classifier, link).map_err(|error| failed(&self.interface, &error)),
            Hold::Filter(..) => {
                // The same filter: `self` goes on standing for it.
                mem::forget(attach_filter(classifier, &self.interface)?);
                Ok(())
            }
        }
    }

    /// A kernel without TCX.
    pub(super) fn is_filter(&self) -> bool {
        matches!(self.hold, Hold::Filter(..))
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// Has it outlive the process, by a file. A filter does so by itself.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        match &self.hold {
            Hold::Link(link) => link.pin(path),
            Hold::Filter(..) => Ok(()),
        }
    }

    /// Leaves the program where it is, if a file holds it.
    pub(super) fn leave(self) {
        // Other links close, and stay; this would be removed.
        if let Hold::Filter(link, _) = self.hold {
            mem::forget(link);
        }
    }

    /// Has the program run there no more, if it still does.
    pub(super) fn give_up(self) {
        if let Hold::Filter(link, _) = self.hold {
            // It may be gone already, and the interface with it.
            let _ = aya::programs::links::Link::detach(link);
            remove_qdisc_if_empty(self.index);
        }
    }

    /// Detaches the program, unless it is to outlive the agent.
    pub(super) fn end(self) -> Result<(), SteerError> {
        match self.hold {
            // If no file holds it, it ends here.
            Hold::Link(_) => Ok(()),
            Hold::Filter(link, WhenAgentDies::Closed) => {
                mem::forget(link);
                Ok(())
            }
            Hold::Filter(link, WhenAgentDies::Open) => {
                let detached =
                    aya::programs::links::Link::detach(link).map_err(|error| failed(&self.interface, &error));
                remove_qdisc_if_empty(self.index);
                detached
            }
        }
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    /// The interface has another name now.
    pub(super) fn rename(&mut self, interface: &str) {
        if self.interface != interface {
            interface.clone_into(&mut self.interface);
        }
    }

    /// What of others runs before the program with this number, if anything does. It may do no harm, but if it does
    /// nothing else will tell.
    pub(super) fn others_before(&self, program: u32) -> Option<String> {
        let interface = &self.interface;
        match &self.hold {
            Hold::Link(_) => {
                let attached = query::programs(self.index).unwrap_or_default();
                let before =
                    attached.iter().position(|other| *other == program).filter(|before| *before > 0)?;
                Some(format!(
                    "another program was put before the steering program on {interface} ({before} in all): what that \
                     lets pass for good is not intercepted; restart the agent, which goes before it"
                ))
            }
            Hold::Filter(..) => {
                let before =
                    clsact::filters_before(self.index, PRIORITY).ok().filter(|before| *before > 0)?;
                Some(format!(
                    "another filter was put before the steering program on {interface} ({before} in all): what that \
                     lets pass for good is not intercepted; give it a tc priority (pref) above {PRIORITY}, which is \
                     weir's"
                ))
            }
        }
    }

    /// Whether the program with this number, which the attachment is of, still runs there. What cannot be found out is
    /// taken for granted.
    pub(super) fn is_in_place(&self, program: Option<u32>) -> bool {
        match &self.hold {
            Hold::Link(_) => match query::programs(self.index) {
                Ok(attached) => program.is_none_or(|program| attached.contains(&program)),
                Err(error) => error.raw_os_error() != Some(libc::ENODEV),
            },
            Hold::Filter(..) => clsact::has_filter(self.index, PRIORITY, HANDLE.into()).unwrap_or(true),
        }
    }
}

/// Attaches the program to an interface, until the attachment is dropped.
pub(super) fn attach(program: &mut Program, interface: &str, side: Side) -> Result<Attachment, SteerError> {
    let index = index(interface)?;
    let classifier = program.classifier(side)?;
    let hold = match attach_tcx(classifier, interface, index)? {
        Some(link) => Hold::Link(link),
        None => Hold::Filter(attach_filter(classifier, interface)?, WhenAgentDies::Open),
    };
    Ok(Attachment::new(interface.to_owned(), index, side, hold))
}

/// Attaches the program in the place of another agent's where there is a filter, until the attachment is dropped or, in
/// `closed`, for good.
pub(super) fn attach_for(
    program: &mut Program,
    interface: &str,
    side: Side,
    when_agent_dies: WhenAgentDies,
) -> Result<Attachment, SteerError> {
    let mut attachment = attach(program, interface, side)?;
    if let Hold::Filter(_, stays) = &mut attachment.hold {
        *stays = when_agent_dies;
    }
    Ok(attachment)
}

/// Attaches the program as a filter that stays.
pub(super) fn attach_lasting_filter(
    program: &mut Program,
    interface: &str,
    side: Side,
) -> Result<Attachment, SteerError> {
    let index = index(interface)?;
    let link = attach_filter(program.classifier(side)?, interface)?;
    Ok(Attachment::new(interface.to_owned(), index, side, Hold::Filter(link, WhenAgentDies::Closed)))
}

#[cfg(test)]
std::thread_local! {
    /// On this thread the kernel is taken for one before 6.6.
    pub(in crate::steer) static WITHOUT_TCX: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A TCX link before all others; `None` on a kernel before 6.6.
pub(super) fn attach_tcx(
    classifier: &SchedClassifier,
    interface: &str,
    index: u32,
) -> Result<Option<Link>, SteerError> {
    #[cfg(test)]
    if WITHOUT_TCX.get() {
        return Ok(None);
    }
    let program = classifier.fd().map_err(|error| failed(interface, &error))?;
    match Link::create(program.as_fd(), index) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
        Err(error) => Err(failed(interface, &error)),
    }
}

/// Puts the program in the place of the one that an existing link runs.
pub(super) fn replace(classifier: &SchedClassifier, link: &Link) -> io::Result<()> {
    let program = classifier.fd().map_err(|error| io::Error::other(describe(&error)))?;
    link.replace(program.as_fd())
}

fn attach_filter(
    classifier: &mut SchedClassifier,
    interface: &str,
) -> Result<SchedClassifierLink, SteerError> {
    match qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        outcome => outcome.map_err(|error| failed(interface, &error))?,
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let options = TcAttachOptions::Netlink(options);
    let attached = classifier.attach_with_options(interface, TcAttachType::Ingress, options);
    let id = match attached {
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if error.raw_os_error() == Some(libc::EEXIST) =>
        {
            let left =
                SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
                    .map_err(|error| failed(interface, &error))?;
            classifier.attach_to_link(left)
        }
        attached => attached,
    };
    id.and_then(|id| classifier.take_link(id)).map_err(|error| failed(interface, &error))
}

/// Removes the filters that a dead agent left on a kernel without TCX, but for the interfaces with these indices; says
/// on which interfaces.
pub(in crate::steer) fn remove_filters(but: &[u32]) -> Vec<String> {
    let Ok(interfaces) = nix::net::if_::if_nameindex() else {
        return Vec::new();
    };
    let mut removed = Vec::new();
    for found in interfaces.iter().filter(|interface| !but.contains(&interface.index())) {
        let Ok(interface) = found.name().to_str() else { continue };
        for side in Side::BOTH {
            if qdisc_detach_program(interface, TcAttachType::Ingress, program::name(side)).is_ok() {
                removed.push(format!("tc filter {} on {interface}", program::name(side)));
                remove_qdisc_if_empty(found.index());
            }
        }
    }
    removed
}

/// Takes programs of ours off all interfaces, but those with these numbers, by whomever their links are held; says which
/// on what. Needs the privileges of a start.
pub(in crate::steer) fn remove_links(but: &[u32]) -> Vec<String> {
    let Ok(interfaces) = nix::net::if_::if_nameindex() else {
        return Vec::new();
    };
    let mut removed = Vec::new();
    for found in &interfaces {
        let (Ok(interface), Ok(attached)) = (found.name().to_str(), query::attached(found.index())) else {
            continue;
        };
        if attached.iter().all(|(program, _)| but.contains(program)) {
            continue;
        }
        let Ok((_, programs)) = SchedClassifier::query_tcx(interface, TcAttachType::Ingress) else {
            continue;
        };
        for program in programs {
            let Some(name) = program.name_as_str().filter(|name| program::is_ours(name)) else { continue };
            let link = attached.iter().find(|(id, _)| *id == program.id() && !but.contains(id));
            let Some((_, link)) = link else { continue };
            match link::detach(*link) {
                Ok(()) => removed.push(format!("program {name} on {interface}")),
                // It went by itself, with the process of its agent, which was just ending.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, interface, name, "a program of another agent stays"),
            }
        }
    }
    removed
}

/// Empty it does nothing; so it is no failure when it stays.
fn remove_qdisc_if_empty(index: u32) {
    if let Err(error) = clsact::remove_if_empty(index) {
        tracing::debug!(%error, index, "the clsact qdisc stays");
    }
}

pub(super) fn index(interface: &str) -> Result<u32, SteerError> {
    interface_index(interface).map_err(|error| failed(interface, &error))
}

pub(super) fn failed(interface: &str, error: &dyn std::error::Error) -> SteerError {
    SteerError::Attach { interface: interface.to_owned(), reason: describe(error) }
}
