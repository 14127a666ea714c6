//! The customer's leg: octets waiting to be read, and replies in the order of the commands.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use weir_smtp::Reply;
use weir_smtp::envelope::Mailbox;
use weir_smtp::line::{Line, LineDecoder, LineError};
use weir_smtp::xclient::Protocol;

use super::reception::Chunk;
use super::settings::COMMAND_LINE;
use super::wire::{Leg, Wire};
use crate::failure::Failure;

/// What has to happen before the next command is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    None,
    /// Everything said so far is answered.
    Answered,
    /// As `Answered`; then DATA is decided on.
    Data,
    /// As `Answered`; then the chunk that follows is taken, or read over.
    Chunk(Chunk),
    /// As `Answered`; then the filter is asked about the recipient.
    Recipient,
    /// As `Answered`; then the session ends for this reason.
    Farewell(Failure),
}

#[derive(Debug)]
pub struct Customer {
    /// Octets not yet understood: while a reply is awaited, or a message judged.
    pub inbox: BytesMut,
    decoder: LineDecoder,
    /// `None`: the reply is still to come from the destination.
    replies: VecDeque<Option<Reply>>,
    pub barrier: Barrier,
    /// The next line is no command but part of an AUTH exchange.
    pub in_auth: bool,
    /// MAIL was said, or the lack of TLS was noticed already.
    pub goes_without_tls: bool,
    /// The RCPT that the filter is to be asked about.
    pub recipient: Option<(Vec<u8>, Mailbox)>,
    /// A chunk was refused, and with it those that follow: why.
    pub chunk_refusal: Option<Reply>,
    /// Octets of a refused chunk still to be read over.
    pub skip: u64,
    pub errors: u32,
    /// RCPT commands passed on since the last EHLO, RSET or DATA: what every split of the customer's
    /// octets counts alike, whenever the destination answers.
    pub recipients: usize,
    /// The name in the last accepted EHLO or HELO.
    pub helo: Vec<u8>,
    pub protocol: Protocol,
    /// Nothing more will come.
    pub ended: bool,
    pub said_quit: bool,
}

impl Customer {
    pub fn new() -> Self {
        Self {
            inbox: BytesMut::new(),
            decoder: LineDecoder::new(COMMAND_LINE),
            replies: VecDeque::new(),
            barrier: Barrier::Answered,
            in_auth: false,
            goes_without_tls: false,
            recipient: None,
            chunk_refusal: None,
            skip: 0,
            errors: 0,
            recipients: 0,
            helo: Vec::new(),
            protocol: Protocol::Smtp,
            ended: false,
            said_quit: false,
        }
    }

    /// The next command line, if a whole one is there.
    pub fn next_line(&mut self) -> Option<Result<Line, LineError>> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(self.inbox.len());
        self.inbox.advance(skipped);
        self.skip -= skipped as u64;
        if self.skip > 0 {
            return None;
        }
        let mut octets = &self.inbox[..];
        let line = self.decoder.next(&mut octets);
        let taken = self.inbox.len() - octets.len();
        self.inbox.advance(taken);
        line
    }

    /// Part of a command line came, and not its end; or of a chunk that is read over.
    pub fn is_inside_line(&self) -> bool {
        self.skip > 0 || !self.decoder.held().is_empty() || !self.inbox.is_empty()
    }

    /// Whether QUIT is among what waits to be read: a customer that said so and closed its side still
    /// wants its answers.
    pub fn will_quit(&self) -> bool {
        self.said_quit
            || self.inbox[..]
                .split(|octet| *octet == b'\n')
                .any(|line| line.trim_ascii().eq_ignore_ascii_case(b"QUIT"))
    }

    /// A reply is owed that the destination will give.
    pub fn await_reply(&mut self) {
        self.replies.push_back(None);
    }

    /// A reply of our own, after all that are still owed.
    pub fn reply(&mut self, reply: Reply, wire: &mut Wire) {
        self.replies.push_back(Some(reply));
        self.flush(wire);
    }

    /// The destination gave the reply that was owed first.
    pub fn answer(&mut self, reply: Reply, wire: &mut Wire) {
        if let Some(owed) = self.replies.iter_mut().find(|owed| owed.is_none()) {
            *owed = Some(reply);
        } else {
            self.replies.push_back(Some(reply));
        }
        self.flush(wire);
    }

    /// Replies not yet given.
    pub fn owed(&self) -> usize {
        self.replies.len()
    }

    /// A last reply instead of all that are owed.
    pub fn give_up(&mut self, reply: Reply, wire: &mut Wire) {
        self.replies.clear();
        self.reply(reply, wire);
    }

    fn flush(&mut self, wire: &mut Wire) {
        let mut octets = Vec::new();
        while let Some(Some(reply)) = self.replies.front() {
            octets.extend_from_slice(&reply.to_bytes());
            self.replies.pop_front();
        }
        if !octets.is_empty() {
            wire.write(Leg::Customer, octets);
        }
    }
}
