//! `[spamassassin]`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::scanner;
use super::scanner::defaults::{breaker_failures, breaker_pause};
use crate::scan::{Address, Bounds, Oversize};

/// SpamAssassin, asked through spamd. Without this section messages are not scanned. Customers with
/// private addresses are trusted by SpamAssassin (its ALL_TRUSTED) unless its own `trusted_networks`
/// says otherwise, for example `trusted_networks 127.0.0.0/8`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpamAssassin {
    /// Where spamd listens: `address:port`, or `unix:/path`.
    #[schemars(with = "String", example = &"127.0.0.1:783")]
    pub address: Address,
    /// What becomes of a message when spamd is away, too slow or too busy: `accept-unscanned` (and
    /// the log line says so) or `defer` (451).
    #[serde(default)]
    pub when_away: WhenAway,
    /// Bytes of a message that it is shown. Spam is small, and SpamAssassin's time grows with the size.
    #[serde(default = "defaults::max_size")]
    pub max_size: u64,
    /// What becomes of a larger message: `head` (its first `max_size` bytes are scanned: what is found there counts, but the
    /// message is `unscanned` all the same, since the rest may be worse) or `skip` (it is not scanned). Either way
    /// padding is no way out.
    #[serde(default)]
    pub oversize: Oversize,
    /// Messages scanned at a time: spamd's `--max-children`.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// Seconds that a message may have to wait for its turn, estimated from how long scans took and from those in line: who
    /// would wait longer is `unscanned` at once. Who waits does so for three times as long at most.
    #[serde(default = "defaults::max_wait")]
    pub max_wait: u64,
    /// Seconds for one scan; less, if less is left of `smtp.verdict_budget`.
    #[serde(default = "defaults::timeout")]
    pub timeout: u64,
    /// Failures in a row (no connection, no answer in time, no sensible one) after which it is not asked for a while.
    #[serde(default = "breaker_failures")]
    pub breaker_failures: u32,
    /// Seconds for which it is not asked then. After them one message tries it.
    #[serde(default = "breaker_pause")]
    pub breaker_pause: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAway {
    #[default]
    AcceptUnscanned,
    Defer,
}

impl SpamAssassin {
    pub(super) fn check(&self, problems: &mut Problems, budget: u64) {
        scanner::check(problems, "spamassassin", &self.bounds(), budget);
    }

    /// What it may take.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            max_size: self.max_size,
            oversize: self.oversize,
            concurrency: self.concurrency,
            max_wait: Duration::from_secs(self.max_wait),
            timeout: Duration::from_secs(self.timeout),
            breaker: scanner::breaker(self.breaker_failures, self.breaker_pause),
        }
    }
}

mod defaults {
    pub(super) fn max_size() -> u64 {
        512 * 1024
    }
    pub(super) fn concurrency() -> usize {
        5
    }
    pub(super) fn max_wait() -> u64 {
        30
    }
    pub(super) fn timeout() -> u64 {
        25
    }
}
