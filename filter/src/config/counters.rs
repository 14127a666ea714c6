//! `[counters]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::positive;

/// What was sent lately, by whom: in memory, and in a file that outlives the process; with several nodes in a store that
/// they share.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Counters {
    /// Counters kept at a time, about 300 bytes each; beyond it those unused for longest are forgotten.
    pub max_keys: usize,
    /// The file, written every 5 seconds and at the end: a node that is stopped loses no count, one that is killed at
    /// most those of the last 10 seconds. A damaged file stops the start, for nobody knows how much was sent. Empty:
    /// none, and counts end with the process.
    pub file: PathBuf,
    /// Redis (5 or later) or Valkey that all nodes count in, `redis://[user:password@]host[:port][/database]` or
    /// `unix:///path`: limits then hold for all nodes together. Not to be reached by others; with `maxmemory-policy
    /// noeviction`, or limits are loosened when it is full.
    #[schemars(example = &"redis://10.3.0.20/0")]
    pub redis: Option<String>,
    /// What holds when it is away: `local` counts on each node by itself, so that at most limit times nodes pass, `defer`
    /// defers with 451 whatever is to be counted.
    pub when_away: WhenStoreAway,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenStoreAway {
    #[default]
    Local,
    Defer,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            max_keys: 1_000_000,
            file: PathBuf::from("/var/lib/weir-filter/counters.sqlite"),
            redis: None,
            when_away: WhenStoreAway::default(),
        }
    }
}

impl Counters {
    pub(super) fn check(&self, problems: &mut Problems) {
        positive(problems, "counters.max_keys", self.max_keys as u64);
        if !self.file.as_os_str().is_empty() && !self.file.is_absolute() {
            problems.add("counters.file", "must be an absolute path, or empty");
        }
        if let Some(url) = &self.redis
            && let Err(error) = redis::Client::open(url.as_str())
        {
            problems.add("counters.redis", format!("is no address of Redis: {error}"));
        }
    }
}
