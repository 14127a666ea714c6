//! What a peer has said and the engine has not read yet, each piece with the time at which it arrives.

use std::collections::VecDeque;

/// Milliseconds since the session began.
pub type Time = u64;

pub const SECOND: Time = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Close,
    Reset,
}

#[derive(Debug, Default)]
pub struct Mouth {
    pieces: VecDeque<(Time, Vec<u8>)>,
    ending: Option<Ending>,
    /// When the last piece, or the ending, arrives.
    last: Time,
}

impl Mouth {
    pub fn say(&mut self, at: Time, octets: Vec<u8>) {
        if self.ending.is_none() && !octets.is_empty() {
            self.last = self.last.max(at);
            self.pieces.push_back((self.last, octets));
        }
    }

    /// After everything that was said, nothing more comes.
    pub fn end(&mut self, at: Time, ending: Ending) {
        if self.ending.is_none() {
            self.last = self.last.max(at);
            self.ending = Some(ending);
        }
    }

    pub fn is_silent(&self) -> bool {
        self.pieces.is_empty()
    }

    pub fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    /// Octets that have arrived, `limit` at most.
    pub fn ready(&self, now: Time, limit: usize) -> usize {
        let arrived = self.pieces.iter().take_while(|(at, _)| *at <= now);
        let mut ready = 0;
        for (_, octets) in arrived {
            ready += octets.len();
            if ready >= limit {
                return limit;
            }
        }
        ready
    }

    pub fn take(&mut self, mut count: usize) -> Vec<u8> {
        let mut taken = Vec::with_capacity(count);
        while count > 0 {
            let Some((_, octets)) = self.pieces.front_mut() else { break };
            let some = count.min(octets.len());
            taken.extend(octets.drain(..some));
            count -= some;
            if octets.is_empty() {
                self.pieces.pop_front();
            }
        }
        taken
    }

    /// The ending, once everything before it was read.
    pub fn ended(&self, now: Time) -> Option<Ending> {
        self.ending.filter(|_| self.pieces.is_empty() && self.last <= now)
    }

    /// When the next thing arrives that has not arrived yet.
    pub fn next(&self, now: Time) -> Option<Time> {
        let piece = self.pieces.front().map(|(at, _)| *at);
        piece.or(self.ending.map(|_| self.last)).filter(|at| *at > now)
    }
}
