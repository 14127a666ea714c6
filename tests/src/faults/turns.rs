//! One of two nodes is killed every two seconds, under load: how many customers see it, through weir and through
//! haproxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use weir_tests::components::{Backend, Haproxy};
use weir_tests::lab::{Family, Lab};

use crate::customer::{Heard, Route, Session, Style};
use crate::message::{Message, Try};
use crate::report::Progress;
use crate::stage::{Setting, Stage, customers};

const EVERY: Duration = Duration::from_secs(2);
/// Within it the node that was killed is started again.
const DEAD: Duration = Duration::from_secs(1);
const CUSTOMERS: usize = 32;
const MESSAGES_A_SESSION: usize = 3;
/// SpamAssassin takes some ten times as long.
const SCAN: Duration = Duration::from_millis(50);

/// What stands between customers and nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Through {
    Weir,
    Haproxy,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    kills: usize,
    sessions: usize,
    messages: usize,
    /// Sessions in which something went wrong, by what.
    errors: BTreeMap<String, usize>,
}

impl Seen {
    pub(crate) fn sessions_with_errors(&self) -> usize {
        self.errors.values().sum()
    }

    pub(crate) fn text(&self, through: Through) -> String {
        let mut text = format!(
            "{through:?}: {} nodes killed, {} sessions, {} messages judged, {} sessions with an error\n",
            self.kills,
            self.sessions,
            self.messages,
            self.sessions_with_errors()
        );
        for (error, count) in &self.errors {
            text += &format!("  {count:>6}  {error}\n");
        }
        text
    }

    pub(crate) fn json(&self, through: Through) -> Value {
        json!({
            "through": format!("{through:?}").to_lowercase(),
            "kills": self.kills,
            "sessions": self.sessions,
            "messages": self.messages,
            "sessions_with_errors": self.sessions_with_errors(),
            "errors": self.errors,
        })
    }
}

/// The load of all customers, and what they saw.
struct Load {
    to: SocketAddr,
    xclient: bool,
    over: AtomicBool,
    sessions: AtomicUsize,
    messages: AtomicUsize,
    errors: Mutex<BTreeMap<String, usize>>,
}

pub(crate) fn run(
    lab: &Lab,
    backend: Backend,
    through: Through,
    last: Duration,
    progress: &Progress,
) -> Result<Seen> {
    let mut setting = Setting::new(backend);
    setting.scan = SCAN;
    setting.agent = through == Through::Weir;
    let mut stage = Stage::set(lab, &setting)?;
    let (_haproxy, to) = match through {
        Through::Weir => (None, SocketAddr::new(Family::V4.destination(), 25)),
        Through::Haproxy => (Some(Haproxy::start(&lab.gateway)?), Haproxy::address()),
    };
    let load = Load {
        to,
        xclient: through == Through::Haproxy,
        over: AtomicBool::new(false),
        sessions: AtomicUsize::new(0),
        messages: AtomicUsize::new(0),
        errors: Mutex::default(),
    };
    let kills = thread::scope(|scope| {
        let customers: Vec<_> = (0..CUSTOMERS)
            .map(|number| {
                let load = &load;
                let work = move || {
                    load.work(number);
                    Ok(())
                };
                scope.spawn(move || lab.customer.in_network(work))
            })
            .collect();
        let killed = kill_by_turns(&mut stage, last, progress, &load);
        load.over.store(true, Relaxed);
        for customer in customers {
            customer.join().map_err(|_| anyhow!("a customer panicked"))??;
        }
        killed
    })?;
    Ok(Seen {
        kills,
        sessions: load.sessions.into_inner(),
        messages: load.messages.into_inner(),
        errors: load.errors.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

fn kill_by_turns(stage: &mut Stage<'_>, last: Duration, progress: &Progress, load: &Load) -> Result<usize> {
    let start = Instant::now();
    let mut kills = 0;
    while start.elapsed() < last {
        let began = Instant::now();
        let node = u8::from(kills % 2 == 1);
        stage.nodes[usize::from(node)].as_mut().context("no node")?.kill()?;
        kills += 1;
        thread::sleep(DEAD);
        stage.start_node(node)?;
        thread::sleep(EVERY.saturating_sub(began.elapsed()));
        progress.log(&format!("{kills} nodes killed, {} sessions", load.sessions.load(Relaxed)));
    }
    Ok(kills)
}

impl Load {
    /// Sessions one after the other; nothing is tried again.
    fn work(&self, customer: usize) {
        let mut number = customer;
        while !self.over.load(Relaxed) {
            self.sessions.fetch_add(1, Relaxed);
            if let Err(error) = self.session(customer, &mut number) {
                // Addresses and ids differ from one to the next.
                let error = error.split(" (").next().unwrap_or_default().to_owned();
                let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
                *errors.entry(error).or_default() += 1;
            }
        }
    }

    fn session(&self, customer: usize, number: &mut usize) -> Result<(), String> {
        let customers = customers(Family::V4);
        let route = Route {
            from: customers[customer % customers.len()],
            to: self.to,
            connect_patience: Duration::from_secs(10),
            patience: Duration::from_secs(60),
            xclient: self.xclient,
        };
        let mut session =
            Session::open(route, Style::Plain).map_err(|error| format!("at connect: {error:#}"))?;
        for _ in 0..MESSAGES_A_SESSION {
            let message = Message::new(0, *number);
            let heard = session.send(Try { message: *number, number: 1 }, &message.content);
            *number += CUSTOMERS;
            match heard {
                Heard::Acknowledged if !message.to_be_refused => {}
                Heard::Refused(text) if message.to_be_refused && text.starts_with("550 5.7.1") => {}
                Heard::Acknowledged => return Err("a message that is refused was taken".into()),
                Heard::Refused(text) | Heard::Deferred { text, .. } | Heard::Lost { text, .. } => {
                    return Err(text);
                }
            }
            self.messages.fetch_add(1, Relaxed);
        }
        session.quit();
        Ok(())
    }
}
