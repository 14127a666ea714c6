//! RCPT where the filter is asked before the destination (`filter.ask_recipients`).
//!
//! Recipients are asked about one by one, in one conversation for each transaction. A node's refusal is the
//! customer's answer, and the destination never hears of that recipient. Where no node answers, the recipient goes to
//! the destination unasked: the message is judged in any case.

use std::time::Instant;

use weir_smtp::Envelope;
use weir_smtp::envelope::Mailbox;

use super::conversation::{Conversation, Matter};
use super::destination::Expected;
use super::judgement::Judgement;
use super::record::Verdict;
use super::{Phase, Session};
use crate::config::Mode;

#[derive(Debug)]
pub struct Question {
    pub judgement: Judgement,
    pub matter: Matter,
    /// The RCPT that waits for the answer, and since when.
    pending: Option<(Vec<u8>, Mailbox, Instant)>,
}

impl Question {
    pub fn conversation(&self) -> Option<&Conversation> {
        self.judgement.conversation()
    }

    /// When the RCPT that waits was asked about.
    pub fn asked_at(&self) -> Option<Instant> {
        self.pending.as_ref().map(|(_, _, at)| *at)
    }
}

impl Session {
    pub(super) fn asks_recipients(&self) -> bool {
        self.settings.ask_recipients && self.treatment.mode != Mode::Bypass
    }

    pub(super) fn is_asking(&self) -> bool {
        self.question.as_ref().is_some_and(|question| question.pending.is_some())
    }

    /// Every command before it is answered.
    pub(super) fn ask_about(&mut self, line: Vec<u8>, recipient: Mailbox, now: Instant) {
        let Phase::Commands(Some(Envelope { sender, .. })) = &self.phase else {
            // The destination says what is wrong.
            return self.pass_alone(&line, Expected::Rcpt(recipient), now);
        };
        let goes_on =
            self.question.as_mut().is_some_and(|question| question.judgement.ask(&recipient, &mut self.wire));
        if !goes_on {
            let envelope = Envelope { sender: sender.clone(), recipients: vec![recipient.clone()] };
            let matter = Matter { is_question: true, ..self.matter(envelope) };
            let judgement = Judgement::begin(self.treatment, matter.needs(), &mut self.wire);
            self.question = Some(Box::new(Question { judgement, matter, pending: None }));
        }
        if let Some(question) = &mut self.question {
            question.pending = Some((line, recipient, now));
        }
    }

    /// Goes on with the RCPT if it is decided on.
    pub(super) fn recipient_answered(&mut self, now: Instant) -> bool {
        let Some(question) = &mut self.question else { return false };
        let Some(decision) = question.judgement.decision() else { return false };
        let refused = decision.verdict != Verdict::Accept && self.treatment.mode == Mode::Enforce;
        let refusal = decision.filter_reply.clone().filter(|_| refused);
        let Some((line, recipient, _)) = question.pending.take() else { return false };
        match refusal {
            Some(reply) => {
                self.customer.reply(reply, &mut self.wire);
                self.wire.restart(super::Leg::Customer, now);
            }
            None => self.pass(&line, Expected::Rcpt(recipient), now),
        }
        true
    }

    /// The transaction is over, or goes on to its message.
    pub(super) fn end_question(&mut self) {
        if let Some(mut question) = self.question.take() {
            question.judgement.abandon(&mut self.wire);
        }
    }
}
