//! Who is being waited for, and until when.

use std::time::{Duration, Instant};

use super::conversation::Conversation;
use super::destination::{Expected, Link};
use super::message::Message;
use super::recipients::Question;
use super::settings::{MAX_NOOPS, NOOP_AFTER};
use super::wire::Leg;
use super::{Phase, Session};
use crate::failure::{Cause, Failure};

/// A wait that can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Session,
    Customer,
    Destination,
    Filter,
    Verdict,
    /// The minimum data rate.
    Rate,
    /// The destination's patience.
    Noop,
}

impl Session {
    /// When `Input::Timeout` is due if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.waits().into_iter().flatten().map(|(_, until)| until).min()
    }

    pub(super) fn timed_out(&mut self, now: Instant) {
        let over = self.waits().into_iter().flatten().filter(|(_, until)| *until <= now);
        let Some((wait, _)) = over.min_by_key(|(_, until)| *until) else { return };
        match wait {
            Wait::Session => self.cut_short(Failure::SessionTooLong, now),
            Wait::Customer => self.customer_silent(now),
            Wait::Destination if self.destination.link == Link::Connecting => {
                self.lose_destination(Failure::Connect(Cause::TimedOut));
            }
            Wait::Destination if self.is_in_handshake() => self.go_on_in_clear(now),
            Wait::Destination => self.lose_destination(Failure::DestinationSilent),
            Wait::Filter => self.with_judgement(|judgement, _, wire| judgement.silent(now, wire)),
            Wait::Verdict => self.with_judgement(|judgement, _, wire| judgement.out_of_time(wire)),
            Wait::Rate => self.check_rate(now),
            Wait::Noop => self.say_noop(now),
        }
    }

    /// A customer that does not read or send: told so where it may still listen.
    fn customer_silent(&mut self, now: Instant) {
        if self.wire.flow(Leg::Customer).outgoing == 0 {
            self.cut_short(Failure::CustomerIdle, now);
        } else {
            self.customer_gone(now);
        }
    }

    fn check_rate(&mut self, now: Instant) {
        let paused = self.wire.is_paused(Leg::Customer);
        let settings = &self.settings;
        if let Phase::Message(message) = &mut self.phase
            && let held_up = (paused || message.awaits_destination(&self.wire))
            && !message.reception().keeps_rate(settings, held_up, now)
        {
            self.cut_short(Failure::CustomerSlow, now);
        }
    }

    /// The destination waits for the verdict; silence might make it give up.
    fn say_noop(&mut self, now: Instant) {
        self.destination.noops += 1;
        self.wire.write(Leg::Destination, &b"NOOP\r\n"[..]);
        self.destination.expected.push(Expected::OwnNoop, &self.wire);
        self.wire.restart(Leg::Destination, now);
    }

    fn waits(&self) -> [Option<(Wait, Instant)>; 7] {
        let session = (Wait::Session, self.started + self.settings.session_timeout);
        match &self.phase {
            Phase::Over => [None; 7],
            Phase::Commands(_) => {
                let its_turn = self.destination.expected.is_empty() && !self.is_asking();
                let question = self.question.as_deref();
                let asked = question.and_then(Question::asked_at);
                [
                    Some(session),
                    self.customer_wait(its_turn),
                    self.reply_wait(),
                    self.filter_wait(question.and_then(Question::conversation)),
                    asked.map(|at| (Wait::Verdict, at + self.settings.verdict_budget)),
                    None,
                    None,
                ]
            }
            Phase::Message(message) => [
                Some(session).filter(|_| !message.is_committed()),
                self.customer_wait(self.is_customers_turn(message)).filter(|_| !message.customer_gone),
                self.delivery_wait(message).or_else(|| self.reply_wait()),
                self.filter_wait(message.conversation()),
                message
                    .received_at()
                    .filter(|_| message.awaits_verdict())
                    .map(|received| (Wait::Verdict, received + self.settings.verdict_budget)),
                message.rate_deadline().map(|until| (Wait::Rate, until)),
                self.noop_wait(message),
            ],
        }
    }

    fn since(&self, leg: Leg, limit: Duration) -> Instant {
        self.wire.flow(leg).progress + limit
    }

    /// To go on with his message. While the agent or the destination has enough of it he waits for them.
    fn is_customers_turn(&self, message: &Message) -> bool {
        let held_up = self.wire.is_paused(Leg::Customer) || message.awaits_destination(&self.wire);
        message.received_at().is_none() && !held_up
    }

    /// Its turn to speak, or octets that it does not take.
    fn customer_wait(&self, its_turn: bool) -> Option<(Wait, Instant)> {
        let unread = self.wire.flow(Leg::Customer).outgoing > 0;
        (its_turn || unread).then(|| (Wait::Customer, self.since(Leg::Customer, self.settings.idle_timeout)))
    }

    fn reply_wait(&self) -> Option<(Wait, Instant)> {
        let limit = match self.destination.link {
            Link::Connecting => self.settings.connect_timeout,
            Link::Open if self.is_in_handshake() => self.settings.connect_timeout,
            Link::Open if !self.destination.expected.is_empty() => self.settings.reply_timeout,
            Link::Open | Link::Closed => return None,
        };
        Some((Wait::Destination, self.since(Leg::Destination, limit)))
    }

    fn delivery_wait(&self, message: &Message) -> Option<(Wait, Instant)> {
        let limit = match () {
            () if message.is_committed() => self.settings.end_of_data_timeout,
            () if message.awaits_destination(&self.wire) => self.settings.reply_timeout,
            () => return None,
        };
        Some((Wait::Destination, self.since(Leg::Destination, limit)))
    }

    fn noop_wait(&self, message: &Message) -> Option<(Wait, Instant)> {
        let idle = self.destination.link == Link::Open
            && self.destination.expected.is_empty()
            && !message.is_delivering()
            && self.destination.noops < MAX_NOOPS;
        idle.then(|| (Wait::Noop, self.since(Leg::Destination, NOOP_AFTER)))
    }

    fn filter_wait(&self, conversation: Option<&Conversation>) -> Option<(Wait, Instant)> {
        let limit = conversation?.patience(&self.settings)?;
        Some((Wait::Filter, self.since(Leg::Filter, limit)))
    }
}
