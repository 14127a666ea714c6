//! `[spamassassin]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::{DAY, MAX_CONCURRENCY, positive, seconds};
use crate::scan::Address;

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
    /// Bytes of the largest message that is scanned; larger ones are not. Spam is small, and
    /// SpamAssassin's time grows with the size.
    #[serde(default = "defaults::max_scan_size")]
    pub max_size: u64,
    /// Messages scanned at a time: spamd's `--max-children`.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// Seconds a message waits for its turn.
    #[serde(default = "defaults::max_wait")]
    pub max_wait: u64,
    /// Seconds for one scan. With `max_wait` it has to fit into the agent's `filter.verdict_budget`.
    #[serde(default = "defaults::scan_timeout")]
    pub timeout: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAway {
    #[default]
    AcceptUnscanned,
    Defer,
}

impl SpamAssassin {
    pub(super) fn check(&self, problems: &mut Problems) {
        positive(problems, "spamassassin.max_size", self.max_size);
        positive(problems, "spamassassin.concurrency", self.concurrency as u64);
        if self.concurrency > MAX_CONCURRENCY {
            problems.add("spamassassin.concurrency", format!("is above {MAX_CONCURRENCY}"));
        }
        seconds(problems, "spamassassin.timeout", self.timeout);
        if self.max_wait > DAY {
            problems.add("spamassassin.max_wait", format!("is above {DAY} seconds, a day"));
        }
    }
}

mod defaults {
    pub(super) fn max_scan_size() -> u64 {
        512 * 1024
    }
    pub(super) fn concurrency() -> usize {
        5
    }
    pub(super) fn max_wait() -> u64 {
        15
    }
    pub(super) fn scan_timeout() -> u64 {
        25
    }
}
