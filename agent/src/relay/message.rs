//! One message: received and judged side by side, then delivered or withheld.

use std::time::Instant;

use weir_smtp::Reply;
use weir_smtp::reply::Severity;

use super::body::{BodySender, Stored};
use super::conversation::Matter;
use super::judgement::Judgement;
use super::mirror::Original;
use super::reception::{Chunk, Reception};
use super::record::{Outcome, Record, Verdict};
use super::settings::Settings;
use super::wire::{HIGH_WATER, Leg, Output, Wire};
use crate::config::Mode;
use crate::failure::Failure;
use crate::treatment::Treatment;

/// What happens at the destination. Before this nothing of the message went there.
#[derive(Debug)]
enum Delivery {
    /// DATA was said, and is not answered. BDAT asks nothing.
    Asked,
    Sending(BodySender),
    /// The end went out, then. From here on only the destination knows.
    Committed(Instant),
}

/// The message's fate.
#[derive(Debug)]
pub struct Conclusion {
    /// What the customer is told.
    pub reply: Reply,
    pub outcome: Outcome,
    /// Why weir or the connection decided, and not the filter or the destination.
    pub failure: Option<Failure>,
    /// The destination still holds the envelope.
    pub reset_destination: bool,
    /// The destination waits for a body that will not come.
    pub abort_destination: bool,
    pub ends_session: bool,
}

impl Conclusion {
    fn of_a_lost_destination(self) -> Self {
        Self { reset_destination: false, abort_destination: true, ends_session: true, ..self }
    }
}

#[derive(Debug)]
pub struct Message {
    pub matter: Matter,
    began: Instant,
    reception: Reception,
    judgement: Judgement,
    delivery: Option<Delivery>,
    /// Delivery begins as soon as so many octets are there: nobody is asked about them. `None`: with the whole message.
    straight_after: Option<u64>,
    /// What the destination made of it before the customer had sent it all: told when he has.
    answered_early: Option<Conclusion>,
    /// The destination is gone or unusable: why, and what the customer will be told.
    destination_lost: Option<(Failure, Reply)>,
    /// Nobody is there to hear the outcome.
    pub customer_gone: bool,
}

impl Message {
    /// `chunk`: the customer sends it in chunks, of which this is the first.
    pub fn begin(
        matter: Matter,
        chunk: Option<Chunk>,
        treatment: Treatment,
        settings: &Settings,
        now: Instant,
        wire: &mut Wire,
    ) -> Self {
        wire.push(Output::NewSpool);
        let straight = treatment.mode == Mode::Bypass && chunk.is_none();
        let judgement = Judgement::begin(treatment, matter.needs(), wire);
        let binary = matter.envelope.sender.is_binary();
        Self {
            matter,
            began: now,
            reception: Reception::begin(chunk, binary, now),
            judgement,
            delivery: None,
            straight_after: straight.then_some(settings.straight_after),
            answered_early: None,
            destination_lost: None,
            customer_gone: false,
        }
    }

    pub fn judgement(&mut self) -> (&mut Judgement, &Matter) {
        (&mut self.judgement, &self.matter)
    }

    pub fn conversation(&self) -> Option<&super::conversation::Conversation> {
        self.judgement.conversation()
    }

    /// Octets handed to the spool that it does not have yet.
    pub fn unstored(&self) -> u64 {
        self.reception.unstored()
    }

    /// The customer's next octets are the body's.
    pub fn wants_octets(&self) -> bool {
        self.reception.is_taking()
    }

    pub fn unanswered_chunk(&self) -> Option<u64> {
        self.reception.unanswered_chunk()
    }

    pub fn reception(&mut self) -> &mut Reception {
        &mut self.reception
    }

    /// When the customer's last octet came.
    pub fn received_at(&self) -> Option<Instant> {
        self.reception.complete()
    }

    /// When the customer will have been too slow, unless it goes on.
    pub fn rate_deadline(&self) -> Option<Instant> {
        self.reception.rate_deadline()
    }

    pub fn awaits_verdict(&self) -> bool {
        self.judgement.decision().is_none()
            && self.reception.refusal.is_none()
            && self.destination_lost.is_none()
    }

    /// The end went to the destination.
    pub fn is_committed(&self) -> bool {
        matches!(self.delivery, Some(Delivery::Committed(_)))
    }

    pub fn is_delivering(&self) -> bool {
        self.delivery.is_some()
    }

    /// Takes the customer's octets up to the end of data, or of a chunk.
    pub fn receive(&mut self, octets: &mut &[u8], settings: &Settings, now: Instant, wire: &mut Wire) {
        let body = self.reception.take(octets, settings, now);
        if self.reception.refusal.is_some() {
            self.judgement.abandon(wire);
        } else if !body.is_empty() && self.wants_body() {
            let before = self.reception.handed(body.len());
            match &mut self.delivery {
                // The spool has nothing that the destination has not.
                Some(Delivery::Sending(sender)) if sender.has_sent(before) => {
                    wire.resume(Leg::Destination, now);
                    sender.spooled(&body, wire);
                    self.reception.stored += body.len() as u64;
                }
                _ => wire.push(Output::Store(body.freeze())),
            }
        }
    }

    /// The customer's octets wait for nothing but the destination, which has as many as it takes.
    pub fn is_held_up(&self, wire: &Wire) -> bool {
        self.is_delivering() && self.is_wanted() && wire.flow(Leg::Destination).outgoing >= HIGH_WATER
    }

    /// The destination has something to take or to answer.
    pub fn awaits_destination(&self, wire: &Wire) -> bool {
        self.is_wanted()
            && match &self.delivery {
                None => false,
                Some(Delivery::Sending(_)) => wire.flow(Leg::Destination).outgoing > 0,
                Some(Delivery::Asked | Delivery::Committed(_)) => true,
            }
    }

    /// Whether the body is still of use to anybody.
    fn wants_body(&self) -> bool {
        self.is_wanted() && !self.judgement.withholds()
    }

    /// The destination may have the message, and has not said what becomes of it.
    fn is_wanted(&self) -> bool {
        self.destination_lost.is_none() && self.answered_early.is_none() && self.reception.refusal.is_none()
    }

    fn refuse(&mut self, refusal: Failure, wire: &mut Wire) {
        self.reception.refusal.get_or_insert(refusal);
        self.judgement.abandon(wire);
    }

    pub fn stored(&mut self, octets: u64) {
        self.reception.stored += octets;
    }

    /// So many octets will never be there: they are waited for no longer.
    pub fn store_failed(&mut self, octets: u64, wire: &mut Wire) {
        self.reception.stored += octets;
        self.refuse(Failure::SpoolFull, wire);
    }

    pub fn spooled(&mut self, leg: Leg, octets: &[u8], wire: &mut Wire) {
        match (leg, &mut self.delivery) {
            (Leg::Filter, _) => self.judgement.spooled(octets, wire),
            (Leg::Destination, Some(Delivery::Sending(sender))) => sender.spooled(octets, wire),
            _ => {}
        }
    }

    /// The spool could not be read back: nothing judged can be delivered.
    pub fn replay_failed(&mut self, wire: &mut Wire) {
        self.refuse(Failure::SpoolFull, wire);
    }

    /// The destination can't be used any more; `reply` says why.
    pub fn destination_lost(&mut self, failure: Failure, reply: Reply, wire: &mut Wire) {
        self.destination_lost.get_or_insert((failure, reply));
        self.judgement.abandon(wire);
    }

    /// Sends what can be sent, and decides what can be decided.
    pub fn advance(&mut self, destination_free: bool, now: Instant, wire: &mut Wire) -> Option<Conclusion> {
        let stored = self.stored_body();
        self.judgement.pump(stored, wire);
        let wanted = self.is_wanted();
        if let Some(Delivery::Sending(sender)) = &mut self.delivery
            && wanted
            && sender.pump(stored, wire)
        {
            self.delivery = Some(Delivery::Committed(now));
            wire.restart(Leg::Destination, now);
        }
        // An answer is owed, or the customer is between two commands.
        let awaited = self.reception.is_awaited();
        let at_rest = awaited || self.reception.is_between_chunks();
        if let Some(conclusion) = self.answered_early.take_if(|_| at_rest) {
            let lost = self.destination_lost.is_some();
            return Some(if lost { conclusion.of_a_lost_destination() } else { conclusion });
        }
        if let Some((failure, reply)) = self.destination_lost.take_if(|_| at_rest) {
            return Some(self.lost(failure, reply));
        }
        if let Some(failure) = self.reception.refusal.filter(|_| awaited) {
            return Some(self.withheld(failure.reply(&self.matter.id), Some(failure)));
        }
        // A refusal by the filter is told at the end, so that it does not matter when it came.
        let straight = self.straight_after.is_some_and(|after| stored.octets >= after) && wanted;
        if self.delivery.is_some() || !(stored.complete || straight) {
            return None;
        }
        let decision = self.judgement.decision()?;
        if !self.judgement.withholds() {
            if destination_free {
                self.begin_delivery(stored, now, wire);
            }
            return None;
        }
        let reply = match (&decision.filter_reply, decision.failure) {
            (Some(reply), _) => reply.clone(),
            (None, failure) => failure.unwrap_or(Failure::FilterFailed).reply(&self.matter.id),
        };
        let failure = decision.failure;
        Some(self.withheld(reply, failure))
    }

    fn stored_body(&self) -> Stored {
        Stored {
            octets: self.reception.stored,
            complete: self.reception.complete().is_some() && self.unstored() == 0,
            suits_data: self.reception.suits_data(),
        }
    }

    fn begin_delivery(&mut self, stored: Stored, now: Instant, wire: &mut Wire) {
        wire.restart(Leg::Destination, now);
        self.delivery = Some(if self.reception.is_in_chunks() {
            let mut sender = BodySender::in_one_chunk(Leg::Destination);
            if sender.pump(stored, wire) { Delivery::Committed(now) } else { Delivery::Sending(sender) }
        } else {
            wire.write(Leg::Destination, &b"DATA\r\n"[..]);
            Delivery::Asked
        });
    }

    /// The destination's answer to DATA, or to the end of the body.
    pub fn destination_reply(&mut self, reply: Reply, now: Instant, wire: &mut Wire) -> Option<Conclusion> {
        if self.answered_early.is_some() {
            return None;
        }
        let conclusion = self.concluded_by(reply, now, wire)?;
        if self.reception.complete().is_some() {
            return Some(conclusion);
        }
        self.answered_early = Some(conclusion);
        None
    }

    fn concluded_by(&mut self, reply: Reply, now: Instant, wire: &mut Wire) -> Option<Conclusion> {
        // Before the last octet has left, nothing that it says is an answer to end of data.
        let has_all = self.is_committed() && wire.flow(Leg::Destination).outgoing == 0;
        match (&self.delivery, reply.severity()) {
            (Some(Delivery::Asked), Severity::Intermediate) => {
                self.delivery = Some(Delivery::Sending(BodySender::after_data(Leg::Destination)));
                self.advance(true, now, wire)
            }
            (Some(Delivery::Asked), Severity::Transient | Severity::Permanent) => {
                // Said before it had DATA, or as a goodbye: nothing more may follow on this connection.
                let in_step = reply.code() != 421 && wire.flow(Leg::Destination).outgoing == 0;
                let answered = self.answered(reply, Outcome::Refused, in_step);
                let ends_session = !in_step;
                Some(Conclusion { abort_destination: ends_session, ends_session, ..answered })
            }
            (Some(Delivery::Committed(_)), Severity::Positive) if has_all => {
                Some(self.answered(reply, Outcome::Delivered, false))
            }
            (Some(Delivery::Committed(_)), Severity::Transient | Severity::Permanent) if has_all => {
                Some(self.answered(reply, Outcome::Refused, false))
            }
            // A refusal in the middle of the body: told as it was said, but the session can't go on, for the
            // rest of the body is on its way.
            (
                Some(Delivery::Sending(_) | Delivery::Committed(_)),
                Severity::Transient | Severity::Permanent,
            ) => {
                let answered = self.answered(reply, Outcome::Refused, false);
                Some(Conclusion { abort_destination: true, ends_session: true, ..answered })
            }
            _ => {
                let failure = Failure::DestinationGarbage;
                Some(self.lost(failure, failure.reply(&self.matter.id)))
            }
        }
    }

    fn answered(&mut self, reply: Reply, outcome: Outcome, reset_destination: bool) -> Conclusion {
        let ends_session = reply.code() == 421;
        Conclusion {
            reply,
            outcome: if self.customer_gone { Outcome::Unreported } else { outcome },
            failure: None,
            reset_destination,
            abort_destination: false,
            ends_session,
        }
    }

    fn withheld(&mut self, reply: Reply, failure: Option<Failure>) -> Conclusion {
        // A destination that was given part of a message must never see its end.
        let abort = matches!(self.delivery, Some(Delivery::Asked | Delivery::Sending(_)));
        Conclusion {
            reply,
            outcome: Outcome::Withheld,
            failure,
            reset_destination: !abort,
            abort_destination: abort,
            ends_session: abort,
        }
    }

    fn lost(&mut self, failure: Failure, reply: Reply) -> Conclusion {
        Conclusion {
            reply,
            outcome: if self.is_committed() { Outcome::Unknown } else { Outcome::Withheld },
            failure: Some(failure),
            reset_destination: false,
            abort_destination: true,
            ends_session: true,
        }
    }

    /// The session ends before the message's fate is known, and the customer is told why.
    pub fn cut_short(&mut self, failure: Failure, wire: &mut Wire) -> Conclusion {
        self.judgement.abandon(wire);
        let reply = failure.reply(&self.matter.id);
        self.lost(failure, reply)
    }

    /// The customer is gone before the end went out: it never will.
    pub fn abandon(mut self, now: Instant, wire: &mut Wire) -> Record {
        self.judgement.abandon(wire);
        let said = self.answered_early.take().map(|conclusion| conclusion.reply);
        self.record(said, Outcome::Abandoned, None, now).0
    }

    /// What is logged, and what mirror nodes may be asked about: a message that a node has judged, unless the
    /// spool lacks some of it because it was refused before.
    pub fn conclude(self, conclusion: &Conclusion, now: Instant) -> (Record, Option<Original>) {
        let stored = self.stored_body();
        let whole = stored.complete && stored.octets == self.reception.findings().size;
        let decision = self.judgement.decision().filter(|decision| decision.node.is_some());
        let verdict = decision.map(|decision| decision.verdict);
        let verdict = verdict.filter(|_| whole && self.reception.refusal.is_none());
        let (record, matter) =
            self.record(Some(conclusion.reply.clone()), conclusion.outcome, conclusion.failure, now);
        (record, verdict.map(|verdict| Original { matter, stored, verdict }))
    }

    fn record(
        self,
        reply: Option<Reply>,
        outcome: Outcome,
        failure: Option<Failure>,
        now: Instant,
    ) -> (Record, Matter) {
        let findings = self.reception.findings();
        let mode = self.judgement.mode();
        let by_destination = matches!(outcome, Outcome::Delivered | Outcome::Refused | Outcome::Unreported);
        let answered_after = match self.delivery {
            Some(Delivery::Committed(at)) if by_destination => Some(now.saturating_duration_since(at)),
            _ => None,
        };
        let (decision, failures, suspect) = self.judgement.into_parts();
        let record = Record {
            id: self.matter.id.clone(),
            helo: String::from_utf8_lossy(&self.matter.identity.helo).into_owned(),
            recipients: self.matter.envelope.recipients.len(),
            size: findings.size,
            bare_lf: findings.bare_lf,
            bare_cr: findings.bare_cr,
            verdict: match (&decision, &reply) {
                // Refused for what it is, whatever a node thought of its beginning.
                (_, Some(reply)) if self.reception.refusal.is_some() => Verdict::of(reply),
                (Some(decision), _) => decision.verdict,
                (None, Some(reply)) => Verdict::of(reply),
                (None, None) => Verdict::None,
            },
            outcome,
            mode,
            node: decision.as_ref().and_then(|decision| decision.node),
            failure: failure.or(decision.as_ref().and_then(|decision| decision.failure)),
            filter_reply: decision.and_then(|decision| decision.filter_reply),
            reply,
            node_failures: failures.into_iter().map(|(node, failure)| (node, failure.to_string())).collect(),
            suspect,
            tls: String::new(),
            duration: now.saturating_duration_since(self.began),
            answered_after,
        };
        (record, self.matter)
    }
}
