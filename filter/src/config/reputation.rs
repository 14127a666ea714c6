//! `[reputation]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

/// How good the mail of each customer and of each source has been, from 0 to 100: for scripts (`reputation()`) and `weir-filter rates
/// show`. docs/policy.md has the formula. It is counted beside the limits, two keys for each customer and source.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reputation {
    pub enabled: bool,
    /// Days that count.
    pub days: u64,
}

/// The longest window of a count.
const MAX_DAYS: u64 = 31;

impl Default for Reputation {
    fn default() -> Self {
        Self { enabled: false, days: 7 }
    }
}

impl Reputation {
    pub(super) fn check(&self, problems: &mut Problems) {
        if !(1..=MAX_DAYS).contains(&self.days) {
            problems.add("reputation.days", format!("{} days; accepted: 1 to {MAX_DAYS}", self.days));
        }
    }
}
