//! The schedule: what happens next is chance's choice among everything that can.

use super::choices::Choices;
use super::laws::{LONGEST_WAIT, ensure};
use super::mouth::{Ending, SECOND, Time};
use super::transcript::Transcript;
use super::world::{Link, Pending, READ, World, treatment};
use crate::failure::Cause;
use crate::relay::settings::{INBOX, MAX_AWAITED, UNSTORED};
use crate::relay::wire::HIGH_WATER;
use crate::relay::{Input, Leg};

/// No session of these peers takes as many steps.
const MAX_STEPS: u64 = 200_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Bytes(Leg),
    Writable(Leg),
    Connected(Leg),
    Ended(Leg, Ending),
    Spool,
    Handshake(Leg),
    Timeout,
}

/// What became of a session.
#[derive(Debug)]
pub struct Run {
    pub steps: u64,
    pub broken: Option<String>,
    pub tape: Vec<u8>,
    pub transcript: String,
}

/// Plays one session to its end, or to the first law that is broken.
pub fn play(choices: Choices, transcript: Transcript) -> Run {
    let mut world = World::new(choices, transcript);
    world.perform();
    while !world.over && world.broken.is_none() {
        world.step();
    }
    Run {
        steps: world.steps,
        broken: world.broken,
        tape: world.choices.used().to_vec(),
        transcript: world.transcript.text(),
    }
}

impl World {
    fn step(&mut self) {
        self.steps += 1;
        let messages = self.laws.records.len();
        if self.weather > 0 && self.choices.odds(self.weather) {
            self.accident();
        }
        if !self.session.is_over() {
            self.customer_speaks();
            match self.events() {
                events if events.is_empty() => self.let_time_pass(),
                events => {
                    let event = self.choices.pick(&events);
                    self.happen(event);
                }
            }
        }
        self.perform();
        self.check(messages);
    }

    fn customer_speaks(&mut self) {
        let open = self.wires[Leg::Customer as usize].link == Link::Open;
        let idle = self.laws.oracle.is_answered() && self.wires[Leg::Customer as usize].outgoing.is_empty();
        let greeted = self.laws.oracle.last_code > 0;
        while open && self.customer.wants_to_speak(greeted, idle) {
            let in_body = self.laws.oracle.in_body();
            self.customer.speak(in_body, self.now, &mut self.choices);
        }
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::with_capacity(8);
        if self.deadline().is_some_and(|due| due <= self.now) {
            events.push(Event::Timeout);
        }
        if !self.pending.is_empty() {
            events.push(Event::Spool);
        }
        for leg in [Leg::Destination, Leg::Filter, Leg::Customer] {
            let wire = &self.wires[leg as usize];
            let Some(mouth) = self.mouth(leg) else { continue };
            if wire.link == Link::Connecting && wire.deaf_until <= self.now {
                events.push(Event::Connected(leg));
            }
            if wire.link != Link::Open {
                continue;
            }
            if !wire.outgoing.is_empty() && wire.mute_until <= self.now {
                events.push(Event::Writable(leg));
            }
            if wire.handshake && wire.deaf_until <= self.now {
                events.push(Event::Handshake(leg));
            }
            if wire.handshake || wire.paused || wire.deaf_until > self.now {
                continue;
            }
            if mouth.ready(self.now, 1) > 0 {
                events.push(Event::Bytes(leg));
            } else if let Some(ending) = mouth.ended(self.now).filter(|_| !wire.end_told) {
                events.push(Event::Ended(leg, ending));
            }
        }
        events
    }

    /// Nothing can happen now.
    fn let_time_pass(&mut self) {
        match self.next_time() {
            Some(at) => self.now = at,
            None => self.must(Err("nothing will ever happen again".into())),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Bytes(leg) => self.bytes(leg),
            Event::Writable(leg) => {
                let most = self.wire(leg).outgoing.len();
                let count = self.part(most);
                let octets: Vec<u8> = self.wire(leg).outgoing.drain(..count).collect();
                self.deliver(leg, &octets);
                self.handle(Input::Writable(leg, count));
            }
            Event::Connected(leg) => self.connected(leg),
            Event::Ended(leg, ending) => {
                self.transcript.note(self.now, &format!("{leg:?}: {ending:?}"));
                self.wire(leg).end_told = true;
                self.gone |= leg == Leg::Customer;
                if ending == Ending::Close {
                    self.handle(Input::Closed(leg));
                } else {
                    self.wire(leg).link = Link::None;
                    self.wire(leg).outgoing.clear();
                    self.handle(Input::Failed(leg, Cause::Reset));
                }
            }
            Event::Handshake(leg) => self.handshake(leg),
            Event::Spool => self.spool_answers(),
            Event::Timeout => self.time_out(),
        }
    }

    fn bytes(&mut self, leg: Leg) {
        let now = self.now;
        let most = self.mouth(leg).map_or(0, |mouth| mouth.ready(now, READ));
        let count = self.part(most);
        let octets = self.mouth_mut(leg).map(|mouth| mouth.take(count)).unwrap_or_default();
        let who = match leg {
            Leg::Customer => {
                self.laws.oracle.said(&octets);
                "C"
            }
            Leg::Destination => {
                self.laws.destination_read(&octets);
                "D"
            }
            Leg::Filter => {
                self.laws.node_read(&octets);
                "F"
            }
        };
        self.transcript.said(who, now, &octets);
        self.handle(Input::Bytes(leg, &octets));
    }

    /// All of it, or less.
    fn part(&mut self, most: usize) -> usize {
        match self.choices.below(8) {
            0..=4 => most,
            5 => most.min(1 + self.choices.below(40)),
            6 => most.min(1),
            _ => most.min(1 + self.choices.below(5000)),
        }
    }

    fn spool_answers(&mut self) {
        let trouble = self.weather > 0 && self.choices.odds(self.weather / 2);
        match self.pending.pop_front() {
            Some(Pending::Store(count)) if trouble => {
                self.transcript.note(self.now, "the spool cannot be written");
                self.handle(Input::StoreFailed(count));
            }
            Some(Pending::Store(count)) => self.handle(Input::Stored(count)),
            Some(Pending::Replay(..)) if trouble => {
                self.transcript.note(self.now, "the spool cannot be read");
                self.handle(Input::ReplayFailed);
            }
            Some(Pending::Replay(leg, range)) => {
                let most = range.len();
                let count = self.part(most);
                let octets = self.spool[range.start..range.start + count].to_vec();
                self.handle(Input::Spooled(leg, &octets));
            }
            None => {}
        }
    }

    /// A deadline that has come changes something.
    fn time_out(&mut self) {
        self.transcript.note(self.now, "time is over");
        // One that does not take what it is told cannot be told why.
        let deaf = !self.wire(Leg::Customer).outgoing.is_empty();
        for _ in 0..8 {
            self.handle(Input::Timeout);
            self.perform();
            self.gone |= deaf && self.session.is_over();
            if self.session.is_over() || self.deadline().is_some_and(|due| due > self.now) {
                return;
            }
        }
        self.must(Err("the deadline stays in the past".into()));
    }

    /// Something that can happen at any time.
    fn accident(&mut self) {
        match self.choices.below(12) {
            0..=3 => self.stall(),
            4 | 5 => {
                let late = self.choices.pick(&[0, 1, 4]) * SECOND;
                let to = self.deadline().unwrap_or(self.now) + late;
                let within = self.now + self.choices.pick(&[1, 30, 200, 900]) * SECOND;
                self.now = self.now.max(to.min(within));
            }
            6 if self.wires[Leg::Destination as usize].link == Link::Open => {
                self.destination.unasked(self.now, &mut self.choices);
            }
            7 if self.wires[Leg::Filter as usize].link == Link::Open => {
                if let Some((_, node)) = &mut self.node {
                    node.unasked(self.now, &mut self.choices);
                }
            }
            8 => self.customer.mouth.end(self.now, Ending::Reset),
            9 if self.choices.odds(64) => {
                self.transcript.note(self.now, "stop");
                self.stopped = true;
                self.handle(Input::Stop);
            }
            11 => {
                self.laws.treatment = treatment(&mut self.choices);
                self.transcript.note(self.now, &format!("{:?}", self.laws.treatment));
                self.handle(Input::Treat(self.laws.treatment));
            }
            // The driver cuts nothing that is with the destination.
            10 if self.stopped && !self.session.is_committed() => {
                self.transcript.note(self.now, "cut");
                self.handle(Input::Cut);
            }
            _ => {}
        }
    }

    /// The laws that hold between any two steps.
    fn check(&mut self, messages_before: usize) {
        if self.session.is_over() {
            self.over = true;
            let concluded = self.laws.records.len() > messages_before;
            let not_reached = self.resets_on_connect_failure && self.destination.answered.is_empty();
            let law = self.laws.over(self.gone || not_reached, concluded);
            self.must(law);
            self.after_the_end();
            return;
        }
        let law = self.bounds().and_then(|()| self.is_alive());
        self.must(law);
    }

    fn bounds(&self) -> Result<(), String> {
        let unstored: usize = self
            .pending
            .iter()
            .map(|pending| match pending {
                Pending::Store(count) => *count,
                Pending::Replay(..) => 0,
            })
            .sum();
        let most = [
            ("inbox", self.session.customer.inbox.len(), INBOX + READ),
            ("owed", self.session.customer.owed(), MAX_AWAITED + 2),
            ("expected", self.session.destination.expected.len(), MAX_AWAITED + 2),
            ("unstored", unstored, usize::try_from(UNSTORED).unwrap_or(0) + 2 * READ),
            ("to the customer", self.wires[0].outgoing.len(), HIGH_WATER + 2 * READ),
            ("to the destination", self.wires[1].outgoing.len(), HIGH_WATER + 2 * READ),
            ("to the node", self.wires[2].outgoing.len(), HIGH_WATER + 2 * READ),
        ];
        match most.iter().find(|(_, held, limit)| held > limit) {
            Some((what, held, limit)) => Err(format!("{what}: {held} held, {limit} at most")),
            None => Ok(()),
        }
    }

    /// Somebody is waited for, and not for ever.
    fn is_alive(&self) -> Result<(), String> {
        let Some(due) = self.deadline() else { return Err("no deadline, and the session goes on".into()) };
        let waits_for_spool = !self.pending.is_empty();
        ensure(waits_for_spool || due <= self.now + LONGEST_WAIT, || {
            format!("nothing is due for {} s", (due - self.now) / SECOND)
        })?;
        let limit: Time = 4 * 7200 * SECOND;
        ensure(self.steps < MAX_STEPS && self.now < limit, || "the session does not end".into())
    }

    fn after_the_end(&mut self) {
        for leg in [Leg::Destination, Leg::Filter] {
            if self.wire(leg).link != Link::None {
                self.must(Err(format!("{leg:?} is open after the end")));
            }
        }
        for leg in [Leg::Customer, Leg::Destination, Leg::Filter] {
            self.handle(Input::Bytes(leg, b"250 late\r\nNOOP\r\n"));
            self.handle(Input::Closed(leg));
        }
        self.handle(Input::Timeout);
        if let Some(output) = self.session.poll() {
            self.must(Err(format!("{output:?} after the end")));
        }
    }
}
