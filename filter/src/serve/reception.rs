//! A mail transaction while its body comes in: after DATA, up to the line with the dot, or in the chunks of BDAT
//! (RFC 3030), whose sizes are said before them.

use bytes::{Bytes, BytesMut};
use weir_smtp::bdat::Content;
use weir_smtp::data::{DataDecoder, Findings};

use crate::message::Transaction;

/// A transaction, from MAIL until its body is complete.
pub(super) struct Reception {
    transaction: Transaction,
    body: Body,
    /// Octets of the body that are given out; what comes beyond is only counted.
    limit: u64,
}

enum Body {
    NotBegun,
    Lines(DataDecoder),
    Chunks(Content),
    /// A chunk came before there was a recipient. What follows would be a message without its beginning.
    Failed,
}

impl Reception {
    pub(super) fn new(transaction: Transaction, limit: u64) -> Self {
        Self { transaction, body: Body::NotBegun, limit }
    }

    pub(super) fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// None once the body has begun: recipients come before it.
    pub(super) fn open(&mut self) -> Option<&mut Transaction> {
        matches!(self.body, Body::NotBegun).then_some(&mut self.transaction)
    }

    pub(super) fn has_begun(&self) -> bool {
        !matches!(self.body, Body::NotBegun)
    }

    /// DATA. False: not in order.
    pub(super) fn begin_lines(&mut self) -> bool {
        let in_order = !self.has_begun() && self.has_recipients();
        if in_order {
            self.body = Body::Lines(DataDecoder::default());
        }
        in_order
    }

    /// BDAT. True: the body begins with this chunk.
    pub(super) fn begin_chunk(&mut self) -> bool {
        if self.has_begun() {
            return false;
        }
        let in_order = self.has_recipients();
        self.body = if in_order { Body::Chunks(Content::default()) } else { Body::Failed };
        in_order
    }

    /// Chunks are kept, not read over.
    pub(super) fn takes_chunks(&self) -> bool {
        matches!(self.body, Body::Chunks(_))
    }

    /// Takes lines from the front of `input`. What is to be given out of them, and whether they have ended.
    pub(super) fn lines(&mut self, input: &mut &[u8]) -> (Bytes, bool) {
        let Body::Lines(decoder) = &mut self.body else { return (Bytes::new(), true) };
        let mut body = BytesMut::new();
        let before = decoder.findings().size;
        let ended = decoder.decode(input, &mut body);
        body.truncate(room(self.limit, before));
        (body.freeze(), ended)
    }

    /// Octets of a chunk. What is to be given out of them.
    pub(super) fn chunk(&mut self, octets: &[u8]) -> Bytes {
        let Body::Chunks(content) = &mut self.body else { return Bytes::new() };
        let kept = octets.len().min(room(self.limit, content.findings().size));
        content.scan(octets);
        Bytes::copy_from_slice(octets.get(..kept).unwrap_or_default())
    }

    /// The transaction with what was found in its body.
    pub(super) fn complete(mut self) -> Transaction {
        self.transaction.findings = match &self.body {
            Body::Lines(decoder) => decoder.findings(),
            Body::Chunks(content) => content.findings(),
            Body::NotBegun | Body::Failed => Findings::default(),
        };
        self.transaction
    }

    fn has_recipients(&self) -> bool {
        !self.transaction.envelope.recipients.is_empty()
    }
}

fn room(limit: u64, size: u64) -> usize {
    usize::try_from(limit.saturating_sub(size)).unwrap_or(usize::MAX)
}

/// A chunk that is being read.
pub(super) struct Chunk {
    pub(super) size: u64,
    pub(super) last: bool,
    left: u64,
}

impl Chunk {
    pub(super) fn new(size: u64, last: bool) -> Self {
        Self { size, last, left: size }
    }

    /// Takes its octets from the front of `input`.
    pub(super) fn take<'a>(&mut self, input: &mut &'a [u8]) -> &'a [u8] {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
        let (octets, rest) = input.split_at(count);
        *input = rest;
        self.left -= count as u64;
        octets
    }

    pub(super) fn has_ended(&self) -> bool {
        self.left == 0
    }
}
