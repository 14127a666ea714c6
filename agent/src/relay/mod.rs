//! The relay engine: one session with its three legs, without I/O and without a clock.
//!
//! The driver feeds [`Session::handle`] and performs what [`Session::poll`] returns, in order. All decisions
//! are here, so the same engine runs under tokio and in simulation.

mod body;
mod chunks;
mod commands;
pub mod conversation;
mod customer;
mod destination;
mod envelope;
mod judgement;
mod message;
pub mod mirror;
mod reception;
mod recipients;
pub mod record;
mod replies;
pub mod settings;
mod timers;
mod upgrade;
mod wire;

#[cfg(fuzzing)]
#[path = "tests/simulation/mod.rs"]
pub mod simulation;
#[cfg(test)]
pub mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Buf;
use weir_smtp::extension::Extensions;
use weir_smtp::{Envelope, Reply};

use self::customer::{Barrier, Customer};
use self::destination::{Destination, Link};
use self::message::{Conclusion, Message};
use self::recipients::Question;
use self::record::SessionId;
use self::settings::{INBOX, Settings, UNSTORED};
use self::wire::{HIGH_WATER, Wire};
pub use self::wire::{Leg, Notice, Output};
use crate::config::OnConnectFailure;
use crate::failure::{Cause, Failure};
use crate::nodes::Candidate;
use crate::treatment::Treatment;

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    Bytes(Leg, &'a [u8]),
    Connected(Leg),
    /// In place of a new connection to the node: one that was kept ready. It was greeted, in TLS where that is asked for, and
    /// the node announced these.
    Greeted(&'a Extensions),
    /// TLS is on: protocol and cipher.
    Secured(Leg, &'a str),
    /// The connection could not be made, or was reset.
    Failed(Leg, Cause),
    /// The peer closed its side.
    Closed(Leg),
    /// So many octets left the driver's buffer.
    Writable(Leg, usize),
    /// The node to connect to; `None`: all were tried.
    Chosen(Option<Candidate>),
    /// Nodes are there, and this message is not for them now.
    NotAsked(Failure),
    Stored(usize),
    /// So many octets could not be stored.
    StoreFailed(usize),
    Spooled(Leg, &'a [u8]),
    ReplayFailed,
    /// [`Session::deadline`] has come.
    Timeout,
    /// Messages are treated otherwise from the next one on.
    Treat(Treatment),
    /// The daemon is stopping: finish the message under way, begin nothing.
    Stop,
    /// The daemon can't wait any longer.
    Cut,
    /// The customer is blocked from now on.
    Blocked,
}

/// What the session is about.
#[derive(Debug)]
enum Phase {
    /// Commands and replies; the envelope that the destination accepted so far.
    Commands(Option<Envelope>),
    Message(Box<Message>),
    /// Nothing more is read or decided.
    Over,
}

/// Between whom the session is.
#[derive(Debug, Clone)]
pub struct Connection {
    pub id: SessionId,
    pub customer: SocketAddr,
    pub destination: SocketAddr,
    /// Every filter node takes BINARYMIME, in chunks.
    pub binary: bool,
    pub treatment: Treatment,
}

#[derive(Debug)]
pub struct Session {
    settings: Arc<Settings>,
    customer_address: SocketAddr,
    destination_address: SocketAddr,
    id: SessionId,
    binary: bool,
    treatment: Treatment,
    messages: u32,
    customer: Customer,
    destination: Destination,
    phase: Phase,
    question: Option<Box<Question>>,
    /// MAIL commands that were accepted.
    transactions: u32,
    stopping: bool,
    started: Instant,
    wire: Wire,
}

impl Session {
    pub fn new(settings: Arc<Settings>, connection: Connection, now: Instant) -> Self {
        let mut wire = Wire::new(now);
        wire.push(Output::Connect(Leg::Destination));
        Self {
            settings,
            customer_address: connection.customer,
            destination_address: connection.destination,
            id: connection.id,
            binary: connection.binary,
            treatment: connection.treatment,
            messages: 0,
            customer: Customer::new(),
            destination: Destination::new(),
            phase: Phase::Commands(None),
            question: None,
            transactions: 0,
            stopping: false,
            started: now,
            wire,
        }
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.wire.poll()
    }

    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// The end of a message went to the destination and its answer is awaited: must not be cut.
    pub fn is_committed(&self) -> bool {
        matches!(&self.phase, Phase::Message(message) if message.is_committed())
    }

    /// Octets of a peer's that are held because they are not yet understood.
    pub fn unread(&self, leg: Leg) -> usize {
        match leg {
            Leg::Customer => self.customer.inbox.len(),
            Leg::Destination => self.destination.decoder.held(),
            Leg::Filter => 0,
        }
    }

    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        if self.is_over() {
            return;
        }
        self.dispatch(input, now);
        self.advance(now);
        self.regulate(now);
    }

    fn dispatch(&mut self, input: Input<'_>, now: Instant) {
        match input {
            // Only whole replies count against a time limit: octets alone could be sent for ever.
            Input::Bytes(leg, octets) => match leg {
                Leg::Customer => self.customer_bytes(octets, now),
                Leg::Destination => self.destination_bytes(octets, now),
                Leg::Filter => self.with_judgement(|judgement, matter, wire| {
                    judgement.bytes(octets, matter, now, wire);
                }),
            },
            Input::Connected(leg) => {
                self.wire.restart(leg, now);
                match leg {
                    Leg::Destination => self.destination.link = Link::Open,
                    Leg::Filter => self.with_judgement(|judgement, _, _| judgement.connected()),
                    Leg::Customer => {}
                }
            }
            Input::Greeted(announced) => {
                self.wire.restart(Leg::Filter, now);
                self.with_judgement(|judgement, matter, wire| judgement.greeted(announced, matter, wire));
            }
            Input::Secured(Leg::Filter, _) => {
                self.with_judgement(|judgement, matter, wire| judgement.secured(matter, now, wire));
            }
            Input::Secured(_, description) => self.secured(description, now),
            Input::Failed(Leg::Destination, _) if self.is_in_handshake() => self.go_on_in_clear(now),
            Input::Failed(Leg::Customer, _) => self.customer_gone(now),
            Input::Closed(Leg::Customer) => self.customer.ended = true,
            Input::Failed(Leg::Destination, cause) if self.destination.link == Link::Connecting => {
                self.lose_destination(Failure::Connect(cause));
            }
            Input::Failed(Leg::Destination, _) | Input::Closed(Leg::Destination) => {
                self.lose_destination(Failure::DestinationLost);
            }
            // The next recipient begins another conversation.
            Input::Failed(Leg::Filter, _) | Input::Closed(Leg::Filter)
                if self.question.is_some() && !self.is_asking() =>
            {
                self.end_question();
            }
            Input::Failed(Leg::Filter, cause) => {
                self.with_judgement(|judgement, _, wire| judgement.lost(Some(cause), now, wire));
            }
            Input::Closed(Leg::Filter) => {
                self.with_judgement(|judgement, _, wire| judgement.lost(None, now, wire));
            }
            Input::Writable(leg, octets) => {
                self.wire.written(leg, octets, now);
                if leg == Leg::Destination {
                    self.customer_goes_on(now);
                }
            }
            Input::Chosen(candidate) => {
                self.wire.forget(Leg::Filter);
                self.wire.restart(Leg::Filter, now);
                self.with_judgement(|judgement, _, wire| judgement.chosen(candidate, wire));
            }
            Input::NotAsked(why) => self.with_judgement(|judgement, _, _| judgement.not_asked(why)),
            Input::Stored(octets) => self.with_message(|message, _| message.stored(octets as u64)),
            Input::StoreFailed(octets) => {
                self.with_message(|message, wire| message.store_failed(octets as u64, wire));
            }
            Input::Spooled(leg, octets) => {
                if leg == Leg::Destination {
                    self.wire.resume(leg, now);
                }
                self.with_message(|message, wire| message.spooled(leg, octets, wire));
            }
            Input::ReplayFailed => self.with_message(Message::replay_failed),
            Input::Timeout => self.timed_out(now),
            Input::Treat(treatment) => self.treatment = treatment,
            Input::Stop => self.stopping = true,
            Input::Cut => self.cut_short(Failure::Stopping, now),
            Input::Blocked => self.cut_short(Failure::Blocked, now),
        }
    }

    fn with_message(&mut self, act: impl FnOnce(&mut Message, &mut Wire)) {
        if let Phase::Message(message) = &mut self.phase {
            act(message, &mut self.wire);
        }
    }

    fn with_judgement(
        &mut self,
        act: impl FnOnce(&mut judgement::Judgement, &conversation::Matter, &mut Wire),
    ) {
        match (&mut self.phase, &mut self.question) {
            (Phase::Message(message), _) => {
                let (judgement, matter) = message.judgement();
                act(judgement, matter, &mut self.wire);
            }
            (Phase::Commands(_), Some(question)) => {
                act(&mut question.judgement, &question.matter, &mut self.wire);
            }
            _ => {}
        }
    }

    /// While commands are read, octets wait in the inbox; a body is taken straight from the input.
    fn customer_bytes(&mut self, mut octets: &[u8], now: Instant) {
        // A command counts when it is whole, so that one that trickles in runs out of time.
        let in_body = matches!(&self.phase, Phase::Message(message) if message.wants_octets());
        if in_body || !self.customer.is_inside_line() {
            self.wire.restart(Leg::Customer, now);
        }
        if let Phase::Message(message) = &mut self.phase
            && self.customer.inbox.is_empty()
        {
            message.receive(&mut octets, &self.settings, now, &mut self.wire);
        }
        self.customer.inbox.extend_from_slice(octets);
    }

    /// Does everything that can be done with what is known.
    fn advance(&mut self, now: Instant) {
        loop {
            let went_on = match &mut self.phase {
                Phase::Over => false,
                Phase::Commands(_) => self.next_command(now),
                Phase::Message(message) => {
                    if message.wants_octets() && !self.customer.inbox.is_empty() {
                        let mut octets = &self.customer.inbox[..];
                        message.receive(&mut octets, &self.settings, now, &mut self.wire);
                        let taken = self.customer.inbox.len() - octets.len();
                        self.customer.inbox.advance(taken);
                    }
                    let free = self.destination.expected.is_empty();
                    match message.advance(free, now, &mut self.wire) {
                        Some(conclusion) => self.conclude(conclusion, now),
                        None => self.go_on_between_chunks(now) || self.leave_if_gone(now),
                    }
                }
            };
            if !went_on {
                break;
            }
        }
    }

    /// `true`: the message is over.
    fn conclude(&mut self, conclusion: Conclusion, now: Instant) -> bool {
        let Phase::Message(message) = std::mem::replace(&mut self.phase, Phase::Commands(None)) else {
            return false;
        };
        let gone = message.customer_gone;
        self.customer.chunk_refusal = message.unanswered_chunk().map(|_| conclusion.reply.clone());
        let (mut record, original) = message.conclude(&conclusion, now);
        record.tls = self.destination.tls.describe();
        self.wire.push(Output::Log(Box::new(record)));
        if let Some(original) = original {
            self.wire.push(Output::Mirror(Box::new(original)));
        }
        self.wire.push(Output::DropSpool);
        if conclusion.abort_destination {
            self.drop_destination();
        } else if conclusion.reset_destination {
            self.reset_destination(now);
        }
        self.customer.reply(conclusion.reply, &mut self.wire);
        self.wire.restart(Leg::Customer, now);
        if conclusion.ends_session || gone {
            self.end();
        } else {
            self.customer.barrier = Barrier::Answered;
        }
        true
    }

    /// The destination forgets the envelope. The customer's next command waits for its answer.
    fn reset_destination(&mut self, now: Instant) {
        self.wire.write(Leg::Destination, &b"RSET\r\n"[..]);
        self.destination.expected.push(destination::Expected::OwnRset, &self.wire);
        self.wire.restart(Leg::Destination, now);
        self.customer.barrier = Barrier::Answered;
    }

    /// A customer that closed its side in the middle of a message is gone, unless it has said QUIT.
    fn leave_if_gone(&mut self, now: Instant) -> bool {
        let Phase::Message(message) = &self.phase else { return false };
        let cut = message.received_at().is_none() || !self.customer.will_quit();
        if self.customer.ended && cut && !message.customer_gone {
            self.customer_gone(now);
        }
        false
    }

    /// The customer will not hear anything any more.
    fn customer_gone(&mut self, now: Instant) {
        self.customer.ended = true;
        match &mut self.phase {
            // Whether it was delivered must still be known, for the log.
            Phase::Message(message) if message.is_committed() => {
                message.customer_gone = true;
                self.wire.push(Output::Abort(Leg::Customer));
                self.wire.forget(Leg::Customer);
            }
            Phase::Message(_) => {
                self.abandon_message(now);
                self.drop_destination();
                self.end();
            }
            Phase::Commands(_) => {
                self.note_wanted_tls();
                self.end();
            }
            Phase::Over => {}
        }
    }

    /// The destination has taken what it was sent of a body that is still coming: it is the customer's turn.
    fn customer_goes_on(&mut self, now: Instant) {
        if let Phase::Message(message) = &self.phase
            && message.is_delivering()
            && message.received_at().is_none()
            && !message.awaits_destination(&self.wire)
        {
            self.wire.restart(Leg::Customer, now);
        }
    }

    /// The customer does not want the message to go on. Its end was not sent.
    fn abandon_message(&mut self, now: Instant) {
        if let Phase::Message(message) = std::mem::replace(&mut self.phase, Phase::Commands(None)) {
            let mut record = message.abandon(now, &mut self.wire);
            record.tls = self.destination.tls.describe();
            self.wire.push(Output::Log(Box::new(record)));
            self.wire.push(Output::DropSpool);
        }
    }

    /// The destination can't be talked to any more.
    fn lose_destination(&mut self, failure: Failure) {
        let reply = failure.reply(&self.destination_address);
        self.lose_destination_with(failure, reply);
    }

    fn lose_destination_with(&mut self, failure: Failure, reply: Reply) {
        self.drop_destination();
        match &mut self.phase {
            Phase::Message(message) => message.destination_lost(failure, reply, &mut self.wire),
            Phase::Commands(_)
                if matches!(failure, Failure::Connect(cause) if cause != Cause::Exhausted)
                    && matches!(self.destination.expected.next(), Some(destination::Expected::Greeting))
                    && self.settings.on_connect_failure == OnConnectFailure::Reset =>
            {
                self.wire.push(Output::Abort(Leg::Customer));
                self.end();
            }
            Phase::Commands(_) => {
                self.customer.give_up(reply, &mut self.wire);
                self.end();
            }
            Phase::Over => {}
        }
    }

    fn drop_destination(&mut self) {
        if self.destination.link != Link::Closed {
            self.destination.link = Link::Closed;
            self.wire.push(Output::Abort(Leg::Destination));
            self.wire.forget(Leg::Destination);
        }
    }

    /// Sends what was said, and closes everything.
    fn end(&mut self) {
        self.end_question();
        if self.destination.link != Link::Closed {
            self.destination.link = Link::Closed;
            self.wire.push(Output::Close(Leg::Destination));
        }
        self.wire.push(Output::Close(Leg::Customer));
        self.wire.push(Output::DropSpool);
        self.phase = Phase::Over;
    }

    /// As `fail`, whatever the session is about. A message that is with the destination is not cut.
    fn cut_short(&mut self, failure: Failure, now: Instant) {
        match &mut self.phase {
            Phase::Message(message) if message.is_committed() => {}
            Phase::Message(message) => {
                let conclusion = message.cut_short(failure, &mut self.wire);
                self.conclude(conclusion, now);
            }
            Phase::Commands(_) => self.fail(failure),
            Phase::Over => {}
        }
    }

    /// Tells the customer why, and ends the session.
    fn fail(&mut self, failure: Failure) {
        let reply = failure.reply(&self.id);
        self.customer.give_up(reply, &mut self.wire);
        self.end();
    }

    /// Back-pressure: what the engine holds of each leg is bounded.
    fn regulate(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        let has_room = match &self.phase {
            Phase::Message(message) => message.unstored() < UNSTORED && !message.is_held_up(&self.wire),
            Phase::Commands(_) | Phase::Over => true,
        };
        let customer = self.customer.inbox.len() < INBOX && has_room && !self.customer.ended;
        if customer && self.wire.is_paused(Leg::Customer) {
            self.wire.restart(Leg::Customer, now);
        }
        self.wire.regulate(Leg::Customer, customer);
        let destination = self.wire.flow(Leg::Customer).outgoing < HIGH_WATER;
        self.wire.regulate(Leg::Destination, destination);
    }
}
