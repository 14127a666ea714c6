//! Sending the spooled body to a leg after its 354, dots stuffed, as fast as the leg takes it.

use bytes::BytesMut;
use weir_smtp::data::Stuffer;

use super::wire::{HIGH_WATER, Leg, Output, Wire};

/// Most octets asked from the spool at once.
const CHUNK: u64 = 64 * 1024;

#[derive(Debug)]
pub struct BodySender {
    leg: Leg,
    stuffer: Stuffer,
    /// Octets of the spool sent.
    sent: u64,
    /// A replay was asked for and has not come.
    asked: bool,
    ended: bool,
}

impl BodySender {
    pub fn new(leg: Leg) -> Self {
        Self { leg, stuffer: Stuffer::default(), sent: 0, asked: false, ended: false }
    }

    /// Sends what can be sent. `stored` octets are in the spool; `complete`: no more will come.
    /// `true`: the end of the message was written.
    pub fn pump(&mut self, stored: u64, complete: bool, wire: &mut Wire) -> bool {
        if self.ended || self.asked {
            return self.ended;
        }
        if self.sent < stored {
            if wire.flow(self.leg).outgoing < HIGH_WATER {
                self.asked = true;
                let end = stored.min(self.sent + CHUNK);
                wire.push(Output::Replay(self.leg, self.sent..end));
            }
        } else if complete {
            wire.write(self.leg, self.stuffer.end());
            self.ended = true;
        }
        self.ended
    }

    /// The octets asked for, or fewer of them from the front.
    pub fn spooled(&mut self, octets: &[u8], wire: &mut Wire) {
        let mut stuffed = BytesMut::new();
        self.stuffer.stuff(octets, &mut stuffed);
        self.sent += octets.len() as u64;
        self.asked = false;
        wire.write(self.leg, stuffed.freeze());
    }
}
