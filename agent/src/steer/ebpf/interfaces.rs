//! Interfaces come, go and change their names, and programs are taken off them by others: what runs where is looked after
//! while the agent runs.

use std::collections::{HashMap, HashSet};
use std::mem;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use weir_ebpf_common::Side;

use super::attach::{self, Attachment};
use super::{Ebpf, pins};
use crate::config::WhenAgentDies;
use crate::interfaces::is_pattern;
use crate::steer::SteerError;
use crate::steer::links::{Link, links};

/// For so long one check puts programs on interfaces: the kernel takes some 15 ms for each, and others wait to change what
/// steers.
const AT_A_TIME: Duration = Duration::from_millis(200);

/// Names that a line of the log has room for.
const NAMED: usize = 10;

/// The interfaces that there are.
pub(super) fn known_links() -> Result<Vec<Link>, SteerError> {
    links().map_err(|source| SteerError::System { what: "listing interfaces".to_owned(), source })
}

/// What came of the attachments that there were.
#[derive(Default)]
struct Losses {
    /// The program was taken off, by index of the interface.
    detached: HashSet<u32>,
    /// Names of interfaces that are gone, or that nothing in the configuration stands for any more.
    gone: Vec<String>,
}

impl Ebpf {
    /// Has the program run where it is to run, and nowhere else; says what was wrong.
    pub(super) fn repair_interfaces(&mut self, links: &[Link], problems: &mut Vec<String>) {
        let places = self.plan.places(links);
        self.warn(links, &places);
        let losses = self.drop_lost(&places, problems);
        let attached: HashSet<u32> = self.attachments.iter().map(Attachment::index).collect();
        let named = self.plan.interfaces();
        let (begin, mut new, mut left) = (Instant::now(), Vec::new(), 0_usize);
        for (link, side) in places.iter().filter(|(link, _)| !attached.contains(&link.index)) {
            let name = link.name.as_str();
            if begin.elapsed() >= AT_A_TIME {
                left += 1;
                continue;
            }
            match self.attach_while_running(name, *side) {
                Ok(()) if losses.detached.contains(&link.index) => problems.push(format!(
                    "the steering program was detached from {name} by somebody else, put back"
                )),
                Ok(()) if named.contains(&link.name) => {
                    problems.push(format!("interface {name} was made anew: steered again"));
                }
                Ok(()) => new.push(name),
                // It is gone already, which the next check sees.
                Err(_) if attach::index(name).is_err() => {}
                Err(error) => problems.push(format!("interface {name} is not steered: {error}")),
            }
        }
        tell("interfaces are steered from now on", &new);
        tell("interfaces are steered no more", &losses.gone);
        self.unfinished = left > 0;
        if left > 0 {
            problems.push(format!("{left} interfaces are not steered yet"));
        }
        for (key, names) in self.plan.lists() {
            let is_there = |name: &String| is_pattern(name) || links.iter().any(|link| link.name == *name);
            let gone = names.iter().filter(|name| !is_there(name));
            problems.extend(gone.map(|name| format!("steering.{key}: interface {name} is gone")));
        }
    }

    /// Lets those go that are not to be, or are not any more.
    fn drop_lost(&mut self, places: &[(&Link, Side)], problems: &mut Vec<String>) -> Losses {
        let wanted: HashMap<u32, (&str, Side)> =
            places.iter().map(|(link, side)| (link.index, (link.name.as_str(), *side))).collect();
        let programs = Side::BOTH.map(|side| (side, self.program.id(side)));
        let mut losses = Losses::default();
        for mut attachment in mem::take(&mut self.attachments) {
            let place = wanted.get(&attachment.index()).filter(|(_, side)| *side == attachment.side());
            let program = programs.iter().find(|(side, _)| *side == attachment.side());
            match place {
                Some((name, _)) if attachment.is_in_place(program.and_then(|(_, id)| *id)) => {
                    attachment.rename(name);
                    self.attachments.push(attachment);
                    continue;
                }
                Some(_) => {
                    losses.detached.insert(attachment.index());
                }
                None => losses.gone.push(attachment.interface().to_owned()),
            }
            if self.is_pinned()
                && let Err(error) = pins::forget(&self.plan.pin_directory, &attachment)
            {
                problems.push(error.to_string());
            }
            attachment.give_up();
        }
        losses
    }

    fn attach_while_running(&mut self, interface: &str, side: Side) -> Result<(), SteerError> {
        let attachment = attach::attach_for(&mut self.program, interface, side, self.plan.when_agent_dies)?;
        if self.is_pinned() {
            pins::add(&self.plan.pin_directory, &attachment)?;
        }
        self.attachments.push(attachment);
        Ok(())
    }

    /// The attachments outlive the agent.
    fn is_pinned(&self) -> bool {
        self.held || self.plan.when_agent_dies == WhenAgentDies::Closed
    }

    /// What may be meant, or a mistake.
    fn warn(&mut self, links: &[Link], places: &[(&Link, Side)]) {
        let idle = self.plan.idle_patterns(links).into_iter();
        let mut warnings: Vec<String> =
            idle.map(|(key, pattern)| format!("steering.{key}: no interface fits {pattern}")).collect();
        let ports = places.iter().filter(|(link, _)| link.is_port);
        warnings.extend(ports.map(|(Link { name, .. }, _)| {
            format!("interface {name} is a port of a bridge or bond: name that, its packets come in there")
        }));
        if warnings != self.warnings {
            for warning in &warnings {
                warn!(%warning, "steering");
            }
            self.warnings = warnings;
        }
    }
}

fn tell<T: AsRef<str>>(what: &'static str, names: &[T]) {
    if names.is_empty() {
        return;
    }
    let mut words: Vec<&str> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    words.extend((names.len() > NAMED).then_some("..."));
    info!(count = names.len(), interfaces = words.join(" "), "{what}");
}
