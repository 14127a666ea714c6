//! A scanner with its limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use super::{Cause, Sample, Scanned, Scanner};
use crate::message::Message;

/// What a scanner may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub max_size: u64,
    pub concurrency: usize,
    pub max_wait: Duration,
    pub timeout: Duration,
}

#[derive(Debug)]
pub struct Limited<S> {
    name: &'static str,
    scanner: S,
    bounds: Bounds,
    turns: Semaphore,
    scanned: AtomicU64,
    too_big: AtomicU64,
    busy: AtomicU64,
    timed_out: AtomicU64,
    failed: AtomicU64,
}

/// Messages by what became of their scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub scanned: u64,
    pub too_big: u64,
    pub busy: u64,
    pub timed_out: u64,
    pub failed: u64,
}

impl<S: Scanner> Limited<S> {
    pub fn new(name: &'static str, scanner: S, bounds: Bounds) -> Self {
        let turns = Semaphore::new(bounds.concurrency.min(Semaphore::MAX_PERMITS));
        Self {
            name,
            scanner,
            bounds,
            turns,
            scanned: AtomicU64::new(0),
            too_big: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn counts(&self) -> Counts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            scanned: of(&self.scanned),
            too_big: of(&self.too_big),
            busy: of(&self.busy),
            timed_out: of(&self.timed_out),
            failed: of(&self.failed),
        }
    }

    pub async fn scan(&self, message: &Message) -> Scanned<S::Found> {
        let result = self.try_scan(message).await;
        let counter = match &result {
            Ok(_) | Err(Cause::NotConfigured) => &self.scanned,
            Err(Cause::TooBig) => &self.too_big,
            Err(Cause::Busy) => &self.busy,
            Err(Cause::TimedOut) => &self.timed_out,
            Err(Cause::Failed) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        match result {
            Ok(found) => Scanned::Found(found),
            Err(cause) => Scanned::Unscanned(cause),
        }
    }

    async fn try_scan(&self, message: &Message) -> Result<S::Found, Cause> {
        let transaction = &message.transaction;
        if transaction.findings.size > self.bounds.max_size {
            return Err(Cause::TooBig);
        }
        let told = |cause: &dyn std::fmt::Display, result: Cause| {
            warn!(id = transaction.id, scanner = self.name, %cause, "message not scanned");
            result
        };
        let Ok(turn) = timeout(self.bounds.max_wait, self.turns.acquire()).await else {
            return Err(told(&format_args!("no turn within {:?}", self.bounds.max_wait), Cause::Busy));
        };
        let _turn = turn.map_err(|cause| told(&cause, Cause::Failed))?;
        let work = async {
            let body = message.body.head(self.bounds.max_size).await?;
            self.scanner.scan(Sample { transaction, body }).await
        };
        match timeout(self.bounds.timeout, work).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(cause)) => Err(told(&cause, Cause::Failed)),
            Err(_) => Err(told(&format_args!("no answer within {:?}", self.bounds.timeout), Cause::TimedOut)),
        }
    }
}
