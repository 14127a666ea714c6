//! Scanners, and the limits that hold for all of them: size, number at a time, wait, time-out.

mod limited;
mod received;
pub mod spamd;

use std::time::Duration;

use bytes::Bytes;

use crate::config::Config;
use crate::message::{Message, Transaction};
pub use limited::{Bounds, Counts, Limited};
use spamd::Spamd;

/// A message for a scanner.
#[derive(Debug, Clone)]
pub struct Sample<'m> {
    pub transaction: &'m Transaction,
    pub body: Bytes,
}

/// What a scanner that gives a score found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub score: f64,
    /// Names of the tests that hit, comma-separated.
    pub symbols: String,
}

/// Why a scanner did not answer, or not sensibly.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("answer not understood: {0}")]
    Answer(String),
}

/// A program that looks at a message.
pub trait Scanner: Send + Sync {
    /// What it finds: a score, a virus' name.
    type Found: Send;

    fn scan(&self, sample: Sample<'_>) -> impl Future<Output = Result<Self::Found, ScanError>> + Send;
}

/// The result for one message.
#[derive(Debug, Clone, PartialEq)]
pub enum Scanned<T = Report> {
    Found(T),
    Unscanned(Cause),
}

/// Why a message was not scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    NotConfigured,
    TooBig,
    /// It did not get its turn in time.
    Busy,
    /// The scanner did not finish in time.
    TimedOut,
    /// The scanner or its connection failed.
    Failed,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Self::NotConfigured => "not-configured",
            Self::TooBig => "too-big",
            Self::Busy => "busy",
            Self::TimedOut => "timed-out",
            Self::Failed => "failed",
        }
    }

    /// Whether the scanner should have answered.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Busy | Self::TimedOut | Self::Failed)
    }
}

/// The scanners of this node.
#[derive(Debug, Default)]
pub struct Scanners {
    spamassassin: Option<Limited<Spamd>>,
}

impl Scanners {
    pub fn new(config: &Config) -> Self {
        let spamassassin = config.spamassassin.as_ref().map(|section| {
            let bounds = Bounds {
                max_size: section.max_size,
                concurrency: section.concurrency,
                max_wait: Duration::from_secs(section.max_wait),
                timeout: Duration::from_secs(section.timeout),
            };
            Limited::new("spamassassin", Spamd::new(section.address.clone()), bounds)
        });
        Self { spamassassin }
    }

    pub async fn spamassassin(&self, message: &Message) -> Scanned {
        match &self.spamassassin {
            Some(scanner) => scanner.scan(message).await,
            None => Scanned::Unscanned(Cause::NotConfigured),
        }
    }

    /// What the configured scanners did so far, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, Counts)> {
        self.spamassassin.iter().map(|scanner| (scanner.name(), scanner.counts()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
