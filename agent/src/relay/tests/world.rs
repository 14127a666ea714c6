//! One session of the engine between a scripted customer, a simulated destination and simulated filter
//! nodes, with a clock that only moves when nothing else can.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server::Server;
use crate::config::{
    BareLf, DestinationTls, EarlyTalkers, LongLines, Mode, OnConnectFailure, WhenUnavailable,
};
use crate::failure::Cause;
use crate::nodes::{Candidate, NodeId};
use crate::relay::mirror::Original;
use crate::relay::record::{Record, SessionId};
use crate::relay::settings::Settings;
use crate::relay::{Connection, Input, Leg, Notice, Output, Session};
use crate::treatment::Treatment;

pub const EHLO: &str = "250-PIPELINING\r\n250-SIZE 1000000\r\n250-STARTTLS\r\n250 8BITMIME";
pub const NODE_EHLO: &str =
    "250-PIPELINING\r\n250-XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT\r\n250 XFORWARD IDENT";

pub const ENFORCE: Treatment = Treatment { mode: Mode::Enforce, when_unavailable: WhenUnavailable::Defer };

pub fn settings() -> Settings {
    let second = Duration::from_secs(1);
    Settings {
        hostname: "agent.example".into(),
        ask_recipients: false,
        verdict_budget: 55 * second,
        node_connect_timeout: 3 * second,
        node_reply_timeout: 20 * second,
        straight_after: 10,
        max_message_size: 100_000,
        max_line_length: 2000,
        destination_tls: DestinationTls::May,
        auth_in_clear: false,
        bare_lf: BareLf::Normalise,
        long_lines: LongLines::Reject,
        max_messages: 10,
        min_data_rate: 0,
        early_talkers: EarlyTalkers::Accept,
        on_connect_failure: OnConnectFailure::Reply,
        max_recipients: 3,
        max_errors: 5,
        connect_timeout: 30 * second,
        reply_timeout: 300 * second,
        end_of_data_timeout: 600 * second,
        idle_timeout: 300 * second,
        session_timeout: 7200 * second,
    }
}

/// How chunks are cut: sizes, taken in turn.
pub type Cuts = Vec<usize>;

pub struct World {
    pub session: Session,
    /// `None`: the destination can't be reached.
    pub destination: Option<Server>,
    /// `None`: that node can't be reached.
    pub nodes: Vec<Option<Server>>,
    node: Option<usize>,
    /// Octets on their way to the engine.
    to_engine: [Vec<u8>; 3],
    /// Octets on their way to a server.
    to_server: [Vec<u8>; 3],
    pub heard: Vec<u8>,
    pub logs: Vec<Record>,
    /// What mirror nodes might be asked.
    pub originals: Vec<Original>,
    pub noticed: Vec<Notice>,
    spool: Vec<u8>,
    cuts: Cuts,
    cut: usize,
    pub now: Instant,
    closed_told: [bool; 3],
    pub customer_closed: bool,
    /// The customer closes its side once everything was sent.
    pub customer_leaves: bool,
    paused: [bool; 3],
    /// Nothing that is written to this leg leaves.
    pub stalled: Option<Leg>,
    /// As `stalled`, once so many octets more have left.
    pub stall_after: Option<(Leg, usize)>,
    /// TLS handshakes begun, and whether they fail.
    pub connections_secured: usize,
    pub handshakes_fail: bool,
    /// The spool cannot take what comes next.
    pub store_fails: bool,
    /// The next connection to a node was kept ready.
    pub warm: bool,
    /// No new connection to a node is made.
    pub dies_when_tired: bool,
    /// Nodes are to be spoken to in TLS.
    pub nodes_in_tls: bool,
    /// What a connection to a server that is not there fails of.
    pub connect_error: Cause,
}

impl World {
    pub fn new(destination: Server, nodes: Vec<Option<Server>>, settings: Settings, cuts: Cuts) -> Self {
        Self::treated(ENFORCE, destination, nodes, settings, cuts)
    }

    pub fn treated(
        treatment: Treatment,
        destination: Server,
        nodes: Vec<Option<Server>>,
        settings: Settings,
        cuts: Cuts,
    ) -> Self {
        let now = Instant::now();
        let connection = Connection {
            id: SessionId::new(0),
            customer: "10.1.0.2:40001".parse().unwrap(),
            destination: "10.2.0.2:25".parse().unwrap(),
            treatment,
            binary: nodes.iter().flatten().all(|node| node.announces("BINARYMIME")),
        };
        let session = Session::new(Arc::new(settings), connection, now);
        Self {
            session,
            destination: Some(destination),
            nodes,
            node: None,
            to_engine: Default::default(),
            to_server: Default::default(),
            heard: Vec::new(),
            logs: Vec::new(),
            originals: Vec::new(),
            noticed: Vec::new(),
            spool: Vec::new(),
            cuts,
            cut: 0,
            now,
            closed_told: [false; 3],
            customer_closed: false,
            customer_leaves: false,
            paused: [false; 3],
            stalled: None,
            stall_after: None,
            connections_secured: 0,
            handshakes_fail: false,
            store_fails: false,
            warm: false,
            dies_when_tired: false,
            nodes_in_tls: false,
            connect_error: Cause::Refused,
        }
    }

    pub fn say(&mut self, octets: &[u8]) -> &mut Self {
        self.to_engine[Leg::Customer as usize].extend_from_slice(octets);
        self
    }

    /// How what is said from now on is cut.
    pub fn set_cuts(&mut self, cuts: Cuts) {
        self.cuts = cuts;
    }

    /// The smallest thing that can happen.
    pub fn one_step(&mut self) {
        self.perform();
        assert!(self.step(), "nothing can happen");
        self.perform();
    }

    /// Until nothing moves. `true` in `wait`: deadlines pass as well.
    pub fn run(&mut self, wait: bool) -> &mut Self {
        for _ in 0..2_000_000 {
            self.perform();
            if self.session.is_over() {
                return self;
            }
            if self.step() {
                continue;
            }
            let Some(deadline) = self.session.deadline().filter(|_| wait) else { return self };
            self.now = deadline;
            self.session.handle(Input::Timeout, self.now);
        }
        panic!("the session goes on for ever");
    }

    /// Lets time pass, deadlines and all.
    pub fn wait(&mut self, time: Duration) -> &mut Self {
        let until = self.now + time;
        while let Some(deadline) = self.session.deadline().filter(|deadline| *deadline <= until) {
            self.now = deadline;
            self.session.handle(Input::Timeout, self.now);
            self.run(false);
        }
        self.now = until;
        self
    }

    fn chunk(&mut self, available: usize) -> usize {
        self.cut += 1;
        self.cuts.get(self.cut % self.cuts.len().max(1)).copied().unwrap_or(usize::MAX).clamp(1, available)
    }

    fn server(&mut self, leg: Leg) -> Option<&mut Server> {
        match leg {
            Leg::Destination => self.destination.as_mut(),
            Leg::Filter => self.node.and_then(|node| self.nodes[node].as_mut()),
            Leg::Customer => None,
        }
    }

    /// Moves one chunk, or tells one end. `false`: nothing to do.
    fn step(&mut self) -> bool {
        for leg in [Leg::Destination, Leg::Filter, Leg::Customer] {
            let index = leg as usize;
            if !self.to_server[index].is_empty() && self.stalled != Some(leg) {
                let mut size = self.chunk(self.to_server[index].len());
                if let Some((_, left)) = self.stall_after.as_mut().filter(|(stalls, _)| *stalls == leg) {
                    size = size.min(*left);
                    *left -= size;
                    if *left == 0 {
                        (self.stalled, self.stall_after) = (Some(leg), None);
                    }
                }
                let octets: Vec<u8> = self.to_server[index].drain(..size).collect();
                let replies = self.server(leg).map(|server| server.feed(&octets)).unwrap_or_default();
                self.to_engine[index].extend_from_slice(&replies);
                self.session.handle(Input::Writable(leg, size), self.now);
                return true;
            }
            if self.paused[index] {
                continue;
            }
            if !self.to_engine[index].is_empty() {
                let size = self.chunk(self.to_engine[index].len());
                let octets: Vec<u8> = self.to_engine[index].drain(..size).collect();
                self.session.handle(Input::Bytes(leg, &octets), self.now);
                return true;
            }
            let closed = match leg {
                Leg::Customer => self.customer_leaves,
                _ => self.server(leg).is_some_and(|server| server.closed),
            };
            if closed && !self.closed_told[index] {
                self.closed_told[index] = true;
                self.session.handle(Input::Closed(leg), self.now);
                return true;
            }
        }
        false
    }

    fn perform(&mut self) {
        let due = self.session.deadline();
        assert!(due.is_none_or(|due| due >= self.now), "a deadline in the past");
        while let Some(output) = self.session.poll() {
            match output {
                Output::Write(Leg::Customer, octets) => {
                    self.heard.extend_from_slice(&octets);
                    self.session.handle(Input::Writable(Leg::Customer, octets.len()), self.now);
                }
                Output::Write(leg, octets) => self.to_server[leg as usize].extend_from_slice(&octets),
                Output::Connect(leg) => self.connect(leg),
                Output::ChooseNode { tried, .. } => {
                    self.node = (0..self.nodes.len()).find(|node| !tried.contains(&NodeId(*node)));
                    let candidate = self.node.map(|node| Candidate {
                        node: NodeId(node),
                        probe_refused: false,
                        tls: self.nodes_in_tls,
                    });
                    self.session.handle(Input::Chosen(candidate), self.now);
                }
                Output::Abort(leg) => self.drop_leg(leg),
                Output::Close(Leg::Customer) => self.customer_closed = true,
                Output::Close(leg) => {
                    let octets = std::mem::take(&mut self.to_server[leg as usize]);
                    if let Some(server) = self.server(leg) {
                        server.feed(&octets);
                    }
                    self.drop_leg(leg);
                }
                Output::Keep(announced) => {
                    assert!(self.to_server[Leg::Filter as usize].is_empty(), "something is still to be said");
                    assert_eq!(self.server(Leg::Filter).map(|node| node.announced()), Some(announced));
                    self.warm = true;
                    self.drop_leg(Leg::Filter);
                }
                Output::PauseRead(leg) => self.paused[leg as usize] = true,
                Output::ResumeRead(leg) => self.paused[leg as usize] = false,
                Output::Mirror(original) => {
                    assert_eq!(original.size(), self.spool.len() as u64, "the whole body is there");
                    self.originals.push(*original);
                }
                Output::NewSpool | Output::DropSpool => self.spool.clear(),
                Output::Store(octets) if self.store_fails => {
                    self.store_fails = false;
                    self.session.handle(Input::StoreFailed(octets.len()), self.now);
                }
                Output::Store(octets) => {
                    self.spool.extend_from_slice(&octets);
                    self.session.handle(Input::Stored(octets.len()), self.now);
                }
                Output::Replay(leg, range) => {
                    let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                    let octets = self.spool[range].to_vec();
                    let size = self.chunk(octets.len());
                    self.session.handle(Input::Spooled(leg, &octets[..size]), self.now);
                }
                Output::Report { .. } => {}
                Output::Noticed(notice) => self.noticed.push(notice),
                Output::StartTls(leg) => self.start_tls(leg),
                Output::Log(record) => self.logs.push(*record),
            }
        }
    }

    /// The handshake, which is not simulated, and its outcome.
    fn start_tls(&mut self, leg: Leg) {
        self.connections_secured += 1;
        if self.handshakes_fail {
            self.drop_leg(leg);
            self.session.handle(Input::Failed(leg, Cause::Other), self.now);
        } else {
            self.session.handle(Input::Secured(leg, "TLS"), self.now);
        }
    }

    fn connect(&mut self, leg: Leg) {
        self.drop_leg(leg);
        let warm = leg == Leg::Filter && std::mem::take(&mut self.warm);
        if let Some(server) = self.server(leg).filter(|_| warm) {
            server.greeted();
            let announced = server.announced();
            return self.session.handle(Input::Greeted(&announced), self.now);
        }
        if let Some(node) = self.node.filter(|_| leg == Leg::Filter && self.dies_when_tired) {
            self.nodes[node] = None;
        }
        match self.server(leg).map(Server::connect) {
            Some(banner) => {
                self.to_engine[leg as usize] = banner;
                self.session.handle(Input::Connected(leg), self.now);
            }
            None => self.session.handle(Input::Failed(leg, self.connect_error), self.now),
        }
    }

    fn drop_leg(&mut self, leg: Leg) {
        self.to_engine[leg as usize].clear();
        self.to_server[leg as usize].clear();
        self.closed_told[leg as usize] = false;
        self.paused[leg as usize] = false;
    }

    pub fn heard(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }

    /// First digits of the codes the customer heard, continuation lines left out.
    pub fn codes(&self) -> Vec<u16> {
        let last_lines = self
            .heard()
            .lines()
            .filter(|line| line.as_bytes().get(3) == Some(&b' '))
            .map(str::to_owned)
            .collect::<Vec<_>>();
        last_lines.iter().map(|line| line[..3].parse().unwrap()).collect()
    }

    pub fn delivered(&self) -> &[Vec<u8>] {
        self.destination.as_ref().map_or(&[], |destination| destination.messages.as_slice())
    }

    pub fn judged(&self, node: usize) -> &[Vec<u8>] {
        self.nodes[node].as_ref().map_or(&[], |node| node.messages.as_slice())
    }
}
