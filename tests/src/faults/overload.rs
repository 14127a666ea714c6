//! One customer who offers ten times what the nodes can judge, beside fifty who send a message a second each.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use weir_tests::components::{Backend, WeirAgent};
use weir_tests::lab::{Family, Lab};

use crate::customer::{Heard, Route, Session, Style};
use crate::message::Try;
use crate::report::Progress;
use crate::stage::{Setting, Stage};

/// Two nodes, five scans at a time on each, a tenth of a second a scan: a hundred messages a second.
const SCAN: Duration = Duration::from_millis(100);
const SCANS_AT_A_TIME: usize = 5;
const CAPACITY: u32 = 100;
const SMALL_CUSTOMERS: usize = 50;
const PACE: Duration = Duration::from_secs(1);
/// Connections that the large customer has at a time, as many as he needs to offer ten times the capacity.
const LARGE_CONNECTIONS: u32 = 800;
const CONTENT: &[u8] = b"Subject: one of many\r\n\r\nA line.\r\n";

/// What the small customers had.
#[derive(Debug, Default)]
struct Phase {
    sent: usize,
    judged: usize,
    /// From the first packet to the last answer, sorted.
    times: Vec<Duration>,
    other: Vec<String>,
}

impl Phase {
    fn p95(&self) -> Duration {
        self.times.get(self.times.len() * 95 / 100).copied().unwrap_or_default()
    }

    fn share(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let share = self.judged as f64 / self.sent.max(1) as f64;
        share
    }
}

#[derive(Debug)]
pub(crate) struct Measured {
    alone: Phase,
    beside: Phase,
    offered: usize,
    taken: usize,
    counters: Value,
    last: Duration,
}

impl Measured {
    /// At least 99 % judged, and p95 at most twice what it is alone.
    pub(crate) fn is_good(&self) -> bool {
        self.beside.share() >= 0.99 && self.beside.p95() <= self.alone.p95() * 2
    }

    pub(crate) fn text(&self) -> String {
        let phase = |name: &str, phase: &Phase| {
            format!(
                "{name}: {} messages of 50 customers, {:.1} % judged, p95 {} ms {:?}\n",
                phase.sent,
                phase.share() * 100.0,
                phase.p95().as_millis(),
                phase.other.first()
            )
        };
        format!(
            "capacity: {CAPACITY} messages a second\n{}{}the large customer offered {} a second, {} a second were taken\n\
             the agent counted: {}\n{}\n",
            phase("alone", &self.alone),
            phase("beside the large customer", &self.beside),
            self.offered as u64 / self.last.as_secs().max(1),
            self.taken as u64 / self.last.as_secs().max(1),
            self.counters,
            if self.is_good() { "within bounds" } else { "NOT within bounds (99 %, twice the p95)" }
        )
    }

    pub(crate) fn json(&self) -> Value {
        let phase = |phase: &Phase| {
            let p95 = u64::try_from(phase.p95().as_millis()).unwrap_or(u64::MAX);
            json!({"sent": phase.sent, "judged": phase.judged, "p95_ms": p95, "other": phase.other})
        };
        json!({
            "good": self.is_good(),
            "alone": phase(&self.alone),
            "beside": phase(&self.beside),
            "large_offered": self.offered,
            "large_taken": self.taken,
            "counters": self.counters,
        })
    }
}

pub(crate) fn run(
    lab: &Lab,
    backend: Backend,
    last: Duration,
    relay_lines: &str,
    progress: &Progress,
) -> Result<Measured> {
    let mut setting = Setting::new(backend);
    (setting.scan, setting.scans_at_a_time) = (SCAN, SCANS_AT_A_TIME);
    setting.node_settings = "max_in_flight=5";
    setting.relay_lines = relay_lines.into();
    let stage = Stage::set(lab, &setting)?;
    progress.say("fifty customers alone");
    let alone = small_customers(lab, last)?;
    progress.say("and beside the large one");
    let over = AtomicBool::new(false);
    let (offered, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let beside = thread::scope(|scope| {
        let start = Instant::now();
        for connection in 0..LARGE_CONNECTIONS {
            let (over, offered, taken) = (&over, &offered, &taken);
            scope.spawn(move || {
                lab.customer.in_network(|| {
                    large(connection, start, over, offered, taken);
                    Ok(())
                })
            });
        }
        let beside = small_customers(lab, last);
        over.store(true, Relaxed);
        beside
    })?;
    let counters = WeirAgent::status(&lab.gateway)?["counters"].clone();
    drop(stage);
    let (offered, taken) = (offered.into_inner(), taken.into_inner());
    Ok(Measured { alone, beside, offered, taken, counters, last })
}

fn small_customers(lab: &Lab, last: Duration) -> Result<Phase> {
    let phase = Mutex::new(Phase::default());
    thread::scope(|scope| {
        let customers: Vec<_> = (0..SMALL_CUSTOMERS)
            .map(|number| {
                let phase = &phase;
                let work = move || {
                    small(number, last, phase);
                    Ok(())
                };
                scope.spawn(move || lab.customer.in_network(work))
            })
            .collect();
        for customer in customers {
            customer.join().map_err(|_| anyhow!("a customer panicked"))??;
        }
        anyhow::Ok(())
    })?;
    let mut phase = phase.into_inner().unwrap_or_else(PoisonError::into_inner);
    phase.times.sort();
    Ok(phase)
}

/// A message a second, each in a session of its own, whatever became of the last.
fn small(number: usize, last: Duration, phase: &Mutex<Phase>) {
    let address = [10, 1, 1, u8::try_from(number).unwrap_or(0) + 1];
    let start = Instant::now();
    let offset = PACE.mul_f64(f64::from(address[3]) / 50.0);
    for turn in 0.. {
        let at = PACE * turn + offset;
        if at >= last {
            break;
        }
        thread::sleep(at.saturating_sub(start.elapsed()));
        let began = Instant::now();
        let heard = one(address.into());
        let took = began.elapsed();
        let mut phase = phase.lock().unwrap_or_else(PoisonError::into_inner);
        phase.sent += 1;
        match heard {
            Ok(Heard::Acknowledged) => phase.judged += 1,
            Ok(other) => phase.other.push(format!("{other:?}")),
            Err(error) => phase.other.push(error),
        }
        phase.times.push(took);
    }
}

/// One of the large customer's connections, at its part of the pace (a little more than ten times the capacity: some tries
/// come late); what is turned away is offered again.
fn large(connection: u32, start: Instant, over: &AtomicBool, offered: &AtomicUsize, taken: &AtomicUsize) {
    let pace = Duration::from_secs(LARGE_CONNECTIONS.into()) / (11 * CAPACITY);
    let mut at = pace.mul_f64(f64::from(connection) / f64::from(LARGE_CONNECTIONS));
    while !over.load(Relaxed) {
        thread::sleep(at.saturating_sub(start.elapsed()));
        at = (at + pace).max(start.elapsed());
        offered.fetch_add(1, Relaxed);
        if one(Family::V4.customer()) == Ok(Heard::Acknowledged) {
            taken.fetch_add(1, Relaxed);
        }
    }
}

fn one(from: IpAddr) -> Result<Heard, String> {
    let route = Route {
        from,
        to: SocketAddr::new(Family::V4.destination(), 25),
        connect_patience: Duration::from_secs(10),
        patience: Duration::from_secs(60),
        xclient: false,
    };
    let mut session = Session::open(route, Style::Pipelined).map_err(|error| format!("{error:#}"))?;
    let heard = session.send(Try { message: 0, number: 1 }, CONTENT);
    if !heard.ends_session() {
        session.quit();
    }
    Ok(heard)
}
