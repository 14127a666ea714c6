//! TLS with the destination although the customer speaks in clear (RFC 3207, opportunistic).
//!
//! The customer's EHLO is passed on; when the destination offers STARTTLS the agent asks for it, and says the
//! same EHLO again inside TLS. What was offered in clear is not trusted: the customer sees the second answer.
//! Where TLS cannot be had the session goes on in clear, after a broken handshake on a second connection.

use std::time::Instant;

use weir_smtp::Reply;
use weir_smtp::extension::Extensions;
use weir_smtp::xclient::Protocol;

use super::Session;
use super::destination::{Destination, Expected, Link, Plain, Tls};
use super::wire::{Leg, Output};
use crate::config::DestinationTls;
use crate::failure::Failure;

impl Session {
    pub(super) fn wants_tls(&self, ehlo: &Reply) -> bool {
        self.settings.destination_tls == DestinationTls::May
            && self.destination.tls == Tls::Untried
            && Extensions::from_reply(ehlo).has("STARTTLS")
    }

    pub(super) fn is_in_handshake(&self) -> bool {
        matches!(self.destination.expected.next(), Some(Expected::Handshake(_)))
    }

    pub(super) fn say_starttls(&mut self, plain: Plain, now: Instant) {
        self.destination.offered_tls = true;
        self.wire.write(Leg::Destination, &b"STARTTLS\r\n"[..]);
        self.wire.restart(Leg::Destination, now);
        self.destination.expected.push(Expected::StartTls(plain), &self.wire);
    }

    pub(super) fn starttls_answered(&mut self, plain: Plain, reply: &Reply, now: Instant) {
        if reply.code() == 220 {
            self.destination.expected.push(Expected::Handshake(plain), &self.wire);
            self.wire.push(Output::StartTls(Leg::Destination));
            return;
        }
        self.destination.tls = Tls::Failed;
        let (offer, shown) = self.offer(&plain.reply);
        self.greeted(plain.name, Protocol::Esmtp, offer);
        self.customer.answer(shown, &mut self.wire);
        self.wire.restart(Leg::Customer, now);
    }

    pub(super) fn secured(&mut self, description: &str, now: Instant) {
        if let Some(Expected::Handshake(plain)) = self.destination.expected.answered() {
            self.destination.tls = Tls::On(description.to_owned());
            self.say_ehlo(plain.name, now);
        }
    }

    /// The handshake failed, and with it the connection.
    pub(super) fn go_on_in_clear(&mut self, now: Instant) {
        let Some(Expected::Handshake(plain)) = self.destination.expected.answered() else { return };
        self.wire.push(Output::Abort(Leg::Destination));
        self.wire.forget(Leg::Destination);
        self.wire.push(Output::Connect(Leg::Destination));
        self.wire.restart(Leg::Destination, now);
        let noops = self.destination.noops;
        self.destination = Destination {
            noops,
            offered_tls: true,
            tls: Tls::Failed,
            link: Link::Connecting,
            ..Destination::new()
        };
        self.destination.expected.clear();
        self.destination.expected.push(Expected::SecondGreeting(plain), &self.wire);
    }

    pub(super) fn second_greeting(&mut self, plain: Plain, reply: Reply, now: Instant) {
        if reply.is_positive() {
            self.say_ehlo(plain.name, now);
        } else {
            // It refuses the connection, not what the customer asked for.
            self.unasked(reply, Failure::DestinationLost);
        }
    }

    fn say_ehlo(&mut self, name: Vec<u8>, now: Instant) {
        self.wire.write_line(Leg::Destination, &[b"EHLO ", name.as_slice()].concat());
        self.wire.restart(Leg::Destination, now);
        self.destination.expected.push(Expected::Ehlo(name), &self.wire);
    }
}
