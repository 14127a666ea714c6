//! Customers' mail servers, many at a time, each of which tries every message until it is acknowledged or refused.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weir_tests::lab::Family;

use crate::customer::{Heard, Route, Session, Style};
use crate::message::{Digest, Message, Try};
use crate::stage::customers;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A session is left after so many messages, at the most.
const MESSAGES_A_SESSION: u32 = 12;

/// A try that was not the last one and left open whether the message arrived, and when it was made.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) number: u32,
    pub(crate) heard: Heard,
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
}

/// What became of one message, as its customer knows it.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) message: usize,
    pub(crate) to_be_refused: bool,
    pub(crate) digest: u64,
    pub(crate) size: u64,
    /// The last try, and what it brought. `None`: there was no time left.
    pub(crate) last: Option<(u32, Heard)>,
    pub(crate) deferred: u32,
    pub(crate) lost: u32,
    pub(crate) open: Vec<Open>,
}

pub(crate) struct Load {
    pub(crate) seed: u64,
    pub(crate) messages: usize,
    pub(crate) start: Instant,
    next: AtomicUsize,
    pub(crate) done: AtomicUsize,
    pub(crate) refused: AtomicUsize,
    pub(crate) tried_again: AtomicUsize,
    sent: Mutex<Vec<Sent>>,
    /// No time is left.
    pub(crate) over: AtomicBool,
}

impl Load {
    pub(crate) fn new(seed: u64, messages: usize) -> Self {
        Self {
            seed,
            messages,
            start: Instant::now(),
            next: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            tried_again: AtomicUsize::new(0),
            sent: Mutex::default(),
            over: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Relaxed) >= self.messages || self.over.load(Relaxed)
    }

    pub(crate) fn sent(self) -> Vec<Sent> {
        self.sent.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// One customer's server, to the end. Runs in the customers' network.
    pub(crate) fn work(&self, worker: usize) {
        let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(worker as u64));
        let mut session = Connection::new(worker);
        let mut sent = Vec::new();
        while !self.over.load(Relaxed) {
            let message = self.next.fetch_add(1, Relaxed);
            if message >= self.messages {
                break;
            }
            sent.push(self.deliver(message, &mut session, &mut random));
            self.done.fetch_add(1, Relaxed);
        }
        session.close();
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).append(&mut sent);
    }

    fn deliver(&self, number: usize, session: &mut Connection, random: &mut StdRng) -> Sent {
        let message = Message::new(self.seed, number);
        let mut sent = Sent {
            message: number,
            to_be_refused: message.to_be_refused,
            digest: Digest::of(&message.content),
            size: message.content.len() as u64,
            last: None,
            deferred: 0,
            lost: 0,
            open: Vec::new(),
        };
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            if self.over.load(Relaxed) {
                break;
            }
            let began = self.start.elapsed();
            let heard = session.send(Try { message: number, number: attempt }, &message.content, random);
            if heard.is_final() {
                if matches!(heard, Heard::Refused(_)) {
                    self.refused.fetch_add(1, Relaxed);
                }
                sent.last = Some((attempt, heard));
                break;
            }
            self.tried_again.fetch_add(1, Relaxed);
            if heard.leaves_open() {
                let ended = self.start.elapsed();
                sent.open.push(Open { number: attempt, heard: heard.clone(), began, ended });
            }
            match heard {
                Heard::Deferred { .. } => sent.deferred += 1,
                _ => sent.lost += 1,
            }
            thread::sleep(pause.mul_f64(random.random_range(0.5..1.5)));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        sent
    }
}

/// One customer's connection, opened when it is needed.
struct Connection {
    routes: [(IpAddr, SocketAddr); 2],
    session: Option<(Session, u32)>,
}

impl Connection {
    fn new(worker: usize) -> Self {
        let route = |family: Family| {
            let customers = customers(family);
            (customers[worker % customers.len()], SocketAddr::new(family.destination(), 25))
        };
        Self { routes: Family::BOTH.map(route), session: None }
    }

    fn open(&mut self, random: &mut StdRng) -> anyhow::Result<(Session, u32)> {
        // IPv6 customers have two addresses here, so they get the smaller part.
        let (from, to) = self.routes[usize::from(random.random_range(0..8) == 0)];
        let style = match random.random_range(0..4) {
            0 => Style::Plain,
            1 => Style::Chunked,
            _ => Style::Pipelined,
        };
        let route = Route {
            from,
            to,
            connect_patience: Duration::from_secs(4),
            // Longer than weir takes at the most, or a try that is given up would be delivered after all.
            patience: Duration::from_secs(50),
            xclient: false,
        };
        Ok((Session::open(route, style)?, random.random_range(1..=MESSAGES_A_SESSION)))
    }

    fn send(&mut self, by: Try, content: &[u8], random: &mut StdRng) -> Heard {
        let (mut session, left) = match self.session.take().map_or_else(|| self.open(random), Ok) {
            Ok(open) => open,
            Err(error) => return Heard::Lost { text: format!("{error:#}"), after_end: false },
        };
        let heard = session.send(by, content);
        if left > 1 && !heard.ends_session() {
            self.session = Some((session, left - 1));
        } else if !matches!(heard, Heard::Lost { .. }) {
            session.quit();
        }
        heard
    }

    fn close(self) {
        if let Some((session, _)) = self.session {
            session.quit();
        }
    }
}
