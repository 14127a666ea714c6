//! Scanners, and the limits that hold for all of them: size, number at a time, wait, time-out, and for how long one is left
//! alone that fails.

mod address;
mod breaker;
pub mod clamd;
mod exchange;
mod http;
pub mod icap;
mod limited;
mod line;
pub(crate) mod received;
mod results;
pub mod rspamd;
mod sample;
pub mod spamd;

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::message::Message;
pub use address::Address;
pub use breaker::Rule as BreakerRule;
use clamd::Clamd;
use icap::Icap;
pub use limited::{Bounds, Counts, Limited, Oversize};
pub use results::{Results, Said};
use rspamd::Rspamd;
pub use sample::Sample;
use spamd::Spamd;

/// Characters of an infection's name.
const MAX_INFECTION: usize = 100;

/// What a scanner that gives scores found.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub score: f64,
    /// Names of the tests that hit, comma-separated.
    pub symbols: String,
}

/// What a virus engine found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Clean,
    /// The name of the infection: printable, and not long.
    Infected(String),
}

impl Finding {
    /// With the engine's name for it, which goes into replies and logs.
    fn infected(name: &str) -> Self {
        let clean = |one: char| if one == ' ' || one.is_ascii_graphic() { one } else { '?' };
        let name: String = name.trim().chars().take(MAX_INFECTION).map(clean).collect();
        Self::Infected(if name.is_empty() { "unnamed".into() } else { name })
    }

    pub fn infection(&self) -> Option<&str> {
        match self {
            Self::Clean => None,
            Self::Infected(name) => Some(name),
        }
    }
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
    /// It lives, and will not scan this message.
    #[error("it says: {0}")]
    Refused(String),
    /// It lives, and takes none as large as this.
    #[error("too large for it: {0}")]
    TooBig(String),
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

    fn is_configured(&self) -> bool {
        !matches!(self, Self::Unscanned(Cause::NotConfigured))
    }

    /// The class `unscanned`: what the scanner would have said of the whole is not known. Not where it was not to look.
    pub fn is_unscanned(&self) -> bool {
        self.unscanned().is_some_and(Cause::is_a_gap)
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
    /// Nobody is to look at what this customer writes (`privacy.no_content`).
    Privacy,
    /// A list or a map says that this customer's mail needs none.
    Allowed,
    /// A map says so of the sender or the recipients, who can be anybody.
    Map,
    /// One of many bounces to the same recipients.
    Bounce,
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
            Self::Privacy => "privacy",
            Self::Allowed => "allowed",
            Self::Map => "map",
            Self::Bounce => "bounce",
            Self::TooBig => "too-big",
            Self::Busy => "busy",
            Self::TimedOut => "timed-out",
            Self::Failed => "failed",
            Self::BreakerOpen => "breaker-open",
        }
    }

    /// Whether what the scanner would have said is missed: not where it was not to look, for a reason that no customer can
    /// bring about.
    pub fn is_a_gap(self) -> bool {
        !matches!(self, Self::NotConfigured | Self::Privacy | Self::Allowed)
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
    rspamd: Option<Limited<Rspamd>>,
    clamav: Option<Limited<Clamd>>,
    icap: Vec<Engine>,
    /// For one message, whatever it is waiting for.
    budget: Duration,
}

/// A virus engine that speaks ICAP.
#[derive(Debug)]
struct Engine {
    /// What the configuration calls it.
    name: String,
    scanner: Limited<Icap>,
}

impl Scanners {
    pub fn new(config: &Config) -> Self {
        let icap = config.icap.iter().flat_map(|section| {
            section.engines.iter().map(|engine| Engine {
                name: engine.name.clone(),
                scanner: Limited::new(
                    format!("icap-{}", engine.name),
                    Icap::new(engine.address.clone(), engine.service.clone()),
                    section.bounds(),
                ),
            })
        });
        let spamassassin = config.spamassassin.as_ref();
        let rspamd = config.rspamd.as_ref();
        let clamav = config.clamav.as_ref();
        Self {
            spamassassin: spamassassin
                .map(|one| Limited::new("spamassassin", Spamd::new(one.address.clone()), one.bounds())),
            rspamd: rspamd.map(|one| Limited::new("rspamd", Rspamd::new(one.address.clone()), one.bounds())),
            clamav: clamav.map(|one| Limited::new("clamav", Clamd::new(one.address.clone()), one.bounds())),
            icap: icap.collect(),
            budget: Duration::from_secs(config.smtp.verdict_budget),
        }
    }

    /// When scanners have to be done with a message whose verdict is wanted from now on.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.budget
    }

    pub async fn spamassassin(&self, message: &Message, until: Instant) -> Scanned {
        scan(self.spamassassin.as_ref(), message, until).await
    }

    pub async fn rspamd(&self, message: &Message, until: Instant) -> Scanned {
        scan(self.rspamd.as_ref(), message, until).await
    }

    pub async fn clamav(&self, message: &Message, until: Instant) -> Scanned<Finding> {
        scan(self.clamav.as_ref(), message, until).await
    }

    /// The names of the engines, as the configuration has them.
    pub fn engines(&self) -> impl ExactSizeIterator<Item = &str> {
        self.icap.iter().map(|engine| engine.name.as_str())
    }

    /// The engine with this place among [`Self::engines`].
    pub async fn icap(&self, place: usize, message: &Message, until: Instant) -> Scanned<Finding> {
        scan(self.icap.get(place).map(|engine| &engine.scanner), message, until).await
    }

    pub fn has(&self, name: &str) -> bool {
        self.counts().any(|(known, _)| known == name)
    }

    /// What the configured scanners did so far, by name.
    pub fn counts(&self) -> impl Iterator<Item = (&str, Counts)> {
        let spamassassin = self.spamassassin.iter().map(|one| (one.name(), one.counts()));
        let rspamd = self.rspamd.iter().map(|one| (one.name(), one.counts()));
        let clamav = self.clamav.iter().map(|one| (one.name(), one.counts()));
        let icap = self.icap.iter().map(|one| (one.scanner.name(), one.scanner.counts()));
        spamassassin.chain(rspamd).chain(clamav).chain(icap)
    }
}

async fn scan<S: Scanner>(
    scanner: Option<&Limited<S>>,
    message: &Message,
    until: Instant,
) -> Scanned<S::Found> {
    match scanner {
        Some(scanner) => scanner.scan(message, until).await,
        None => Scanned::Unscanned(Cause::NotConfigured),
    }
}

#[cfg(test)]
pub(crate) mod tests;
