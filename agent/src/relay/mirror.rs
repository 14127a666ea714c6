//! A message that has its verdict, asked about once more: what would a mirror node have said of it?
//!
//! As a session's judgement and of the same parts, but the body is there as a whole, and nothing comes of the answer but a
//! line in the log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Input;
use super::body::Stored;
use super::conversation::{Matter, NodeFailure};
use super::judgement::{Decision, Judgement};
use super::record::{MessageId, Verdict};
use super::settings::Settings;
use super::wire::{Leg, Output, Wire};
use crate::config::{Mode, WhenUnavailable};
use crate::nodes::NodeId;
use crate::treatment::Treatment;

/// A message that came whole and that a filter node has judged. Its body is in the spool.
#[derive(Debug)]
pub struct Original {
    pub(super) matter: Matter,
    pub(super) stored: Stored,
    pub verdict: Verdict,
}

impl Original {
    pub fn customer(&self) -> SocketAddr {
        self.matter.identity.customer
    }

    /// Octets of the body.
    #[cfg(test)]
    pub fn size(&self) -> u64 {
        self.stored.octets
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Comparison {
    pub id: MessageId,
    /// The filter node's verdict.
    pub verdict: Verdict,
    /// The mirror node's, or why there is none. `None`: cut short.
    pub mirrored: Option<Decision>,
    /// Mirror nodes that failed on it.
    pub failures: Vec<(NodeId, NodeFailure)>,
    pub duration: Duration,
}

/// One message before mirror nodes.
#[derive(Debug)]
pub struct Mirror {
    settings: Arc<Settings>,
    original: Original,
    judgement: Judgement,
    began: Instant,
    cut: bool,
    wire: Wire,
}

impl Mirror {
    pub fn new(settings: Arc<Settings>, original: Original, now: Instant) -> Self {
        let mut wire = Wire::new(now);
        let treatment = Treatment { mode: Mode::Enforce, when_unavailable: WhenUnavailable::Defer };
        let judgement = Judgement::begin(treatment, original.matter.needs(), &mut wire);
        Self { settings, original, judgement, began: now, cut: false, wire }
    }

    pub fn id(&self) -> &MessageId {
        &self.original.matter.id
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.wire.poll()
    }

    /// What is still to be polled is to be done all the same.
    pub fn is_over(&self) -> bool {
        self.cut || self.judgement.decision().is_some()
    }

    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        if self.is_over() {
            return;
        }
        let Self { judgement, original, wire, .. } = self;
        match input {
            Input::Bytes(Leg::Filter, octets) => judgement.bytes(octets, &original.matter, now, wire),
            Input::Connected(Leg::Filter) => {
                wire.restart(Leg::Filter, now);
                judgement.connected();
            }
            Input::Secured(Leg::Filter, _) => judgement.secured(&original.matter, now, wire),
            Input::Failed(Leg::Filter, cause) => judgement.lost(Some(cause), now, wire),
            Input::Closed(Leg::Filter) => judgement.lost(None, now, wire),
            Input::Writable(Leg::Filter, octets) => wire.written(Leg::Filter, octets, now),
            Input::Chosen(candidate) => {
                wire.forget(Leg::Filter);
                wire.restart(Leg::Filter, now);
                judgement.chosen(candidate, wire);
            }
            Input::NotAsked(why) => judgement.not_asked(why),
            Input::Spooled(Leg::Filter, octets) => judgement.spooled(octets, wire),
            Input::Timeout => self.timed_out(now),
            Input::ReplayFailed | Input::Cut | Input::Blocked => {
                judgement.abandon(wire);
                self.cut = true;
            }
            // The other legs are a session's.
            _ => {}
        }
        self.judgement.pump(self.original.stored, &mut self.wire);
    }

    fn timed_out(&mut self, now: Instant) {
        if now >= self.began + self.settings.verdict_budget {
            self.judgement.out_of_time(&mut self.wire);
        } else if self.node_deadline().is_some_and(|until| until <= now) {
            self.judgement.silent(now, &mut self.wire);
        }
    }

    /// When `Input::Timeout` is due if nothing happens before.
    pub fn deadline(&self) -> Instant {
        let all = self.began + self.settings.verdict_budget;
        self.node_deadline().map_or(all, |until| until.min(all))
    }

    fn node_deadline(&self) -> Option<Instant> {
        let patience = self.judgement.conversation().and_then(|node| node.patience(&self.settings));
        Some(self.wire.flow(Leg::Filter).progress + patience?)
    }

    pub fn compare(self, now: Instant) -> Comparison {
        let (mirrored, failures, _) = self.judgement.into_parts();
        Comparison {
            id: self.original.matter.id,
            verdict: self.original.verdict,
            mirrored,
            failures,
            duration: now.saturating_duration_since(self.began),
        }
    }
}
