//! What the engine says to the driver about the three connections, and how much of it is under way.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use bytes::Bytes;
use weir_smtp::extension::Extensions;

use super::mirror::Original;
use super::record::Record;
use crate::nodes::NodeId;
use crate::nodes::needs::Needs;

/// One of the three connections of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    Customer,
    Destination,
    Filter,
}

/// What the driver is to do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Choose a filter node that is not in the list, and has what the message needs if any has, and say which:
    /// `Input::Chosen`.
    ChooseNode {
        tried: Vec<NodeId>,
        needs: Needs,
    },
    /// Connect: to the original destination from the customer's address, or to the chosen node.
    Connect(Leg),
    Write(Leg, Bytes),
    /// Begin TLS with the destination or the node; answered by `Input::Secured` or `Input::Failed`.
    StartTls(Leg),
    /// Send what was written, then close.
    Close(Leg),
    /// The node takes other messages on the connection, which is as it was when the node had announced this.
    Keep(Extensions),
    /// Close now; what was written may be lost.
    Abort(Leg),
    PauseRead(Leg),
    ResumeRead(Leg),
    /// Begin an empty spool; a former one is gone.
    NewSpool,
    /// Append to the spool; answered by `Input::Stored` or `Input::StoreFailed`.
    Store(Bytes),
    /// Read from the spool for a leg; answered by `Input::Spooled` with octets from the front of the range.
    Replay(Leg, Range<u64>),
    DropSpool,
    /// A node did its job, or did not.
    Report {
        node: NodeId,
        failure: Option<super::conversation::NodeFailure>,
    },
    Log(Box<Record>),
    /// A message that is wholly in the spool was judged: mirror nodes may be asked as well. The session does not wait.
    Mirror(Box<Original>),
    /// Something that is counted.
    Noticed(Notice),
}

/// What is worth counting though nobody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The customer spoke before it was greeted, or sent a message before the go-ahead.
    EarlyTalker,
    /// The customer asked for STARTTLS, or left after EHLO without it, where the destination offers it.
    WantedTls,
    /// The customer spoke HTTP or TLS and was hung up on.
    NotSmtp,
    /// The destination's banner is asterisks: a Cisco "SMTP fixup" stands before it.
    MaskedBanner,
}

/// A leg is not written to beyond this many octets under way.
pub const HIGH_WATER: usize = 128 * 1024;

#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Octets written that have not left the driver's buffer.
    pub outgoing: usize,
    /// Octets written in all.
    pub written: u64,
    /// When octets last moved, or waiting began.
    pub progress: Instant,
    paused: bool,
}

impl Flow {
    /// Octets that have left the driver's buffer, of all that were written. What the peer says can only be an
    /// answer to what is among them.
    pub fn has_left(&self) -> u64 {
        self.written - self.outgoing as u64
    }
}

/// The outputs not yet polled, and the flow of each leg.
#[derive(Debug)]
pub struct Wire {
    outputs: VecDeque<Output>,
    flows: [Flow; 3],
}

impl Wire {
    pub fn new(now: Instant) -> Self {
        Self {
            outputs: VecDeque::new(),
            flows: [Flow { outgoing: 0, written: 0, progress: now, paused: false }; 3],
        }
    }

    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub fn write(&mut self, leg: Leg, octets: impl Into<Bytes>) {
        let octets = octets.into();
        let flow = self.flow_mut(leg);
        flow.outgoing += octets.len();
        flow.written += octets.len() as u64;
        self.push(Output::Write(leg, octets));
    }

    /// A line, with its CRLF.
    pub fn write_line(&mut self, leg: Leg, line: &[u8]) {
        self.write(leg, [line, b"\r\n"].concat());
    }

    pub fn flow(&self, leg: Leg) -> &Flow {
        &self.flows[leg as usize]
    }

    pub fn flow_mut(&mut self, leg: Leg) -> &mut Flow {
        &mut self.flows[leg as usize]
    }

    /// A new connection on this leg, or a new wait.
    pub fn restart(&mut self, leg: Leg, now: Instant) {
        self.flow_mut(leg).progress = now;
    }

    /// What is written next is waited for from now on, unless the leg has something to take already.
    pub fn resume(&mut self, leg: Leg, now: Instant) {
        if self.flow(leg).outgoing == 0 {
            self.restart(leg, now);
        }
    }

    pub fn written(&mut self, leg: Leg, octets: usize, now: Instant) {
        let flow = self.flow_mut(leg);
        flow.outgoing = flow.outgoing.saturating_sub(octets);
        flow.progress = now;
    }

    pub fn forget(&mut self, leg: Leg) {
        let flow = self.flow_mut(leg);
        (flow.outgoing, flow.paused) = (0, false);
    }

    pub fn is_paused(&self, leg: Leg) -> bool {
        self.flow(leg).paused
    }

    /// Has the driver read from a leg only while the engine has room.
    pub fn regulate(&mut self, leg: Leg, has_room: bool) {
        let flow = self.flow_mut(leg);
        if flow.paused == has_room {
            flow.paused = !has_room;
            self.push(if has_room { Output::ResumeRead(leg) } else { Output::PauseRead(leg) });
        }
    }
}
