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
        /// Octets of the chunk under way still to come.
        left: u64,
    },
}

/// Where the customer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next octets are the body's.
    Taking,
    /// A chunk came that is not the last one, and awaits its answer.
    ChunkAwaited,
    /// The next octets are a command.
    BetweenChunks,
    /// The whole body came, and awaits its answer.
    Complete(Instant),
}

#[derive(Debug)]
pub struct Reception {
    framing: Framing,
    state: State,
    /// Declared `BODY=BINARYMIME`: any octets will do (RFC 3030 section 3).
    binary: bool,
    /// Octets handed to the spool, and octets it has.
    handed: u64,
    pub stored: u64,
    /// The current span of the minimum data rate: when it began, and octets received since.
    window: (Instant, u64),
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
                left: chunk.size,
            },
        };
        Self { framing, state: State::Taking, binary, handed: 0, stored: 0, window: (now, 0), refusal: None }
    }

    pub fn next_chunk(&mut self, next: Chunk) {
        if let Framing::Chunks { announced, chunk, left, .. } = &mut self.framing {
            (*chunk, *left) = (next, next.size);
            *announced = announced.saturating_add(next.size);
            self.state = State::Taking;
        }
    }

    /// Takes octets up to the end of the body or of the chunk, and gives those of the body. An empty chunk
    /// ends without any.
    pub fn take(&mut self, octets: &mut &[u8], settings: &Settings, now: Instant) -> BytesMut {
        let mut body = BytesMut::new();
        if self.state != State::Taking {
            return body;
        }
        let before = octets.len();
        let ended = match &mut self.framing {
            Framing::Dot(decoder) => decoder.decode(octets, &mut body),
            Framing::Chunks { content, left, .. } => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(octets.len());
                let (taken, rest) = octets.split_at(here);
                content.scan(taken);
                body.extend_from_slice(taken);
                *octets = rest;
                *left -= here as u64;
                *left == 0
            }
        };
        self.window.1 += (before - octets.len()) as u64;
        if ended {
            self.state = if self.is_last() { State::Complete(now) } else { State::ChunkAwaited };
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

    /// Octets that are worth keeping go to the spool, or straight on. How many there were before.
    pub fn handed(&mut self, octets: usize) -> u64 {
        let after = self.handed + octets as u64;
        std::mem::replace(&mut self.handed, after)
    }

    pub fn unstored(&self) -> u64 {
        self.handed - self.stored
    }

    /// A chunk came that is not the last one, and is not answered yet: its size.
    pub fn unanswered_chunk(&self) -> Option<u64> {
        match &self.framing {
            Framing::Chunks { chunk, .. } if self.state == State::ChunkAwaited => Some(chunk.size),
            _ => None,
        }
    }

    pub fn chunk_answered(&mut self) {
        self.state = State::BetweenChunks;
    }

    /// Between two chunks: the customer's next octets are a command.
    pub fn is_between_chunks(&self) -> bool {
        self.state == State::BetweenChunks
    }

    /// The customer awaits an answer.
    pub fn is_awaited(&self) -> bool {
        matches!(self.state, State::ChunkAwaited | State::Complete(_))
    }

    /// The customer's next octets are the body's.
    pub fn is_taking(&self) -> bool {
        self.state == State::Taking
    }

    /// When the end of the body came.
    pub fn complete(&self) -> Option<Instant> {
        match self.state {
            State::Complete(at) => Some(at),
            _ => None,
        }
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

    /// DATA can carry what came so far, octet by octet, and more may follow unless it is complete.
    pub fn suits_data(&self) -> bool {
        match &self.framing {
            Framing::Dot(_) => true,
            Framing::Chunks { content, .. } if self.complete().is_some() => {
                content.is_lines() && !content.has_strays()
            }
            Framing::Chunks { content, .. } => !content.has_strays(),
        }
    }

    /// When the customer will have been too slow, unless it goes on.
    pub fn rate_deadline(&self) -> Option<Instant> {
        self.complete().is_none().then(|| self.window.0 + RATE_WINDOW)
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
        let ended = text && self.complete().is_some();
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
