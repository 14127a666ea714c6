//! The envelope as it is said to a node: XFORWARD, MAIL, each RCPT and DATA, and what is answered.

use weir_smtp::Reply;
use weir_smtp::envelope::Mailbox;
use weir_smtp::extension::{Extensions, understood};
use weir_smtp::reply::Severity;

use super::body::BodySender;
use super::conversation::Matter;
use super::wire::{Leg, Wire};

/// Replies in the order of the commands.
#[derive(Debug)]
pub struct EnvelopeReplies {
    commands: Vec<EnvelopeCommand>,
    /// Commands sent, and replies got.
    sent: usize,
    answered: usize,
    pipelining: bool,
    /// The body follows in chunks, without DATA.
    in_chunks: bool,
    /// No body follows.
    is_question: bool,
    /// The first 4xx to MAIL, RCPT or DATA, else the first 5xx.
    refusal: Option<Reply>,
}

#[derive(Debug)]
struct EnvelopeCommand {
    line: Vec<u8>,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Xforward,
    Address,
    Data,
}

/// What a reply has come to.
pub enum EnvelopeProgress {
    Going,
    Answered(Reply),
    Refused(Reply),
    GoAhead,
}

impl EnvelopeReplies {
    pub fn new(ident: Option<String>, matter: &Matter, extensions: &Extensions) -> Self {
        let mut replies = Self {
            commands: Vec::with_capacity(matter.envelope.recipients.len() + 3),
            sent: 0,
            answered: 0,
            pipelining: extensions.has("PIPELINING"),
            in_chunks: matter.in_chunks && extensions.has("CHUNKING"),
            is_question: matter.is_question,
            refusal: None,
        };
        if let Some(line) = ident {
            replies.commands.push(EnvelopeCommand { line: line.into_bytes(), step: Step::Xforward });
        }
        replies.address("MAIL FROM", &matter.envelope.sender, extensions);
        for recipient in &matter.envelope.recipients {
            replies.address("RCPT TO", recipient, extensions);
        }
        if !replies.in_chunks && !replies.is_question {
            replies.commands.push(EnvelopeCommand { line: b"DATA".to_vec(), step: Step::Data });
        }
        replies
    }

    pub fn address(&mut self, verb: &str, mailbox: &Mailbox, extensions: &Extensions) {
        let mut line = format!("{verb}:<").into_bytes();
        line.extend_from_slice(mailbox.path.as_bytes());
        line.push(b'>');
        for parameter in understood(mailbox, extensions) {
            line.push(b' ');
            line.extend_from_slice(parameter.as_bytes());
        }
        self.commands.push(EnvelopeCommand { line, step: Step::Address });
    }

    /// A question that is answered.
    pub fn is_idle(&self) -> bool {
        self.is_question && self.answered == self.commands.len()
    }

    pub fn body_sender(&self) -> BodySender {
        if self.in_chunks {
            BodySender::in_chunks(Leg::Filter, self.pipelining)
        } else {
            BodySender::after_data(Leg::Filter)
        }
    }

    /// All but DATA as a group where the node takes groups, else one at a time. DATA is said only when
    /// everything before it was accepted, so that no node is left waiting for a body.
    pub fn send(&mut self, wire: &mut Wire) {
        while let Some(command) = self.commands.get(self.sent) {
            let all_answered = self.sent == self.answered;
            if !all_answered && (!self.pipelining || command.step == Step::Data) {
                break;
            }
            wire.write_line(Leg::Filter, &command.line);
            self.sent += 1;
        }
    }

    pub fn add(&mut self, reply: Reply) -> Result<EnvelopeProgress, Reply> {
        let Some(command) = self.commands.get(self.answered).filter(|_| self.answered < self.sent) else {
            return Err(reply);
        };
        self.answered += 1;
        if self.is_question && self.is_idle() && reply.severity() != Severity::Intermediate {
            // What was refused before it is the answer on this recipient, too.
            return Ok(match self.refusal.take() {
                Some(refusal) => EnvelopeProgress::Refused(refusal),
                None => EnvelopeProgress::Answered(reply),
            });
        }
        match (command.step, reply.severity()) {
            (Step::Data, Severity::Intermediate) => return Ok(EnvelopeProgress::GoAhead),
            // The id is a courtesy: a node that refuses it still judges.
            (Step::Xforward, Severity::Positive | Severity::Transient | Severity::Permanent)
            | (Step::Address, Severity::Positive) => {}
            (Step::Address | Step::Data, Severity::Transient | Severity::Permanent) => self.refused(reply),
            (Step::Data, Severity::Positive) | (Step::Xforward | Step::Address, Severity::Intermediate) => {
                return Err(reply);
            }
        }
        let next_is_data = self.commands.get(self.answered).is_none_or(|next| next.step == Step::Data);
        match self.refusal.take_if(|_| next_is_data && !self.is_question) {
            Some(refusal) => Ok(EnvelopeProgress::Refused(refusal)),
            None if self.answered == self.commands.len() => Ok(EnvelopeProgress::GoAhead),
            None => Ok(EnvelopeProgress::Going),
        }
    }

    fn refused(&mut self, reply: Reply) {
        let transient = |reply: &Reply| reply.severity() == Severity::Transient;
        if self.refusal.as_ref().is_none_or(|first| transient(&reply) && !transient(first)) {
            self.refusal = Some(reply);
        }
    }
}
