//! `[counters]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::positive;

/// What was sent lately, by whom: in memory, and in a file that outlives the process.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Counters {
    /// Counters kept at a time, about 300 bytes each; beyond it those unused for longest are forgotten.
    pub max_keys: usize,
    /// The file, written every 5 seconds and at the end: a node that is stopped loses no count, one that is killed at
    /// most those of the last 10 seconds. A damaged file stops the start, for nobody knows how much was sent. Empty:
    /// none, and counts end with the process.
    pub file: PathBuf,
}

impl Default for Counters {
    fn default() -> Self {
        Self { max_keys: 1_000_000, file: PathBuf::from("/var/lib/weir/counters.sqlite") }
    }
}

impl Counters {
    pub(super) fn check(&self, problems: &mut Problems) {
        positive(problems, "counters.max_keys", self.max_keys as u64);
        if !self.file.as_os_str().is_empty() && !self.file.is_absolute() {
            problems.add("counters.file", "must be an absolute path, or empty");
        }
    }
}
