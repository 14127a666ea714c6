//! One session of the engine between simulated peers, on a simulated network, with a simulated clock.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::choices::Choices;
use super::customer::Customer;
use super::laws::{Laws, ensure};
use super::mouth::{SECOND, Time};
use super::peer::{Peer, Understood};
use super::transcript::Transcript;
use weir_smtp::Reply;
use weir_smtp::extension::Extensions;
use weir_smtp::xclient::REPEATED;

use crate::config::{
    BareLf, DestinationTls, EarlyTalkers, LongLines, Mode, OnConnectFailure, WhenUnavailable,
};
use crate::failure::{Cause, Failure};
use crate::nodes::{Candidate, NodeId};
use crate::relay::record::SessionId;
use crate::relay::settings::Settings;
use crate::relay::{Connection, Input, Leg, Notice, Output, Session};
use crate::treatment::Treatment;

pub const CUSTOMER: &str = "10.1.0.2:40001";
const LEGS: [Leg; 3] = [Leg::Destination, Leg::Filter, Leg::Customer];
const NODES: usize = 3;
/// Octets read at once, as by the driver.
pub const READ: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    None,
    Connecting,
    Open,
}

/// One of the engine's connections.
#[derive(Debug)]
pub struct Wire {
    pub link: Link,
    /// Octets that the engine wrote and that have not left.
    pub outgoing: Vec<u8>,
    pub paused: bool,
    pub end_told: bool,
    /// TLS is being agreed on: nothing else is read or written.
    pub handshake: bool,
    /// Until when nothing arrives, and nothing leaves.
    pub deaf_until: Time,
    pub mute_until: Time,
}

impl Wire {
    fn new(link: Link) -> Self {
        Self {
            link,
            outgoing: Vec::new(),
            paused: false,
            end_told: false,
            handshake: false,
            deaf_until: 0,
            mute_until: 0,
        }
    }
}

/// What the spool was asked for and has not answered.
#[derive(Debug)]
pub enum Pending {
    Store(usize),
    Replay(Leg, Range<usize>),
}

pub struct World {
    pub choices: Choices,
    pub session: Session,
    begin: Instant,
    pub now: Time,
    pub wires: [Wire; 3],
    pub customer: Customer,
    pub destination: Peer,
    /// The node that the filter leg leads to.
    pub node: Option<(usize, Peer)>,
    /// It may have a connection ready.
    warm: bool,
    /// In how many cases of 256 the network, the nodes and the spool make trouble.
    pub weather: usize,
    node_temper: usize,
    /// Nodes are to be spoken to in TLS.
    node_tls: bool,
    pub spool: Vec<u8>,
    pub pending: VecDeque<Pending>,
    pub laws: Laws,
    pub transcript: Transcript,
    pub broken: Option<String>,
    pub stopped: bool,
    pub over: bool,
    /// The customer left, or was cut off for what it is: nobody need be told why.
    pub gone: bool,
    refuses_early_talkers: bool,
    pub resets_on_connect_failure: bool,
    pub steps: u64,
}

/// Mostly the usual.
pub fn treatment(choices: &mut Choices) -> Treatment {
    Treatment {
        mode: choices.pick(&[Mode::Enforce, Mode::Enforce, Mode::Enforce, Mode::Shadow, Mode::Bypass]),
        when_unavailable: choices.pick(&[WhenUnavailable::Defer, WhenUnavailable::Accept]),
    }
}

pub fn settings(choices: &mut Choices) -> Settings {
    let second = Duration::from_secs(1);
    Settings {
        hostname: "agent.example".into(),
        ask_recipients: choices.odds(48),
        verdict_budget: 55 * second,
        node_connect_timeout: 3 * second,
        node_reply_timeout: 20 * second,
        straight_after: choices.pick(&[0, 20, 1000, 20_000]),
        max_message_size: choices.pick(&[100_000, 2000, 10_000_000]),
        max_line_length: choices.pick(&[2000, 100]),
        destination_tls: choices.pick(&[DestinationTls::May, DestinationTls::Off]),
        auth_in_clear: choices.odds(128),
        bare_lf: choices.pick(&[BareLf::Normalise, BareLf::Normalise, BareLf::Reject]),
        long_lines: choices.pick(&[LongLines::Reject, LongLines::Pass]),
        max_messages: choices.pick(&[100, 2]),
        min_data_rate: choices.pick(&[0, 100]),
        early_talkers: choices.pick(&[EarlyTalkers::Accept, EarlyTalkers::Accept, EarlyTalkers::Reject]),
        on_connect_failure: choices.pick(&[OnConnectFailure::Reply, OnConnectFailure::Reset]),
        max_recipients: choices.pick(&[3, 100]),
        max_errors: choices.pick(&[20, 5]),
        connect_timeout: 30 * second,
        reply_timeout: choices.pick(&[300, 300, 20]) * second,
        end_of_data_timeout: 600 * second,
        idle_timeout: choices.pick(&[300, 300, 600]) * second,
        session_timeout: 7200 * second,
    }
}

const TEMPERS: &[usize] = &[0, 0, 2, 12, 50];

impl World {
    pub fn new(mut choices: Choices, transcript: Transcript) -> Self {
        let settings = settings(&mut choices);
        let customer_address = CUSTOMER.parse().expect("an address");
        let id = SessionId::new(7);
        let treatment = treatment(&mut choices);
        let mut laws = Laws::new(id.clone(), customer_address, treatment);
        let refuses_early_talkers = settings.early_talkers == EarlyTalkers::Reject;
        let resets_on_connect_failure = settings.on_connect_failure == OnConnectFailure::Reset;
        let begin = Instant::now();
        let destination = "10.2.0.2:25".parse().expect("an address");
        let binary = choices.odds(128);
        let connection = Connection { id, customer: customer_address, destination, binary, treatment };
        let session = Session::new(Arc::new(settings), connection, begin);
        let mut keywords = vec!["PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8"];
        keywords.truncate(4 - choices.below(5));
        if choices.odds(160) {
            keywords.push("CHUNKING");
        }
        if choices.odds(128) {
            keywords.extend([
                "STARTTLS",
                "BINARYMIME",
                "DSN",
                "LIMITS MAILMAX=5",
                "AUTH PLAIN LOGIN",
                "XCLIENT ADDR",
                "X-NEW",
            ]);
        }
        laws.starttls_offered = keywords.contains(&"STARTTLS");
        let destination = Peer::new('D', choices.pick(TEMPERS), keywords);
        let customer = Customer::new(choices.pick(TEMPERS), &mut choices);
        let node_tls = choices.odds(64);
        let (weather, node_temper) = (choices.pick(&[0, 0, 1, 4, 16]), choices.pick(TEMPERS));
        Self {
            choices,
            session,
            begin,
            now: 0,
            wires: [Wire::new(Link::Open), Wire::new(Link::None), Wire::new(Link::None)],
            customer,
            destination,
            node: None,
            warm: false,
            weather,
            node_temper,
            node_tls,
            spool: Vec::new(),
            pending: VecDeque::new(),
            laws,
            transcript,
            broken: None,
            stopped: false,
            over: false,
            gone: false,
            refuses_early_talkers,
            resets_on_connect_failure,
            steps: 0,
        }
    }

    pub fn wire(&mut self, leg: Leg) -> &mut Wire {
        &mut self.wires[leg as usize]
    }

    /// The engine's deadline, rounded up.
    pub fn deadline(&self) -> Option<Time> {
        let due = self.session.deadline()?.saturating_duration_since(self.begin);
        Some(Time::try_from(due.as_micros().div_ceil(1000)).unwrap_or(Time::MAX))
    }

    pub fn must(&mut self, law: Result<(), String>) {
        if let Err(broken) = law
            && self.broken.is_none()
        {
            self.transcript.note(self.now, &format!("BROKEN: {broken}"));
            self.broken = Some(broken);
        }
    }

    pub fn handle(&mut self, input: Input<'_>) {
        let now = self.begin + Duration::from_millis(self.now);
        self.session.handle(input, now);
    }

    /// Performs what the engine says.
    pub fn perform(&mut self) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Write(leg, octets) => self.write(leg, &octets),
                Output::Connect(leg) => self.connect(leg),
                Output::ChooseNode { tried, .. } => self.choose(&tried),
                Output::Abort(leg) => self.drop_leg(leg, "aborts"),
                Output::Close(leg) => self.close(leg),
                Output::Keep(announced) => self.keep_node(&announced),
                Output::PauseRead(leg) => self.wire(leg).paused = true,
                Output::ResumeRead(leg) => self.wire(leg).paused = false,
                Output::NewSpool => {
                    self.drop_spool();
                    let law = self.laws.begins();
                    self.must(law);
                }
                Output::DropSpool => self.drop_spool(),
                Output::Store(octets) => {
                    self.spool.extend_from_slice(&octets);
                    self.pending.push_back(Pending::Store(octets.len()));
                }
                Output::Replay(leg, range) => self.replay(leg, &range),
                Output::StartTls(leg) => self.wire(leg).handshake = true,
                // Nothing comes of them.
                Output::Mirror(_) | Output::Report { .. } => {}
                Output::Noticed(notice) => self.noticed(notice),
                Output::Log(record) => {
                    self.transcript.note(
                        self.now,
                        &format!(
                            "log {} {:?} {:?} {:?}",
                            record.id, record.verdict, record.outcome, record.failure
                        ),
                    );
                    let in_step = self.destination.in_step;
                    let gone = self.destination.mouth.has_ended();
                    let law = self.laws.logged(*record, in_step, gone);
                    self.must(law);
                }
            }
        }
    }

    fn drop_spool(&mut self) {
        self.spool.clear();
        self.pending.clear();
    }

    fn noticed(&mut self, notice: Notice) {
        self.transcript.note(self.now, &format!("{notice:?}"));
        self.gone |= match notice {
            Notice::NotSmtp => true,
            Notice::EarlyTalker => self.refuses_early_talkers,
            Notice::MaskedBanner | Notice::WantedTls => false,
        };
    }

    fn write(&mut self, leg: Leg, octets: &[u8]) {
        let handshake = self.wire(leg).handshake;
        self.must(ensure(!handshake, || "written in clear into a handshake".into()));
        if leg == Leg::Destination {
            self.laws.written_to_destination(octets);
        }
        // What is said to nobody is not said.
        if leg == Leg::Customer && self.wire(leg).link != Link::None {
            self.transcript.said("S", self.now, octets);
            let answered = Some(self.destination.answered.as_slice()).filter(|_| self.destination.in_step);
            let law = self.laws.customer_heard(octets, answered);
            self.must(law);
        }
        if self.wire(leg).link != Link::None {
            self.wire(leg).outgoing.extend_from_slice(octets);
        }
    }

    fn replay(&mut self, leg: Leg, range: &Range<u64>) {
        let range = usize::try_from(range.start).unwrap_or(usize::MAX)
            ..usize::try_from(range.end).unwrap_or(usize::MAX);
        if range.start >= range.end || range.end > self.spool.len() {
            self.must(Err(format!("replay of {range:?} of {}", self.spool.len())));
            return;
        }
        self.pending.push_back(Pending::Replay(leg, range));
    }

    fn choose(&mut self, tried: &[NodeId]) {
        if self.node_temper > 0 && self.choices.odds(self.weather) {
            self.transcript.note(self.now, "all nodes are busy");
            self.laws.reached = true;
            return self.handle(Input::NotAsked(Failure::FilterBusy));
        }
        let probe_refused = self.choices.odds(self.node_temper);
        let node = (0..NODES).find(|node| !tried.contains(&NodeId(*node)));
        let candidate = node.map(|node| Candidate { node: NodeId(node), probe_refused, tls: self.node_tls });
        self.node = None;
        if let Some(node) = node {
            let (temper, keywords) = self.node_character();
            self.node = Some((node, Peer::new('F', temper, keywords)));
            self.warm = true;
        }
        self.handle(Input::Chosen(candidate));
    }

    fn node_character(&mut self) -> (usize, Vec<&'static str>) {
        const ALL: &str = "XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT";
        const FORWARD: &str = "XFORWARD NAME ADDR PORT PROTO HELO SOURCE IDENT";
        if self.node_temper == 0 {
            let chunks = self.choices.pick(&["CHUNKING", "HELP"]);
            let [xclient, xforward] =
                self.choices.pick(&[[ALL, "XFORWARD IDENT"], ["HELP", FORWARD], [ALL, FORWARD]]);
            let again = self.choices.pick(&[REPEATED, "HELP"]);
            let common = ["PIPELINING", "SMTPUTF8", "BINARYMIME", "STARTTLS"];
            return (0, [&common[..], &[xclient, xforward, chunks, again]].concat());
        }
        let lists: &[&[&str]] = &[
            &["PIPELINING", "SMTPUTF8", ALL, "XFORWARD IDENT"],
            &["PIPELINING", "CHUNKING", REPEATED, ALL, "XFORWARD IDENT", "STARTTLS"],
            &[REPEATED, ALL],
            &["PIPELINING", "CHUNKING", "BINARYMIME", "STARTTLS", ALL, "XFORWARD IDENT"],
            &[ALL, "CHUNKING", "STARTTLS"],
            &[ALL, "8BITMIME"],
            &["SIZE 5", ALL, "XFORWARD NAME IDENT"],
            &["PIPELINING", "SMTPUTF8", FORWARD, "STARTTLS"],
            &["XFORWARD ADDR HELO", "CHUNKING"],
            &["PIPELINING", "XCLIENT NAME PORT", "XFORWARD IDENT SOURCE"],
            &["PIPELINING", "XCLIENT NAME PORT"],
            &["PIPELINING"],
        ];
        (self.choices.pick(&[self.node_temper, 0]), self.choices.pick(lists).to_vec())
    }

    fn connect(&mut self, leg: Leg) {
        self.drop_leg(leg, "drops");
        if leg == Leg::Filter && std::mem::take(&mut self.warm) && self.greeted() {
            return;
        }
        *self.wire(leg) = Wire::new(Link::Connecting);
        match (leg, &mut self.node) {
            (Leg::Destination, _) => self.destination.connect(),
            (Leg::Filter, Some((_, node))) => node.connect(),
            _ => {}
        }
    }

    /// A connection to the node was kept ready; the node may be about to give it up.
    fn greeted(&mut self) -> bool {
        let Some((number, node)) = &mut self.node else { return false };
        let secured = self.node_tls && node.announces("STARTTLS");
        if secured != self.node_tls || !self.choices.odds(64) {
            return false;
        }
        if secured {
            node.secured();
        }
        if self.choices.odds(self.node_temper * 4) {
            node.unasked(self.now, &mut self.choices);
        }
        let announced = Extensions::from_reply(&Reply::new(250, node.greeting()));
        self.laws.node_was_ready(*number, node);
        *self.wire(Leg::Filter) = Wire::new(Link::Open);
        self.transcript.note(self.now, "a connection to the node was ready");
        self.handle(Input::Greeted(&announced));
        true
    }

    /// The connection comes about, or not.
    pub fn connected(&mut self, leg: Leg) {
        let odds = if leg == Leg::Destination { self.weather } else { self.node_temper };
        if self.choices.odds(odds * 2) {
            let causes = [Cause::Refused, Cause::Unreachable, Cause::TimedOut, Cause::Exhausted];
            let cause = self.choices.pick(&causes);
            self.wire(leg).link = Link::None;
            self.transcript.note(self.now, &format!("{leg:?} cannot be reached: {cause:?}"));
            self.laws.reached |= leg == Leg::Filter && cause == Cause::Exhausted;
            return self.handle(Input::Failed(leg, cause));
        }
        self.wire(leg).link = Link::Open;
        self.transcript.note(self.now, &format!("{leg:?} is connected"));
        match (leg, &mut self.node) {
            (Leg::Destination, _) => self.destination.greet(self.now, &mut self.choices),
            (Leg::Filter, Some((number, node))) => {
                node.greet(self.now, &mut self.choices);
                self.laws.node_connected(*number, node, self.node_tls);
            }
            _ => {}
        }
        self.handle(Input::Connected(leg));
    }

    /// TLS with a peer is there, or not. What it said in clear too early is no part of it.
    pub fn handshake(&mut self, leg: Leg) {
        let early = self.mouth(leg).is_none_or(|mouth| !mouth.is_silent() || mouth.has_ended());
        self.wire(leg).handshake = false;
        if early || self.choices.odds(self.weather * 4) {
            self.transcript.note(self.now, "the handshake fails");
            self.wire(leg).link = Link::None;
            return self.handle(Input::Failed(leg, Cause::Other));
        }
        self.transcript.note(self.now, &format!("{leg:?} is secured"));
        match (leg, &mut self.node) {
            (Leg::Filter, Some((_, node))) => {
                node.secured();
                self.laws.node_secured();
            }
            _ => self.destination.secured(),
        }
        self.handle(Input::Secured(leg, "TLS"));
    }

    /// Octets reached a peer.
    pub fn deliver(&mut self, leg: Leg, octets: &[u8]) {
        let (name, peer) = match leg {
            Leg::Customer => return,
            Leg::Destination => (">D", Some(&mut self.destination)),
            Leg::Filter => (">F", self.node.as_mut().map(|(_, node)| node)),
        };
        self.transcript.said(name, self.now, octets);
        let Some(peer) = peer.filter(|peer| !peer.mouth.has_ended()) else { return };
        let in_step = peer.in_step;
        for understood in peer.feed(octets, self.now, &mut self.choices) {
            let law = match (leg, &understood) {
                (_, Understood::BadLine(line)) => {
                    Err(format!("a bad line was sent: {}", line.escape_ascii()))
                }
                (Leg::Filter, Understood::Command(line)) => self.laws.told_node(line),
                (Leg::Filter, Understood::Message(sent)) => self.laws.judged(sent),
                (_, Understood::Command(line)) => self.laws.passed_on(line, in_step),
                (_, Understood::Message(sent)) => self.laws.arrived(sent),
            };
            self.must(law);
        }
    }

    fn close(&mut self, leg: Leg) {
        // What was said last still leaves.
        let outgoing = std::mem::take(&mut self.wire(leg).outgoing);
        self.deliver(leg, &outgoing);
        let in_data = match leg {
            Leg::Customer => false,
            Leg::Destination => self.destination.is_in_data() && !self.destination.mouth.has_ended(),
            Leg::Filter => self.node.as_ref().is_some_and(|(_, node)| node.is_in_data() && node.in_step),
        };
        if in_data && self.destination.in_step {
            self.must(Err(format!("{leg:?} is closed in an orderly way in the middle of a message")));
        }
        self.drop_leg(leg, "closes");
    }

    /// Another message will be the next on the connection: nothing of this one may be left.
    fn keep_node(&mut self, announced: &Extensions) {
        let unsent = !self.wire(Leg::Filter).outgoing.is_empty();
        self.must(ensure(!unsent, || "a node is kept that was not sent all".into()));
        let Some((_, node)) = &self.node else { return self.must(Err("no node is kept".into())) };
        let done = !node.is_in_data() && node.mouth.is_silent();
        let clean = done || !node.in_step || node.mouth.has_ended();
        let again = node.announces(REPEATED) && announced.has(REPEATED);
        self.must(ensure(clean, || "a node is kept in the middle of a message".into()));
        self.must(ensure(again, || "a node is kept that takes one message only".into()));
        self.drop_leg(Leg::Filter, "keeps");
    }

    fn drop_leg(&mut self, leg: Leg, how: &str) {
        if self.wire(leg).link != Link::None {
            self.transcript.note(self.now, &format!("weir {how} {leg:?}"));
        }
        if leg == Leg::Customer {
            self.laws.customer_closed = true;
        }
        *self.wire(leg) = Wire::new(Link::None);
        self.pending.retain(|pending| !matches!(pending, Pending::Replay(to, _) if *to == leg));
    }

    /// The next time at which anything can happen.
    pub fn next_time(&self) -> Option<Time> {
        let mut times: Vec<Option<Time>> = vec![self.deadline()];
        for leg in LEGS {
            let wire = &self.wires[leg as usize];
            if wire.link == Link::None {
                continue;
            }
            if let Some(mouth) = self.mouth(leg) {
                let arrival = mouth.next(self.now).unwrap_or(self.now).max(wire.deaf_until);
                times.push(Some(arrival));
            }
            times.push(Some(wire.mute_until));
        }
        times.into_iter().flatten().filter(|at| *at > self.now).min()
    }

    pub fn mouth(&self, leg: Leg) -> Option<&super::mouth::Mouth> {
        match leg {
            Leg::Customer => Some(&self.customer.mouth),
            Leg::Destination => Some(&self.destination.mouth),
            Leg::Filter => self.node.as_ref().map(|(_, node)| &node.mouth),
        }
    }

    pub fn mouth_mut(&mut self, leg: Leg) -> Option<&mut super::mouth::Mouth> {
        match leg {
            Leg::Customer => Some(&mut self.customer.mouth),
            Leg::Destination => Some(&mut self.destination.mouth),
            Leg::Filter => self.node.as_mut().map(|(_, node)| &mut node.mouth),
        }
    }

    /// A connection is deaf or mute for a while.
    pub fn stall(&mut self) {
        let leg = self.choices.pick(&LEGS);
        let until = self.now + self.choices.pick(&[1, 15, 60, 299, 650]) * SECOND;
        let mute = self.choices.odds(128);
        self.transcript.note(self.now, &format!("{leg:?} stalls until {until}, mute: {mute}"));
        let wire = self.wire(leg);
        if mute { wire.mute_until = until } else { wire.deaf_until = until }
    }
}
