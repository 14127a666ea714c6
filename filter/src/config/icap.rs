//! `[icap]`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::scanner;
use super::scanner::defaults::{breaker_failures, breaker_pause};
use crate::scan::{Address, Bounds, Oversize};

/// Virus engines that speak ICAP (RFC 3507, RESPMOD), each with a name by which policy and logs know it. Limits are those of
/// each engine by itself. Without this section none is asked.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Icap {
    /// Tables `[[icap.engines]]`, each with `name`, `address` and `service`.
    #[schemars(example = engines())]
    pub engines: Vec<Engine>,
    /// Bytes of a message that it is shown. Not above what the engines take.
    #[serde(default = "defaults::max_size")]
    pub max_size: u64,
    /// What becomes of a larger message: `head` (its first `max_size` bytes are scanned: what is found there counts, but the
    /// message is `unscanned` all the same, since the rest may be worse) or `skip` (it is not scanned). Either way
    /// padding is no way out.
    #[serde(default)]
    pub oversize: Oversize,
    /// Messages scanned at a time.
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

/// A virus engine.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// By which policy, logs and counts know it: small letters, digits and hyphens.
    #[schemars(example = &"sophos")]
    pub name: String,
    /// Where it listens: `address:port`, or `unix:/path`.
    #[schemars(with = "String", example = &"127.0.0.1:1344")]
    pub address: Address,
    /// The path of its URL behind the first slash, as its manual says it, for example `avscan`.
    #[schemars(example = &"avscan")]
    pub service: String,
}

fn engines() -> serde_json::Value {
    serde_json::json!([{ "name": "sophos", "address": "127.0.0.1:1344", "service": "avscan" }])
}

impl Icap {
    pub(super) fn check(&self, problems: &mut Problems, budget: u64) {
        if self.engines.is_empty() {
            problems.add("icap.engines", "names no engine");
        }
        for (index, engine) in self.engines.iter().enumerate() {
            let key = |key: &str| format!("icap.engines[{index}].{key}");
            let plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
            if engine.name.is_empty() || engine.name.len() > MAX_NAME || !engine.name.bytes().all(plain) {
                let what = format!("must be small letters, digits and hyphens, {MAX_NAME} at most");
                problems.add(&key("name"), what);
            }
            if ["spamassassin", "rspamd", "clamav"].contains(&engine.name.as_str()) {
                problems.add(&key("name"), "is another scanner's");
            }
            if self.engines.iter().take(index).any(|other| other.name == engine.name) {
                problems.add(&key("name"), "is named twice");
            }
            let of_url = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~/?=&%".contains(&octet);
            if engine.service.starts_with('/') || !engine.service.bytes().all(of_url) {
                problems.add(&key("service"), "must be the path of a URL, without its first slash");
            }
        }
        scanner::check(problems, "icap", &self.bounds(), budget);
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

/// Characters of an engine's name.
const MAX_NAME: usize = 30;

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
