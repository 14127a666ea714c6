//! What the sections of scanners have in common.

use std::time::Duration;

use weir_daemon::config::Problems;

use super::{DAY, MAX_CONCURRENCY, positive, seconds};
use crate::scan::{Bounds, BreakerRule};

/// `budget`: all the time that there is for a verdict.
pub(super) fn check(problems: &mut Problems, section: &str, bounds: &Bounds, budget: u64) {
    let key = |key: &str| format!("{section}.{key}");
    positive(problems, &key("max_size"), bounds.max_size);
    positive(problems, &key("concurrency"), bounds.concurrency as u64);
    if bounds.concurrency > MAX_CONCURRENCY {
        problems.add(&key("concurrency"), format!("is above {MAX_CONCURRENCY}"));
    }
    seconds(problems, &key("timeout"), bounds.timeout.as_secs());
    if bounds.timeout.as_secs() > budget {
        problems.add(&key("timeout"), format!("is above smtp.verdict_budget, {budget} seconds"));
    }
    if bounds.max_wait.as_secs() > DAY {
        problems.add(&key("max_wait"), format!("is above {DAY} seconds, a day"));
    }
    positive(problems, &key("breaker_failures"), bounds.breaker.failures.into());
    seconds(problems, &key("breaker_pause"), bounds.breaker.pause.as_secs());
}

pub(super) fn breaker(failures: u32, pause: u64) -> BreakerRule {
    BreakerRule { failures, pause: Duration::from_secs(pause) }
}

pub(super) mod defaults {
    pub(in crate::config) fn breaker_failures() -> u32 {
        5
    }
    pub(in crate::config) fn breaker_pause() -> u64 {
        10
    }
}
