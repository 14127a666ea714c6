//! A scanner with its limits.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::breaker::{Breaker, Change, Leave, Rule, State};
use super::line::Line;
use super::{Cause, Sample, ScanError, Scanned, Scanner};
use crate::message::Message;

/// Who has begun to wait stays in line for so many times the limit: the estimate was wrong, and he is nearer to his turn than
/// who comes after him.
const PATIENCE: u32 = 3;

/// What a scanner may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Octets of a body that are shown to it.
    pub max_size: u64,
    /// What becomes of larger ones.
    pub oversize: Oversize,
    /// Messages at a time.
    pub concurrency: usize,
    /// Who would wait longer, as far as can be told, is sent on at once.
    pub max_wait: Duration,
    /// For one scan.
    pub timeout: Duration,
    pub breaker: Rule,
}

/// What becomes of a message that is larger than the scanner is to see.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Oversize {
    /// Its beginning is scanned. What is found there counts; what is not found may still be in the rest.
    #[default]
    Head,
    /// It is not scanned.
    Skip,
}

#[derive(Debug)]
pub struct Limited<S> {
    name: String,
    scanner: S,
    bounds: Bounds,
    turns: Semaphore,
    standing: Mutex<Standing>,
    tally: Tally,
}

/// What is known of the scanner now.
#[derive(Debug)]
struct Standing {
    line: Line,
    breaker: Breaker,
}

#[derive(Debug, Default)]
struct Tally {
    scanned: AtomicU64,
    heads: AtomicU64,
    too_big: AtomicU64,
    busy: AtomicU64,
    timed_out: AtomicU64,
    failed: AtomicU64,
    breaker_open: AtomicU64,
}

/// Messages by what became of their scan, and how the scanner is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Messages for which it was wanted: the sum of the next seven.
    pub asked: u64,
    pub scanned: u64,
    /// Larger ones, of which the beginning was scanned.
    pub heads: u64,
    pub too_big: u64,
    pub busy: u64,
    pub timed_out: u64,
    pub failed: u64,
    pub breaker_open: u64,
    /// Now.
    pub waiting: usize,
    pub running: usize,
    /// How long a scan takes.
    pub expected_ms: u64,
    /// `closed`, `open` or `trial`.
    pub breaker: &'static str,
}

impl<S: Scanner> Limited<S> {
    pub fn new(name: impl Into<String>, scanner: S, bounds: Bounds) -> Self {
        let turns = Semaphore::new(bounds.concurrency.min(Semaphore::MAX_PERMITS));
        let standing =
            Standing { line: Line::new(bounds.concurrency), breaker: Breaker::new(bounds.breaker) };
        Self {
            name: name.into(),
            scanner,
            bounds,
            turns,
            standing: Mutex::new(standing),
            tally: Tally::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Tally { scanned, heads, too_big, busy, timed_out, failed, breaker_open } = &self.tally;
        let asked = [scanned, heads, too_big, busy, timed_out, failed, breaker_open].map(of).iter().sum();
        let standing = self.standing();
        let expected = standing.line.expected(Instant::now());
        Counts {
            asked,
            scanned: of(scanned),
            heads: of(heads),
            too_big: of(too_big),
            busy: of(busy),
            timed_out: of(timed_out),
            failed: of(failed),
            breaker_open: of(breaker_open),
            waiting: standing.line.waiting(),
            running: standing.line.running(),
            expected_ms: u64::try_from(expected.as_millis()).unwrap_or(u64::MAX),
            breaker: match standing.breaker.state() {
                State::Closed => "closed",
                State::Open(_) => "open",
                State::Trial => "trial",
            },
        }
    }

    /// Scans a message, or says why not, before `until`.
    pub async fn scan(&self, message: &Message, until: Instant) -> Scanned<S::Found> {
        let too_big = message.body.size() > self.bounds.max_size;
        let result = if too_big && self.bounds.oversize == Oversize::Skip {
            Err(Cause::TooBig)
        } else {
            self.try_scan(message, until).await
        };
        let (counter, scanned) = match result {
            Ok(found) if too_big => (&self.tally.heads, Scanned::Partly(found)),
            Ok(found) => (&self.tally.scanned, Scanned::Found(found)),
            Err(cause) => (self.tally.of(cause), Scanned::Unscanned(cause)),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        scanned
    }

    async fn try_scan(&self, message: &Message, until: Instant) -> Result<S::Found, Cause> {
        let told = |cause: &dyn fmt::Display, result: Cause| {
            warn!(id = message.transaction.id, scanner = self.name, %cause, "message not scanned");
            result
        };
        let closed = |_| {
            debug!(
                id = message.transaction.id,
                scanner = self.name,
                "message not scanned: the scanner is left alone"
            );
            Cause::BreakerOpen
        };
        if self.standing().breaker.is_shut(Instant::now()) {
            return Err(closed(()));
        }
        let _turn = self.turn(until).await.map_err(|cause| told(&cause, Cause::Busy))?;
        // It may have opened while this one waited.
        let work = Work::begin(self).map_err(closed)?;
        let limit = self.bounds.timeout.min(until.saturating_duration_since(Instant::now()));
        let sample = Sample::new(message, self.bounds.max_size);
        match timeout(limit, self.scanner.scan(sample)).await {
            Ok(Ok(found)) => {
                work.answered();
                Ok(found)
            }
            Ok(Err(cause)) => Err(told(&cause, work.refused(&cause))),
            Err(_) => {
                // Whoever had less time than he should have says nothing against the scanner.
                if limit < self.bounds.timeout {
                    work.given_up();
                } else {
                    work.failed(true);
                }
                Err(told(&format_args!("no answer within {limit:?}"), Cause::TimedOut))
            }
        }
    }

    /// A turn, or why there is none in time.
    async fn turn(&self, until: Instant) -> Result<SemaphorePermit<'_>, String> {
        let now = Instant::now();
        let waiter = {
            let mut standing = self.standing();
            let (estimate, expected) = (standing.line.estimate(now), standing.line.expected(now));
            let left = until.saturating_duration_since(now);
            if estimate > self.bounds.max_wait {
                return Err(format!("would wait {estimate:.1?}, more than {:?}", self.bounds.max_wait));
            }
            if left.is_zero() || estimate + expected > left {
                return Err(format!(
                    "would take {:.1?}, of the verdict's time {left:.1?} are left",
                    estimate + expected
                ));
            }
            standing.line.enters();
            // There has to be time for the scan after it.
            Waiter { limited: self, limit: (self.bounds.max_wait * PATIENCE).min(left - expected) }
        };
        let limit = waiter.limit;
        match timeout(limit, self.turns.acquire()).await {
            Ok(turn) => turn.map_err(|cause| cause.to_string()),
            Err(_) => Err(format!("no turn within {limit:.1?}")),
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn of(&self, cause: Cause) -> &AtomicU64 {
        match cause {
            // Nobody is asked who is not there.
            Cause::NotConfigured
            | Cause::Privacy
            | Cause::Allowed
            | Cause::Map
            | Cause::Bounce
            | Cause::Failed => &self.failed,
            Cause::TooBig => &self.too_big,
            Cause::Busy => &self.busy,
            Cause::TimedOut => &self.timed_out,
            Cause::BreakerOpen => &self.breaker_open,
        }
    }
}

/// A message in line; it leaves it however it ends.
struct Waiter<'l, S: Scanner> {
    limited: &'l Limited<S>,
    limit: Duration,
}

impl<S: Scanner> Drop for Waiter<'_, S> {
    fn drop(&mut self) {
        self.limited.standing().line.leaves();
    }
}

/// A message that is with the scanner, until something came of it.
struct Work<'l, S: Scanner> {
    limited: &'l Limited<S>,
    scan: u64,
    leave: Leave,
    over: bool,
}

impl<'l, S: Scanner> Work<'l, S> {
    fn begin(limited: &'l Limited<S>) -> Result<Self, ()> {
        let now = Instant::now();
        let mut standing = limited.standing();
        let leave = standing.breaker.enter(now).ok_or(())?;
        let scan = standing.line.begins(now);
        Ok(Self { limited, scan, leave, over: false })
    }

    fn answered(mut self) {
        let change = self.end(true, |breaker, _| breaker.answered());
        if change == Change::Closed {
            info!(scanner = self.limited.name, "the scanner answers again");
        }
    }

    fn failed(mut self, measured: bool) {
        let leave = self.leave;
        let change = self.end(measured, |breaker, now| breaker.failed(leave, now));
        if change == Change::Opened {
            let Rule { failures, pause } = self.limited.bounds.breaker;
            warn!(
                scanner = self.limited.name,
                failures,
                pause_seconds = pause.as_secs(),
                "the scanner failed several times in a row, or when it was tried again: it is not asked for a while"
            );
        }
    }

    /// An error that is the message's own is none of the scanner's: nobody shuts it for others by what he sends.
    fn refused(self, cause: &ScanError) -> Cause {
        match cause {
            ScanError::Connect(_) | ScanError::Io(_) | ScanError::Answer(_) => {
                self.failed(false);
                Cause::Failed
            }
            ScanError::Refused(_) => {
                self.answered();
                Cause::Failed
            }
            ScanError::TooBig(_) => {
                self.answered();
                Cause::TooBig
            }
        }
    }

    fn given_up(self) {
        drop(self);
    }

    fn end(&mut self, measured: bool, told: impl FnOnce(&mut Breaker, Instant) -> Change) -> Change {
        let now = Instant::now();
        self.over = true;
        let mut standing = self.limited.standing();
        standing.line.ends(self.scan, now, measured);
        told(&mut standing.breaker, now)
    }
}

impl<S: Scanner> Drop for Work<'_, S> {
    fn drop(&mut self) {
        if !self.over {
            let leave = self.leave;
            self.end(false, |breaker, now| {
                breaker.given_up(leave, now);
                Change::None
            });
        }
    }
}
