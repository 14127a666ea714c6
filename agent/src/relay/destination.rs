//! The destination's leg: which reply belongs to what.

use std::collections::VecDeque;

use weir_smtp::envelope::Mailbox;
use weir_smtp::extension::Offer;
use weir_smtp::reply::{ReplyDecoder, ReplyLimits};

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
    /// NOOP of our own while a verdict is awaited.
    OwnNoop,
    /// RSET of our own after a refusal by the filter: the customer never sees its answer.
    OwnRset,
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
    pub expected: VecDeque<Expected>,
    /// What its last EHLO reply left for the customer.
    pub offer: Offer,
    /// NOOPs of our own in this session.
    pub noops: u32,
}

impl Destination {
    pub fn new() -> Self {
        Self {
            link: Link::Connecting,
            decoder: ReplyDecoder::new(ReplyLimits::default()),
            expected: VecDeque::from([Expected::Greeting]),
            offer: Offer::default(),
            noops: 0,
        }
    }
}
