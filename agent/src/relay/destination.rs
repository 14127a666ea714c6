//! The destination's leg: which reply belongs to what.

use std::collections::VecDeque;

use weir_smtp::Reply;
use weir_smtp::envelope::Mailbox;
use weir_smtp::extension::Offer;
use weir_smtp::reply::{ReplyDecoder, ReplyLimits};

use super::wire::{Leg, Wire};

/// What the next reply will be an answer to.
#[derive(Debug)]
pub enum Expected {
    Greeting,
    Ehlo(Vec<u8>),
    Helo(Vec<u8>),
    Mail(Mailbox),
    Rcpt(Mailbox),
    Rset,
    /// NOOP, VRFY, EXPN, HELP: passed on, changes nothing.
    Passive,
    Quit,
    /// AUTH, or a line of its exchange.
    Auth,
    /// STARTTLS of our own.
    StartTls(Plain),
    /// No reply but a TLS handshake.
    Handshake(Plain),
    /// The banner of a second connection, made because the first one's handshake failed.
    SecondGreeting(Plain),
    /// NOOP of our own while a verdict is awaited.
    OwnNoop,
    /// RSET of our own after a refusal by the filter: the customer never sees its answer.
    OwnRset,
}

/// What is owed an answer, in order, each with its place in what was written.
#[derive(Debug, Default)]
pub struct Awaited(VecDeque<(u64, Expected)>);

impl Awaited {
    /// After it was written.
    pub fn push(&mut self, expected: Expected, wire: &Wire) {
        self.0.push_back((wire.flow(Leg::Destination).written, expected));
    }

    pub fn next(&self) -> Option<&Expected> {
        self.0.front().map(|(_, expected)| expected)
    }

    /// What is owed next has not left yet, so that nothing can be an answer to it.
    pub fn is_unsent(&self, wire: &Wire) -> bool {
        self.0.front().is_some_and(|(end, _)| *end > wire.flow(Leg::Destination).has_left())
    }

    pub fn answered(&mut self) -> Option<Expected> {
        self.0.pop_front().map(|(_, expected)| expected)
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What goes on in clear if TLS cannot be had.
#[derive(Debug)]
pub struct Plain {
    /// The customer's EHLO.
    pub name: Vec<u8>,
    /// What the destination answered to it.
    pub reply: Reply,
}

/// TLS with the destination.
#[derive(Debug, PartialEq, Eq)]
pub enum Tls {
    Untried,
    /// Protocol and cipher.
    On(String),
    /// Offered, and refused or failed; not tried again.
    Failed,
}

impl Tls {
    /// For the log.
    pub fn describe(&self) -> String {
        match self {
            Self::Untried => "none".into(),
            Self::On(description) => description.clone(),
            Self::Failed => "failed".into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    Connecting,
    Open,
    Closed,
}

#[derive(Debug)]
pub struct Destination {
    pub link: Link,
    pub decoder: ReplyDecoder,
    pub expected: Awaited,
    /// What its last EHLO reply left for the customer.
    pub offer: Offer,
    /// STARTTLS was among what it offered in clear.
    pub offered_tls: bool,
    pub tls: Tls,
    /// NOOPs of our own in this session.
    pub noops: u32,
}

impl Destination {
    pub fn new() -> Self {
        Self {
            link: Link::Connecting,
            decoder: ReplyDecoder::new(ReplyLimits::default()),
            expected: Awaited(VecDeque::from([(0, Expected::Greeting)])),
            offer: Offer::default(),
            offered_tls: false,
            tls: Tls::Untried,
            noops: 0,
        }
    }
}
