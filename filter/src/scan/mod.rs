//! Scanners, and the limits that hold for all of them: size, number at a time, wait, time-out, and for how long one is left
//! alone that fails.

mod address;
mod breaker;
mod limited;
mod line;
mod received;
mod sample;
mod spamd;

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::message::Message;
pub use address::Address;
pub use breaker::Rule as BreakerRule;
pub use limited::{Bounds, Counts, Limited, Oversize};
pub use sample::Sample;
use spamd::Spamd;

/// What a scanner that gives scores found.
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
    type Found: Send + Sync;

    fn scan(&self, sample: Sample<'_>) -> impl Future<Output = Result<Self::Found, ScanError>> + Send;
}

/// The result for one message.
#[derive(Debug, Clone, PartialEq)]
pub enum Scanned<F = Report> {
    Found(F),
    /// In the beginning of a message that is larger than the scanner is to see.
    Partly(F),
    Unscanned(Cause),
}

impl<F> Scanned<F> {
    /// What was found, in all of the message or in its beginning.
    pub fn found(&self) -> Option<&F> {
        match self {
            Self::Found(found) | Self::Partly(found) => Some(found),
            Self::Unscanned(_) => None,
        }
    }

    /// Why the scanner has not seen all of the message, if it should have.
    pub fn unscanned(&self) -> Option<Cause> {
        match self {
            Self::Found(_) | Self::Unscanned(Cause::NotConfigured) => None,
            Self::Partly(_) => Some(Cause::TooBig),
            Self::Unscanned(cause) => Some(*cause),
        }
    }

    /// The class `unscanned`: what the scanner would have said of the whole is not known.
    pub fn is_unscanned(&self) -> bool {
        self.unscanned().is_some()
    }
}

impl Scanned<Report> {
    /// What a message counts: nothing, where nothing was found out.
    pub fn score(&self) -> f64 {
        self.found().map_or(0.0, |report| report.score)
    }
}

/// Why a scanner has not seen a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    NotConfigured,
    TooBig,
    /// It did not get its turn in time, or would not have.
    Busy,
    /// The scanner did not finish in time.
    TimedOut,
    /// The scanner or its connection failed.
    Failed,
    /// It failed several times in a row, and is left alone for a while.
    BreakerOpen,
}

impl Cause {
    pub fn name(self) -> &'static str {
        match self {
            Self::NotConfigured => "not-configured",
            Self::TooBig => "too-big",
            Self::Busy => "busy",
            Self::TimedOut => "timed-out",
            Self::Failed => "failed",
            Self::BreakerOpen => "breaker-open",
        }
    }

    /// Whether the scanner should have answered.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Busy | Self::TimedOut | Self::Failed | Self::BreakerOpen)
    }
}

/// The scanners of this node.
#[derive(Debug, Default)]
pub struct Scanners {
    spamassassin: Option<Limited<Spamd>>,
    /// For one message, whatever it is waiting for.
    budget: Duration,
}

impl Scanners {
    pub fn new(config: &Config) -> Self {
        let spamassassin = config.spamassassin.as_ref().map(|section| {
            let bounds = Bounds {
                max_size: section.max_size,
                oversize: Oversize::Head,
                concurrency: section.concurrency,
                max_wait: Duration::from_secs(section.max_wait),
                timeout: Duration::from_secs(section.timeout),
                breaker: BreakerRule { failures: 5, pause: Duration::from_secs(10) },
            };
            Limited::new("spamassassin", Spamd::new(section.address.clone()), bounds)
        });
        Self { spamassassin, budget: Duration::from_secs(50) }
    }

    /// When scanners have to be done with a message whose verdict is wanted from now on.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.budget
    }

    pub async fn spamassassin(&self, message: &Message, until: Instant) -> Scanned<Report> {
        match &self.spamassassin {
            Some(scanner) => scanner.scan(message, until).await,
            None => Scanned::Unscanned(Cause::NotConfigured),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.counts().any(|(known, _)| known == name)
    }

    /// What the configured scanners did so far, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&str, Counts)> {
        self.spamassassin.iter().map(|scanner| (scanner.name(), scanner.counts()))
    }
}

#[cfg(test)]
pub(crate) mod tests;
