//! `[clamav]`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::scanner;
use super::scanner::defaults::{breaker_failures, breaker_pause};
use crate::scan::{Address, Bounds, Oversize};

/// ClamAV, asked through clamd (INSTREAM). Without this section it is not asked. Messages are shown to it with lines in
/// front by which it knows them for mail, however the customer begins his.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClamAv {
    /// Where clamd listens: `address:port`, or `unix:/path`.
    #[schemars(with = "String", example = &"unix:/run/clamav/clamd.ctl")]
    pub address: Address,
    /// Bytes of a message that it is shown. Below clamd's `StreamMaxLength`, which Debian sets to 25 MiB.
    #[serde(default = "defaults::max_size")]
    pub max_size: u64,
    /// What becomes of a larger message: `head` (its first `max_size` bytes are scanned: what is found there counts, but the
    /// message is `unscanned` all the same, since the rest may be worse) or `skip` (it is not scanned). Either way
    /// padding is no way out.
    #[serde(default)]
    pub oversize: Oversize,
    /// Messages scanned at a time: clamd's `MaxThreads`.
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

impl ClamAv {
    pub(super) fn check(&self, problems: &mut Problems, budget: u64) {
        scanner::check(problems, "clamav", &self.bounds(), budget);
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
        24 * 1024 * 1024
    }
    pub(super) fn concurrency() -> usize {
        10
    }
    pub(super) fn max_wait() -> u64 {
        15
    }
    pub(super) fn timeout() -> u64 {
        25
    }
}
