//! What becomes of each command of the customer.
//!
//! | command | fate |
//! |---|---|
//! | EHLO, HELO | passed on; the reply goes through the allow-list |
//! | MAIL, RCPT | passed on verbatim; parameters of extensions that were not offered get 555 |
//! | RSET, NOOP, VRFY, EXPN, HELP, QUIT | passed on |
//! | DATA | answered by the agent once every RCPT is answered; the destination hears it after the verdict |
//! | BDAT | as DATA, each chunk is answered by the agent; 502 where CHUNKING was not offered |
//! | AUTH | passed on, with the lines of its exchange; 538 or 502 where it was not offered |
//! | STARTTLS, ETRN, TURN, XCLIENT, XFORWARD | 502, never passed on |
//! | anything else | 500, never passed on: its framing is not known |

use std::time::Instant;

use weir_smtp::command::Command;
use weir_smtp::envelope::Mailbox;
use weir_smtp::line::LineError;
use weir_smtp::xclient::Identity;
use weir_smtp::{Envelope, Reply};

use super::conversation::Matter;
use super::customer::Barrier;
use super::destination::{Expected, Link};
use super::message::Message;
use super::reception::Chunk;
use super::settings::MAX_AWAITED;
use super::wire::{HIGH_WATER, Leg, Notice, Output};
use super::{Phase, Session};
use crate::config::EarlyTalkers;
use crate::failure::Failure;

/// The first octets of a TLS record with a handshake (RFC 8446 section 5.1).
const TLS_HELLO: &[u8] = &[0x16, 0x03];

/// Methods of HTTP: a browser was talked into posting to port 25.
const HTTP: [&[u8]; 6] = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT"];

impl Session {
    /// Reads the next command if it is its turn. `true`: there was one.
    pub(super) fn next_command(&mut self, now: Instant) -> bool {
        let settled = self.destination.expected.is_empty();
        if self.stopping && settled && self.destination.link == Link::Open && self.customer.owed() == 0 {
            self.fail(Failure::Stopping);
            return false;
        }
        if self.customer.ended && self.awaits_greeting() && !self.customer.will_quit() {
            self.end();
            return false;
        }
        if self.is_asking() {
            return self.recipient_answered(now);
        }
        match self.customer.barrier {
            Barrier::None => {}
            _ if !settled => return false,
            Barrier::Recipient => {
                self.customer.barrier = Barrier::None;
                if let Some((line, recipient)) = self.customer.recipient.take() {
                    self.ask_about(line, recipient, now);
                }
                return true;
            }
            Barrier::Farewell(failure) => {
                self.fail(failure);
                return false;
            }
            Barrier::Data => {
                self.customer.barrier = Barrier::None;
                self.decide_message(None, now);
                return true;
            }
            Barrier::Chunk(chunk) => {
                self.customer.barrier = Barrier::None;
                self.decide_message(Some(chunk), now);
                return true;
            }
            Barrier::Answered => self.customer.barrier = Barrier::None,
        }
        if self.is_first_command() && self.customer.inbox.starts_with(TLS_HELLO) {
            self.hang_up();
            return false;
        }
        let crowded = self.destination.expected.len() >= MAX_AWAITED
            || self.customer.owed() >= MAX_AWAITED
            || self.wire.flow(Leg::Destination).outgoing >= HIGH_WATER
            || self.wire.flow(Leg::Customer).outgoing >= HIGH_WATER;
        if crowded {
            return false;
        }
        match self.customer.next_line() {
            None => {
                if self.customer.ended && settled {
                    self.note_wanted_tls();
                    self.end();
                }
                false
            }
            Some(Err(_)) if self.customer.in_auth => {
                // The destination awaits a line of the exchange; this cancels it (RFC 4954 section 4).
                self.customer.in_auth = false;
                self.pass_alone(b"*", Expected::Auth, now);
                true
            }
            Some(Ok(line)) if self.customer.in_auth => {
                self.customer.in_auth = false;
                self.pass_alone(&line.text, Expected::Auth, now);
                true
            }
            Some(Err(error)) => {
                self.bad_line(&error);
                true
            }
            Some(Ok(line)) => {
                self.command(&line.text, now);
                true
            }
        }
    }

    pub(super) fn bad_line(&mut self, error: &LineError) {
        self.refuse(Reply::enhanced(500, "5.5.2", error.to_string()));
        if error.is_bdat() {
            // How many octets follow is not known: nothing after this can be read safely.
            self.customer.barrier = Barrier::Farewell(Failure::ChunkUnreadable);
        }
    }

    fn is_first_command(&self) -> bool {
        self.customer.helo.is_empty() && self.messages == 0
    }

    /// Not SMTP: nothing is said that could be taken for an answer.
    fn hang_up(&mut self) {
        self.wire.push(Output::Noticed(Notice::NotSmtp));
        self.wire.push(Output::Abort(Leg::Customer));
        self.end();
    }

    fn awaits_greeting(&self) -> bool {
        matches!(self.destination.expected.next(), Some(Expected::Greeting))
    }

    pub(super) fn command(&mut self, line: &[u8], now: Instant) {
        self.wire.restart(Leg::Customer, now);
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(error) => {
                self.refuse(Reply::enhanced(501, "5.5.4", error.to_string()));
                if line.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT")) {
                    // How many octets follow is not known: nothing after this can be read safely.
                    self.customer.barrier = Barrier::Farewell(Failure::ChunkUnreadable);
                }
                return;
            }
        };
        if !matches!(command, Command::Bdat { .. } | Command::Noop) {
            self.customer.chunk_refusal = None;
        }
        if matches!(
            command,
            Command::Ehlo(_) | Command::Helo(_) | Command::Mail(_) | Command::Rset | Command::Quit
        ) {
            self.end_question();
        }
        match command {
            Command::Ehlo(name) => {
                self.customer.recipients = 0;
                self.pass_alone(line, Expected::Ehlo(name), now);
            }
            Command::Helo(name) => {
                self.customer.recipients = 0;
                self.pass_alone(line, Expected::Helo(name), now);
            }
            Command::Quit => {
                self.note_wanted_tls();
                self.customer.said_quit = true;
                self.pass_alone(line, Expected::Quit, now);
            }
            Command::Mail(sender) => self.mail(line, sender, now),
            Command::Rcpt(recipient) => self.rcpt(line, recipient, now),
            Command::Rset => {
                self.customer.recipients = 0;
                self.pass(line, Expected::Rset, now);
            }
            Command::Noop | Command::Vrfy | Command::Expn | Command::Help => {
                self.pass(line, Expected::Passive, now);
            }
            Command::Data => self.customer.barrier = Barrier::Data,
            Command::Bdat { size, last } if self.destination.offer.has("CHUNKING") => {
                self.customer.barrier = Barrier::Chunk(Chunk { size, last });
            }
            Command::Bdat { size, .. } => {
                self.customer.skip = size;
                self.refuse(not_available("BDAT"));
            }
            Command::StartTls => {
                self.note_wanted_tls();
                self.refuse(not_available("STARTTLS"));
            }
            Command::Auth if self.destination.offer.has("AUTH") => {
                self.pass_alone(line, Expected::Auth, now);
            }
            Command::Auth if self.destination.offered_tls => {
                let text = "encryption required for authentication, and not available";
                self.refuse(Reply::enhanced(538, "5.7.11", text));
            }
            Command::Auth => self.refuse(not_available("AUTH")),
            Command::Etrn => self.refuse(not_available("ETRN")),
            Command::Turn => self.refuse(not_available("TURN")),
            Command::Xclient(_) => self.refuse(not_available("XCLIENT")),
            Command::Xforward(_) => self.refuse(not_available("XFORWARD")),
            Command::Unknown(verb) if self.is_first_command() && HTTP.contains(&verb.as_slice()) => {
                self.hang_up();
            }
            Command::Unknown(_) => {
                self.refuse(Reply::enhanced(500, "5.5.1", "command not recognized"));
            }
        }
    }

    /// Once a session, and only where there was TLS to be had.
    pub(super) fn note_wanted_tls(&mut self) {
        if self.destination.offered_tls && !self.customer.goes_without_tls {
            self.customer.goes_without_tls = true;
            self.wire.push(Output::Noticed(Notice::WantedTls));
        }
    }

    fn mail(&mut self, line: &[u8], sender: Mailbox, now: Instant) {
        self.customer.goes_without_tls = true;
        let limit = self.settings.max_message_size;
        if let Some(unknown) = self.destination.offer.unknown_in_mail(&sender) {
            let reply = unknown_parameter(unknown.keyword());
            self.refuse(reply);
        } else if sender.size().is_some_and(|size| size > limit) {
            self.refuse(Failure::MessageTooLarge(limit).reply(&self.id));
        } else {
            self.pass(line, Expected::Mail(sender), now);
        }
    }

    fn rcpt(&mut self, line: &[u8], recipient: Mailbox, now: Instant) {
        if let Some(unknown) = self.destination.offer.unknown_in_rcpt(&recipient) {
            let reply = unknown_parameter(unknown.keyword());
            self.refuse(reply);
        } else if self.customer.recipients >= self.settings.max_recipients {
            // No error of the customer: what was accepted goes through (RFC 5321 section 4.5.3.1.10).
            let reply = Reply::enhanced(452, "4.5.3", "too many recipients in one message");
            self.customer.reply(reply, &mut self.wire);
        } else {
            self.customer.recipients += 1;
            if self.asks_recipients() {
                self.customer.recipient = Some((line.to_vec(), recipient));
                self.customer.barrier = Barrier::Recipient;
            } else {
                self.pass(line, Expected::Rcpt(recipient), now);
            }
        }
    }

    /// Every RCPT is answered. The agent's 354 stands in for the destination's, which is asked after the
    /// verdict; so it is given only when the destination accepted somebody. `chunk`: there was BDAT, not DATA.
    fn decide_message(&mut self, chunk: Option<Chunk>, now: Instant) {
        self.customer.recipients = 0;
        if let Some(chunk) = chunk
            && let Some(refusal) = self.customer.chunk_refusal.take()
        {
            return self.refuse_chunks(chunk, refusal);
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Commands(None));
        let refusal = match &phase {
            Phase::Commands(Some(envelope)) if envelope.recipients.is_empty() => {
                Reply::enhanced(554, "5.5.1", "no valid recipients")
            }
            Phase::Commands(Some(envelope)) if chunk.is_none() && envelope.sender.is_binary() => {
                Reply::enhanced(503, "5.5.1", "BODY=BINARYMIME needs BDAT (RFC 3030 section 3)")
            }
            Phase::Commands(Some(_)) if chunk.is_none() && self.talks_early() => {
                self.fail(Failure::EarlyTalker);
                return;
            }
            Phase::Commands(Some(_)) => {
                if let Phase::Commands(Some(envelope)) = phase {
                    self.begin_message(envelope, chunk, now);
                }
                return;
            }
            _ => Reply::enhanced(503, "5.5.1", "MAIL and RCPT come before DATA and BDAT"),
        };
        match chunk {
            None => {
                self.phase = phase;
                self.refuse(refusal);
            }
            Some(chunk) => {
                self.customer.errors += 1;
                self.refuse_chunks(chunk, refusal);
                // Otherwise later chunks could be taken for a message without its beginning.
                if matches!(phase, Phase::Commands(Some(_))) {
                    self.reset_destination(now);
                }
            }
        }
    }

    /// The customer spoke before it was its turn: before the greeting, or its text before the go-ahead. Counted;
    /// `true`: not to be tolerated.
    pub(super) fn talks_early(&mut self) -> bool {
        let early = !self.customer.inbox.is_empty();
        if early {
            self.wire.push(Output::Noticed(Notice::EarlyTalker));
        }
        early && self.settings.early_talkers == EarlyTalkers::Reject
    }

    fn begin_message(&mut self, envelope: Envelope, chunk: Option<Chunk>, now: Instant) {
        if self.messages >= self.settings.max_messages {
            self.fail(Failure::TooManyMessages);
            return;
        }
        self.messages += 1;
        self.end_question();
        let matter = Matter { in_chunks: chunk.is_some(), ..self.matter(envelope) };
        if chunk.is_none() {
            self.customer.reply(Reply::new(354, "End data with <CR><LF>.<CR><LF>"), &mut self.wire);
        }
        self.wire.restart(Leg::Customer, now);
        let mut message = Message::begin(matter, chunk, self.treatment, &self.settings, now, &mut self.wire);
        message.receive(&mut &[][..], &self.settings, now, &mut self.wire);
        self.phase = Phase::Message(Box::new(message));
    }

    pub(super) fn matter(&self, envelope: Envelope) -> Matter {
        Matter {
            id: self.id.message(self.transactions),
            identity: Identity {
                customer: self.customer_address,
                destination: self.destination_address,
                protocol: self.customer.protocol,
                helo: self.customer.helo.clone(),
            },
            envelope,
            in_chunks: false,
            is_question: false,
            hostname: self.settings.hostname.clone(),
        }
    }

    /// Passes a line on as it is and owes its answer. Where the destination takes no groups, the next
    /// command waits for it.
    pub(super) fn pass(&mut self, line: &[u8], expected: Expected, now: Instant) {
        self.send(line, expected, now);
        if !self.destination.offer.has("PIPELINING") {
            self.customer.barrier = Barrier::Answered;
        }
    }

    /// As `pass`, for commands that end a group (RFC 2920 section 3.1).
    pub(super) fn pass_alone(&mut self, line: &[u8], expected: Expected, now: Instant) {
        self.send(line, expected, now);
        self.customer.barrier = Barrier::Answered;
    }

    fn send(&mut self, line: &[u8], expected: Expected, now: Instant) {
        if self.destination.expected.is_empty() {
            self.wire.restart(Leg::Destination, now);
        }
        self.wire.write_line(Leg::Destination, line);
        self.destination.expected.push(expected, &self.wire);
        self.customer.await_reply();
    }

    /// An error reply of our own, in its place among the others.
    pub(super) fn refuse(&mut self, reply: Reply) {
        self.customer.errors += 1;
        self.customer.reply(reply, &mut self.wire);
        if self.customer.errors > self.settings.max_errors {
            self.customer.barrier = Barrier::Farewell(Failure::TooManyErrors);
        }
    }
}

fn not_available(verb: &str) -> Reply {
    Reply::enhanced(502, "5.5.1", format!("{verb} is not available"))
}

fn unknown_parameter(keyword: &[u8]) -> Reply {
    Reply::enhanced(555, "5.5.4", format!("parameter {} was not offered", String::from_utf8_lossy(keyword)))
}
