//! From "a message is coming" to a decision on it: nodes are tried in turn until one gives a verdict.

use std::time::Instant;

use weir_smtp::Reply;
use weir_smtp::envelope::Mailbox;
use weir_smtp::extension::Extensions;

use super::body::Stored;
use super::conversation::{Conversation, Matter, NodeFailure, Progress};
use super::record::Verdict;
use super::wire::{Leg, Output, Wire};
use crate::config::{Mode, WhenUnavailable};
use crate::failure::{Cause, Failure};
use crate::nodes::needs::Needs;
use crate::nodes::{Candidate, NodeId};
use crate::treatment::Treatment;

/// A message in the hands of this many failed nodes is suspect: it may be what they died of.
const SUSPECT_AFTER: usize = 2;

/// What is done with the message.
#[derive(Debug)]
pub struct Decision {
    pub verdict: Verdict,
    /// The node that decided. `None`: nobody could be asked.
    pub node: Option<NodeId>,
    pub filter_reply: Option<Reply>,
    /// Why weir decided in a node's place.
    pub failure: Option<Failure>,
}

impl Decision {
    fn of(node: NodeId, reply: Reply) -> Self {
        Self { verdict: Verdict::of(&reply), node: Some(node), filter_reply: Some(reply), failure: None }
    }
}

#[derive(Debug)]
pub struct Judgement {
    treatment: Treatment,
    needs: Needs,
    conversation: Option<Conversation>,
    tried: Vec<NodeId>,
    pub failures: Vec<(NodeId, NodeFailure)>,
    /// A node was reached, whatever came of it: from then on the message is never accepted unjudged.
    reached: bool,
    suspicions: usize,
    /// A node was told of the message on a connection that was then found lost. If it cannot be reached any more, it may have
    /// had the message.
    told: bool,
    /// No verdict is needed any more.
    abandoned: bool,
    decision: Option<Decision>,
}

impl Judgement {
    /// Asks for the first node, unless nobody is to judge.
    pub fn begin(treatment: Treatment, needs: Needs, wire: &mut Wire) -> Self {
        let unasked = Decision { verdict: Verdict::Accept, node: None, filter_reply: None, failure: None };
        let decision = Some(unasked).filter(|_| treatment.mode == Mode::Bypass);
        if decision.is_none() {
            wire.push(Output::ChooseNode { tried: Vec::new(), needs });
        }
        Self {
            treatment,
            needs,
            conversation: None,
            tried: Vec::new(),
            failures: Vec::new(),
            reached: false,
            suspicions: 0,
            told: false,
            abandoned: false,
            decision,
        }
    }

    /// The message is not to pass. In shadow mode every one passes.
    pub fn withholds(&self) -> bool {
        let refused = self.decision.as_ref().is_some_and(|decision| decision.verdict != Verdict::Accept);
        refused && self.treatment.mode == Mode::Enforce
    }

    /// Another question of the same transaction. `false`: there is no conversation any more.
    pub fn ask(&mut self, recipient: &Mailbox, wire: &mut Wire) -> bool {
        let Some(conversation) = &mut self.conversation else { return false };
        self.decision = None;
        conversation.ask(recipient, wire);
        true
    }

    pub fn mode(&self) -> Mode {
        self.treatment.mode
    }

    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }

    pub fn into_parts(self) -> (Option<Decision>, Vec<(NodeId, NodeFailure)>, bool) {
        (self.decision, self.failures, self.suspicions >= SUSPECT_AFTER)
    }

    pub fn conversation(&self) -> Option<&Conversation> {
        self.conversation.as_ref()
    }

    /// The driver's choice of a node; none is left.
    pub fn chosen(&mut self, candidate: Option<Candidate>, wire: &mut Wire) {
        if self.decision.is_some() || self.abandoned {
            return;
        }
        match candidate {
            Some(candidate) => {
                self.tried.push(candidate.node);
                self.conversation = Some(Conversation::new(candidate));
                wire.push(Output::Connect(Leg::Filter));
            }
            None if self.reached => self.none_decided(),
            None => self.unavailable(),
        }
    }

    /// Nodes are there, and are not asked now: that is no absence, so the message never passes unjudged.
    pub fn not_asked(&mut self, why: Failure) {
        if self.decision.is_none() && !self.abandoned {
            self.decide(Verdict::Defer, why);
        }
    }

    pub fn connected(&mut self) {
        if let Some(conversation) = &mut self.conversation {
            self.reached = true;
            conversation.connected();
        }
    }

    /// A connection to the node was ready.
    pub fn greeted(&mut self, announced: &Extensions, matter: &Matter, wire: &mut Wire) {
        let Some(conversation) = &mut self.conversation else { return };
        let progress = conversation.greeted(announced, matter, wire);
        self.went(progress, wire);
    }

    /// TLS with the node is on.
    pub fn secured(&mut self, matter: &Matter, now: Instant, wire: &mut Wire) {
        if let Some(conversation) = &mut self.conversation {
            wire.restart(Leg::Filter, now);
            conversation.secured(matter, wire);
        }
    }

    pub fn bytes(&mut self, octets: &[u8], matter: &Matter, now: Instant, wire: &mut Wire) {
        let Some(conversation) = &mut self.conversation else { return };
        let progress = conversation.bytes(octets, matter, now, wire);
        self.reached |= !conversation.is_unproven();
        self.went(progress, wire);
    }

    fn went(&mut self, progress: Progress, wire: &mut Wire) {
        match progress {
            Progress::Going => {}
            Progress::Answer(reply) => {
                let node = self.conversation.as_ref().map(Conversation::node);
                self.decision = node.map(|node| Decision::of(node, reply));
            }
            Progress::Verdict(reply) => self.decided(reply, wire),
            Progress::Stale => self.connect_anew(wire),
            Progress::Failed(failure) => self.failed(failure, wire),
        }
    }

    /// The node has shown nothing on the connection yet: its end says nothing about node or message. The new one takes its
    /// place, and the message stays with the node.
    fn connect_anew(&mut self, wire: &mut Wire) {
        let Some(conversation) = self.conversation.take() else { return };
        self.told = conversation.in_hands;
        self.conversation = Some(Conversation::new(conversation.candidate()));
        wire.forget(Leg::Filter);
        wire.push(Output::Connect(Leg::Filter));
    }

    /// The connection to the node could not be made or was lost.
    pub fn lost(&mut self, cause: Option<Cause>, now: Instant, wire: &mut Wire) {
        let Some(conversation) = &self.conversation else { return };
        if conversation.is_unproven() {
            wire.restart(Leg::Filter, now);
            return self.connect_anew(wire);
        }
        let failure = conversation.lost(cause);
        self.failed(failure, wire);
    }

    /// The node did not answer in time.
    pub fn silent(&mut self, now: Instant, wire: &mut Wire) {
        let Some(conversation) = &self.conversation else { return };
        if conversation.is_unproven() {
            wire.restart(Leg::Filter, now);
            return self.connect_anew(wire);
        }
        let failure = if conversation.is_connecting() {
            NodeFailure::Connect(Cause::TimedOut)
        } else {
            NodeFailure::Silent(conversation.step())
        };
        self.failed(failure, wire);
    }

    /// The verdict's time is over, all tries included.
    pub fn out_of_time(&mut self, wire: &mut Wire) {
        if self.decision.is_some() {
            return;
        }
        if let Some(conversation) = self.conversation.take() {
            let failure = NodeFailure::Silent(conversation.step());
            wire.push(Output::Report { node: conversation.node(), failure: Some(failure.clone()) });
            self.failures.push((conversation.node(), failure));
            conversation.close(wire);
        }
        // Also where none was reached: there may be nodes that were not tried yet.
        let failure = if self.reached { Failure::FilterSilent } else { Failure::FilterUnavailable };
        self.decide(Verdict::Defer, failure);
    }

    /// The message needs no verdict any more.
    pub fn abandon(&mut self, wire: &mut Wire) {
        self.abandoned = true;
        if let Some(conversation) = self.conversation.take() {
            conversation.close(wire);
        }
    }

    pub fn pump(&mut self, stored: Stored, wire: &mut Wire) {
        if let Some(conversation) = &mut self.conversation
            && let Progress::Failed(failure) = conversation.pump(stored, wire)
        {
            self.failed(failure, wire);
        }
    }

    pub fn spooled(&mut self, octets: &[u8], wire: &mut Wire) {
        if let Some(conversation) = &mut self.conversation {
            conversation.spooled(octets, wire);
        }
    }

    fn decided(&mut self, reply: Reply, wire: &mut Wire) {
        let Some(conversation) = self.conversation.take() else { return };
        wire.push(Output::Report { node: conversation.node(), failure: None });
        self.decision = Some(Decision::of(conversation.node(), reply));
        conversation.leave(wire);
    }

    fn failed(&mut self, failure: NodeFailure, wire: &mut Wire) {
        let Some(conversation) = self.conversation.take() else { return };
        let node = conversation.node();
        // Also one that had a connection ready, and announced too little on it.
        // Not for the agent's own trouble, which says nothing about the node, and must not open the path.
        let unreachable = matches!(failure, NodeFailure::Connect(cause) if cause != Cause::Exhausted);
        let told = std::mem::take(&mut self.told) && unreachable;
        self.reached |= told || !unreachable;
        if told || (conversation.in_hands && !matches!(failure, NodeFailure::Lacks(_))) {
            self.suspicions += 1;
        }
        wire.push(Output::Abort(Leg::Filter));
        wire.forget(Leg::Filter);
        match failure {
            // The node is well, only not for this message, or the agent has no descriptor for it.
            NodeFailure::Connect(Cause::Exhausted) | NodeFailure::Lacks(_) => {}
            _ => wire.push(Output::Report { node, failure: Some(failure.clone()) }),
        }
        self.failures.push((node, failure));
        if self.suspicions >= SUSPECT_AFTER {
            self.decide(Verdict::Defer, Failure::Suspect);
        } else {
            wire.push(Output::ChooseNode { tried: self.tried.clone(), needs: self.needs });
        }
    }

    /// Nodes were reached, and none gave a verdict.
    fn none_decided(&mut self) {
        let lacking = |failure: &NodeFailure| match failure {
            NodeFailure::Lacks(what) => Some(*what),
            _ => None,
        };
        let all: Option<Vec<_>> = self.failures.iter().map(|(_, failure)| lacking(failure)).collect();
        match all.and_then(|all| all.first().copied()) {
            // Trying again cannot help.
            Some(what) => self.decide(Verdict::Reject, Failure::FilterLacks(what)),
            None => self.decide(Verdict::Defer, Failure::FilterFailed),
        }
    }

    /// No node could be reached at all: the one case in which a message may pass unjudged.
    fn unavailable(&mut self) {
        let verdict = match self.treatment.when_unavailable {
            WhenUnavailable::Defer => Verdict::Defer,
            WhenUnavailable::Accept => Verdict::Accept,
        };
        self.decide(verdict, Failure::FilterUnavailable);
    }

    /// A decision in the nodes' place.
    fn decide(&mut self, verdict: Verdict, failure: Failure) {
        self.decision = Some(Decision { verdict, node: None, filter_reply: None, failure: Some(failure) });
    }
}
