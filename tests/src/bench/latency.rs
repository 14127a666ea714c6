//! How long a message takes: on one connection, and of messages that come when they come (open loop), whether or not those before
//! them are done.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::stage::{Stage, customers, destination};
use crate::talk::{Talk, message};

const OCTETS: usize = 4096;

/// Messages a second that come in: a load that each way bears.
pub(crate) const COMING: u64 = 400;
/// Who sends them.
const CUSTOMERS: usize = 64;

/// Milliseconds, sorted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// Of a thousand, so many took no longer.
    pub(crate) fn within(&self, per_mille: usize) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get(last * per_mille / 1000).copied().unwrap_or(f64::NAN)
    }
}

/// From MAIL to the reply to the message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latency {
    /// One connection, one message after the other.
    pub(crate) alone: Times,
    /// Each with a connection of its own, from when it came, with the connection's beginning.
    pub(crate) coming: Times,
}

pub(crate) fn measure(stage: &Stage<'_>, time: Duration) -> Result<Latency> {
    let content = message(OCTETS);
    Ok(Latency { alone: alone(stage, &content, time)?, coming: coming(stage, &content, time)? })
}

fn alone(stage: &Stage<'_>, content: &[u8], time: Duration) -> Result<Times> {
    stage.lab.customer.in_network(|| {
        let mut talk = Talk::open(None, destination())?;
        talk.say(b"EHLO customer.test\r\n", 250)?;
        let begun = Instant::now();
        let mut times = Vec::new();
        while begun.elapsed() < time {
            let start = Instant::now();
            talk.send(content)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(Times::new(times))
    })
}

fn coming(stage: &Stage<'_>, content: &[u8], time: Duration) -> Result<Times> {
    let (next, times) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let all = time.as_secs() * COMING;
    let begun = Instant::now();
    let customers = customers();
    let customer = |number: usize| {
        stage.lab.customer.in_network(|| {
            let mut own = Vec::new();
            loop {
                let message = next.fetch_add(1, Relaxed);
                if message >= all {
                    break;
                }
                // It has come by then: when nobody is free to send it, it waits, and that counts.
                let came = begun + Duration::from_micros(message * 1_000_000 / COMING);
                thread::sleep(came.saturating_duration_since(Instant::now()));
                let mut talk = Talk::open(Some(customers[number % customers.len()]), destination())?;
                talk.say(b"EHLO customer.test\r\n", 250)?;
                talk.send(content)?;
                own.push(came.elapsed().as_secs_f64() * 1e3);
                talk.say(b"QUIT\r\n", 221)?;
            }
            times.lock().map_err(|_| anyhow!("a panic"))?.append(&mut own);
            Ok(())
        })
    };
    thread::scope(|scope| -> Result<()> {
        let customer = &customer;
        let started: Vec<_> = (0..CUSTOMERS).map(|number| scope.spawn(move || customer(number))).collect();
        started.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a panic"))?)
    })?;
    Ok(Times::new(times.into_inner().map_err(|_| anyhow!("a panic"))?))
}
