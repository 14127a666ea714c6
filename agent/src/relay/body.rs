//! Sending the spooled body to a leg, as fast as the leg takes it.

use std::collections::VecDeque;

use bytes::{BufMut, BytesMut};
use weir_smtp::data::Stuffer;

use super::wire::{HIGH_WATER, Leg, Output, Wire};

/// Most octets asked from the spool at once.
const CHUNK: u64 = 64 * 1024;

/// What of the message is in the spool, or went past it.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    pub octets: u64,
    /// No more will come.
    pub complete: bool,
    /// DATA can carry these octets as they are.
    pub suits_data: bool,
}

/// How the leg is told where the body ends.
#[derive(Debug)]
enum Framing {
    /// After DATA and its go-ahead: by a lone dot.
    Dot(Stuffer),
    /// As chunks of what the spool has at the time (RFC 3030). Without pipelining one is answered before the
    /// next.
    Chunks { pipelining: bool },
    /// By the length that is said before.
    Counted { announced: bool },
}

/// Most chunks sent and not answered.
const UNANSWERED: usize = 8;

#[derive(Debug)]
pub struct BodySender {
    leg: Leg,
    framing: Framing,
    /// Octets of the spool sent.
    sent: u64,
    /// A replay was asked for and has not come.
    asked: bool,
    /// Where the body ends, once it is known.
    end: Option<u64>,
    ended: bool,
    /// What is owed an answer, as places in what was written to the leg.
    unanswered: VecDeque<u64>,
}

/// What a reply to a part of the body can be.
#[derive(Debug, PartialEq, Eq)]
pub enum Answered {
    /// A chunk, after which others come.
    Chunk,
    /// The whole body.
    End,
    /// Nothing: the peer can't have had yet what it should answer.
    Nothing,
}

impl BodySender {
    pub fn after_data(leg: Leg) -> Self {
        Self::new(leg, Framing::Dot(Stuffer::default()))
    }

    pub fn in_chunks(leg: Leg, pipelining: bool) -> Self {
        Self::new(leg, Framing::Chunks { pipelining })
    }

    /// A complete body as one chunk.
    pub fn in_one_chunk(leg: Leg) -> Self {
        Self::new(leg, Framing::Counted { announced: false })
    }

    fn new(leg: Leg, framing: Framing) -> Self {
        Self { leg, framing, sent: 0, asked: false, end: None, ended: false, unanswered: VecDeque::new() }
    }

    /// Has sent the first `octets`, and waits for none.
    pub fn has_sent(&self, octets: u64) -> bool {
        self.sent == octets && !self.asked
    }

    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// All was sent and answered.
    pub fn is_done(&self) -> bool {
        self.ended && self.unanswered.is_empty()
    }

    /// Whether these octets can be said in this framing.
    pub fn suits(&self, stored: Stored) -> bool {
        stored.suits_data || !matches!(self.framing, Framing::Dot(_))
    }

    /// A chunk before the last is not answered yet.
    pub fn awaits_chunk_reply(&self) -> bool {
        !self.ended && !self.unanswered.is_empty()
    }

    /// Sends what can be sent. `true`: the end of the message was written.
    pub fn pump(&mut self, stored: Stored, wire: &mut Wire) -> bool {
        if self.ended || self.asked {
            return self.ended;
        }
        self.end = stored.complete.then_some(stored.octets);
        if self.holds_back(stored) {
            return false;
        }
        if let Framing::Counted { announced } = &mut self.framing
            && !std::mem::replace(announced, true)
        {
            wire.write(self.leg, header(stored.octets, true).freeze());
        }
        if self.sent < stored.octets {
            if wire.flow(self.leg).outgoing < HIGH_WATER {
                self.asked = true;
                let end = stored.octets.min(self.sent + CHUNK);
                wire.push(Output::Replay(self.leg, self.sent..end));
            }
        } else if stored.complete {
            match &self.framing {
                Framing::Dot(stuffer) => wire.write(self.leg, stuffer.end()),
                Framing::Chunks { .. } => wire.write(self.leg, header(0, true).freeze()),
                Framing::Counted { .. } => {}
            }
            self.end_here(wire);
        }
        self.ended
    }

    /// A chunk waits: one at a time without pipelining, small ones until they are large or nothing is unanswered, and
    /// the last until its answer can be taken for nothing else.
    fn holds_back(&self, stored: Stored) -> bool {
        let Framing::Chunks { pipelining } = self.framing else { return false };
        let left = stored.octets - self.sent;
        let (last, small) = (stored.complete && left <= CHUNK, left < CHUNK);
        let crowded = !pipelining || self.unanswered.len() >= UNANSWERED;
        !self.unanswered.is_empty() && (crowded || last || small)
    }

    /// The octets asked for, or fewer of them from the front; or the next ones, which are not in the spool.
    pub fn spooled(&mut self, octets: &[u8], wire: &mut Wire) {
        self.sent += octets.len() as u64;
        self.asked = false;
        match &mut self.framing {
            Framing::Dot(stuffer) => {
                let mut stuffed = BytesMut::new();
                stuffer.stuff(octets, &mut stuffed);
                wire.write(self.leg, stuffed.freeze());
            }
            Framing::Chunks { .. } => {
                let last = self.end == Some(self.sent);
                let mut chunk = header(octets.len() as u64, last);
                chunk.put_slice(octets);
                wire.write(self.leg, chunk.freeze());
                if last {
                    self.end_here(wire);
                } else {
                    self.unanswered.push_back(wire.flow(self.leg).written);
                }
            }
            Framing::Counted { .. } => wire.write(self.leg, octets.to_vec()),
        }
    }

    /// The peer said something that is no goodbye. Which part of the body does it answer?
    pub fn answered(&mut self, wire: &Wire) -> Answered {
        let has_left = wire.flow(self.leg).has_left();
        if self.unanswered.pop_front_if(|end| *end <= has_left).is_none() {
            return Answered::Nothing;
        }
        if self.ended && self.unanswered.is_empty() { Answered::End } else { Answered::Chunk }
    }

    fn end_here(&mut self, wire: &Wire) {
        self.ended = true;
        self.unanswered.push_back(wire.flow(self.leg).written);
    }
}

/// The command before a chunk.
fn header(octets: u64, last: bool) -> BytesMut {
    let last = if last { " LAST" } else { "" };
    BytesMut::from(format!("BDAT {octets}{last}\r\n").as_bytes())
}
