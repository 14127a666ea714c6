//! The body on its way from the customer into the spool.

use std::time::Instant;

use bytes::BytesMut;
use weir_smtp::bdat::Content;
use weir_smtp::data::{DataDecoder, Findings};

use super::settings::{RATE_WINDOW, Settings};
use crate::config::{BareLf, LongLines};
use crate::failure::Failure;

/// A chunk as its command announced it (RFC 3030 section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub size: u64,
    pub last: bool,
}

/// How the customer says where the body ends.
#[derive(Debug)]
enum Framing {
    /// By a lone dot.
    Dot(DataDecoder),
    Chunks {
        content: Content,
        /// Octets that all chunks so far have announced.
        announced: u64,
        chunk: Chunk,
        /// Octets of the chunk under way still to come; `None`: there is none.
        left: Option<u64>,
    },
}

#[derive(Debug)]
pub struct Reception {
    framing: Framing,
    /// Declared `BODY=BINARYMIME`: any octets will do (RFC 3030 section 3).
    binary: bool,
    /// Octets handed to the spool, and octets it has.
    handed: u64,
    pub stored: u64,
    /// The current span of the minimum data rate: when it began, and octets received since.
    window: (Instant, u64),
    /// When the end of the body came.
    pub complete: Option<Instant>,
    /// The customer awaits an answer: to the end of the body, or to a chunk.
    awaited: bool,
    /// The message is refused for what it is; the rest of it is read and dropped.
    pub refusal: Option<Failure>,
}

impl Reception {
    /// `chunk`: the first one; `None`: the customer said DATA.
    pub fn begin(chunk: Option<Chunk>, binary: bool, now: Instant) -> Self {
        let framing = match chunk {
            None => Framing::Dot(DataDecoder::default()),
            Some(chunk) => Framing::Chunks {
                content: Content::default(),
                announced: chunk.size,
                chunk,
                left: Some(chunk.size),
            },
        };
        Self {
            framing,
            binary,
            handed: 0,
            stored: 0,
            window: (now, 0),
            complete: None,
            awaited: false,
            refusal: None,
        }
    }

    pub fn next_chunk(&mut self, next: Chunk) {
        if let Framing::Chunks { announced, chunk, left, .. } = &mut self.framing {
            (*chunk, *left) = (next, Some(next.size));
            *announced = announced.saturating_add(next.size);
        }
    }

    /// Takes octets up to the end of the body or of the chunk, and gives those of the body. An empty chunk
    /// ends without any.
    pub fn take(&mut self, octets: &mut &[u8], settings: &Settings, now: Instant) -> BytesMut {
        let mut body = BytesMut::new();
        if self.complete.is_some() || self.awaited {
            return body;
        }
        let before = octets.len();
        let ended = match &mut self.framing {
            Framing::Dot(decoder) => decoder.decode(octets, &mut body),
            Framing::Chunks { left: None, .. } => false,
            Framing::Chunks { content, left: under_way @ Some(_), .. } => {
                let left = under_way.unwrap_or(0);
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(octets.len());
                let (taken, rest) = octets.split_at(here);
                content.scan(taken);
                body.extend_from_slice(taken);
                *octets = rest;
                *under_way = Some(left - here as u64).filter(|left| *left > 0);
                under_way.is_none()
            }
        };
        self.window.1 += (before - octets.len()) as u64;
        self.awaited = ended;
        if ended && self.is_last() {
            self.complete = Some(now);
        }
        self.refusal = self.refusal.or_else(|| self.objection(settings));
        body
    }

    fn is_last(&self) -> bool {
        match &self.framing {
            Framing::Dot(_) => true,
            Framing::Chunks { chunk, .. } => chunk.last,
        }
    }

    /// Octets that are worth keeping go to the spool.
    pub fn handed(&mut self, octets: usize) {
        self.handed += octets as u64;
    }

    /// What the spool will never have is not waited for.
    pub fn give_up_unstored(&mut self) {
        self.handed = self.stored;
    }

    pub fn unstored(&self) -> u64 {
        self.handed - self.stored
    }

    /// A chunk came that is not the last one, and is not answered yet: its size.
    pub fn unanswered_chunk(&self) -> Option<u64> {
        match &self.framing {
            Framing::Chunks { chunk, .. } if self.awaited && !chunk.last => Some(chunk.size),
            _ => None,
        }
    }

    pub fn chunk_answered(&mut self) {
        self.awaited = false;
    }

    /// Between two chunks: the customer's next octets are a command.
    pub fn is_between_chunks(&self) -> bool {
        matches!(self.framing, Framing::Chunks { left: None, .. }) && self.complete.is_none() && !self.awaited
    }

    /// The customer awaits an answer.
    pub fn is_awaited(&self) -> bool {
        self.awaited
    }

    pub fn is_in_chunks(&self) -> bool {
        matches!(self.framing, Framing::Chunks { .. })
    }

    pub fn findings(&self) -> Findings {
        match &self.framing {
            Framing::Dot(decoder) => decoder.findings(),
            Framing::Chunks { content, .. } => content.findings(),
        }
    }

    /// DATA can carry what came so far, octet by octet.
    pub fn is_lines(&self) -> bool {
        match &self.framing {
            Framing::Dot(_) => true,
            Framing::Chunks { content, .. } => content.is_lines(),
        }
    }

    /// When the customer will have been too slow, unless it goes on.
    pub fn rate_deadline(&self) -> Option<Instant> {
        self.complete.is_none().then(|| self.window.0 + RATE_WINDOW)
    }

    /// A span of the minimum data rate is over: was it kept? One in which the agent itself did not read
    /// does not count.
    pub fn keeps_rate(&mut self, settings: &Settings, was_paused: bool, now: Instant) -> bool {
        let (_, received) = std::mem::replace(&mut self.window, (now, 0));
        was_paused || received >= settings.min_data_rate * RATE_WINDOW.as_secs()
    }

    /// Why the message can't be taken for what it is.
    fn objection(&self, settings: &Settings) -> Option<Failure> {
        let findings = self.findings();
        let announced = match self.framing {
            Framing::Dot(_) => findings.size,
            Framing::Chunks { announced, .. } => announced,
        };
        let text = !self.binary;
        let ended = text && self.complete.is_some();
        let long = text && settings.long_lines == LongLines::Reject;
        if announced > settings.max_message_size {
            Some(Failure::MessageTooLarge(settings.max_message_size))
        } else if long && findings.longest_line > settings.max_line_length {
            Some(Failure::LineTooLong(settings.max_line_length))
        } else if ended && findings.bare_cr > 0 {
            Some(Failure::BareCr)
        } else if ended && findings.bare_lf > 0 && settings.bare_lf == BareLf::Reject {
            Some(Failure::BareLf)
        } else if ended && findings.nul > 0 {
            Some(Failure::Nul)
        } else {
            None
        }
    }
}
