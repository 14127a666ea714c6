//! What becomes of each reply of the destination.

use std::time::Instant;

use weir_smtp::extension::{Extensions, Offer, Terms};
use weir_smtp::reply::Severity;
use weir_smtp::xclient::Protocol;
use weir_smtp::{Envelope, Reply};

use super::destination::{Expected, Link, Plain};
use super::wire::{Leg, Notice, Output};
use super::{Phase, Session};
use crate::failure::Failure;

impl Session {
    pub(super) fn destination_bytes(&mut self, mut octets: &[u8], now: Instant) {
        while let Some(reply) = self.destination.decoder.next(&mut octets) {
            match reply {
                Ok(reply) => self.destination_reply(reply, now),
                Err(_) => self.lose_destination(Failure::DestinationGarbage),
            }
            if self.is_over() || self.destination.link == Link::Closed {
                return;
            }
            if self.is_in_handshake() {
                // Octets behind the answer to STARTTLS were not protected by it: somebody put them there.
                if !octets.is_empty() {
                    self.lose_destination(Failure::DestinationGarbage);
                }
                return;
            }
        }
    }

    fn destination_reply(&mut self, reply: Reply, now: Instant) {
        self.wire.restart(Leg::Destination, now);
        if self.destination.expected.is_unsent(&self.wire) {
            self.unasked(reply, Failure::DestinationGarbage);
            return;
        }
        if matches!(self.destination.expected.next(), Some(Expected::OwnNoop)) {
            self.destination.expected.answered();
            if reply.code() == 421 || reply.severity() == Severity::Intermediate {
                self.unasked(reply, Failure::DestinationGarbage);
            }
            return;
        }
        if let Phase::Message(message) = &mut self.phase {
            let answers = message.is_delivering();
            if answers {
                if let Some(conclusion) = message.destination_reply(reply, now, &mut self.wire) {
                    self.conclude(conclusion, now);
                }
            } else {
                // Nothing was asked. 421 is a goodbye, and the customer is told as it was said.
                self.unasked(reply, Failure::DestinationGarbage);
            }
            return;
        }
        let Some(expected) = self.destination.expected.answered() else {
            self.unasked(reply, Failure::DestinationGarbage);
            return;
        };
        if matches!(expected, Expected::Auth) && reply.code() == 334 {
            self.customer.in_auth = true;
            self.customer.answer(reply, &mut self.wire);
            self.wire.restart(Leg::Customer, now);
            return;
        }
        let intermediate = reply.severity() == Severity::Intermediate;
        if intermediate || (reply.code() == 421 && !matches!(expected, Expected::Quit)) {
            if intermediate {
                self.lose_destination(Failure::DestinationGarbage);
            } else {
                self.lose_destination_with(Failure::DestinationLost, reply);
            }
            return;
        }
        self.expected_reply(expected, reply, now);
    }

    pub(super) fn unasked(&mut self, reply: Reply, otherwise: Failure) {
        if reply.code() == 421 {
            self.lose_destination_with(Failure::DestinationLost, reply);
        } else {
            self.lose_destination(otherwise);
        }
    }

    fn expected_reply(&mut self, expected: Expected, mut reply: Reply, now: Instant) {
        let positive = reply.is_positive();
        match expected {
            Expected::Greeting => {
                if is_masked(&reply) {
                    self.wire.push(Output::Noticed(Notice::MaskedBanner));
                }
                if self.talks_early() {
                    self.fail(Failure::EarlyTalker);
                    return;
                }
                self.customer.reply(reply, &mut self.wire);
                self.wire.restart(Leg::Customer, now);
                return;
            }
            Expected::OwnRset => {
                if !positive {
                    self.lose_destination(Failure::DestinationGarbage);
                }
                return;
            }
            Expected::Ehlo(name) if positive && self.wants_tls(&reply) => {
                self.say_starttls(Plain { name, reply }, now);
                return;
            }
            Expected::StartTls(plain) => {
                self.starttls_answered(plain, &reply, now);
                return;
            }
            Expected::SecondGreeting(plain) => {
                self.second_greeting(plain, reply, now);
                return;
            }
            Expected::Ehlo(name) if positive => {
                let (offer, shown) = self.offer(&reply);
                self.greeted(name, Protocol::Esmtp, offer);
                reply = shown;
            }
            Expected::Helo(name) if positive => self.greeted(name, Protocol::Smtp, Offer::default()),
            Expected::Mail(sender) if positive => {
                self.transactions += 1;
                self.phase = Phase::Commands(Some(Envelope::new(sender)));
            }
            Expected::Rcpt(recipient) if positive => {
                if let Phase::Commands(Some(envelope)) = &mut self.phase {
                    envelope.recipients.push(recipient);
                }
            }
            Expected::Rset if positive => self.phase = Phase::Commands(None),
            Expected::Quit => {
                self.customer.answer(reply, &mut self.wire);
                self.end();
                return;
            }
            Expected::OwnNoop
            | Expected::Auth
            | Expected::Handshake(_)
            | Expected::Ehlo(_)
            | Expected::Helo(_)
            | Expected::Mail(_)
            | Expected::Rcpt(_)
            | Expected::Rset
            | Expected::Passive => {}
        }
        self.customer.answer(reply, &mut self.wire);
        self.wire.restart(Leg::Customer, now);
    }

    /// What the customer gets to see of the destination's answer to EHLO.
    pub(super) fn offer(&mut self, reply: &Reply) -> (Offer, Reply) {
        self.destination.offered_tls |= Extensions::from_reply(reply).has("STARTTLS");
        let auth = !self.destination.offered_tls || self.settings.auth_in_clear;
        let terms = Terms {
            max_size: self.settings.max_message_size,
            max_recipients: self.settings.max_recipients as u64,
            max_messages: self.settings.max_messages.into(),
            auth,
            binary: self.binary,
        };
        Offer::from_reply(reply, terms)
    }

    /// EHLO and HELO end a transaction (RFC 5321 section 4.1.4).
    pub(super) fn greeted(&mut self, name: Vec<u8>, protocol: Protocol, offer: Offer) {
        self.customer.helo = name;
        self.customer.protocol = protocol;
        self.destination.offer = offer;
        self.phase = Phase::Commands(None);
    }
}

/// Cisco's "SMTP fixup" overwrites a banner with asterisks; mail still goes through.
fn is_masked(banner: &Reply) -> bool {
    let text: Vec<u8> = banner.lines().flatten().copied().filter(|octet| *octet != b' ').collect();
    let masked = text.iter().filter(|octet| **octet == b'*').count();
    text.len() >= 4 && masked * 2 > text.len()
}
