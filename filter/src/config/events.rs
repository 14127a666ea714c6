//! `[events]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

/// What was judged, kept for a while to be searched with `weir-filter log`: one row a message, nothing of its content.
/// docs/privacy.md says what is in it. It is written beside the judging: where the disk is too slow or full, rows are
/// dropped and counted, and messages go on.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Where the files are, one or more a day, and the key of mail addresses. Nodes on one host need one each. Empty:
    /// nothing is kept.
    pub directory: PathBuf,
    /// Days that events are kept: a day's file is removed when its last event is so old.
    pub keep_days: u64,
    /// Bytes of all files; when they are taken the oldest go early. Ten million messages take about 5 GiB.
    pub max_size: u64,
    /// Whether mail addresses are stored as they are, and not as hashes with a key that never leaves the node. Domains
    /// are stored in any case. In what a destination replied `[address]` stands for them otherwise.
    pub store_addresses: bool,
}

/// Two of 16 parts must have room for what SQLite writes beside a file.
const MIN_SIZE: u64 = 64 * 1024 * 1024;

const MAX_DAYS: u64 = 3650;

impl Default for Events {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/lib/weir-filter/events"),
            keep_days: 30,
            max_size: 10 * 1024 * 1024 * 1024,
            store_addresses: false,
        }
    }
}

impl Events {
    pub(super) fn check(&self, problems: &mut Problems) {
        if !self.directory.as_os_str().is_empty() && !self.directory.is_absolute() {
            problems.add("events.directory", "must be an absolute path, or empty");
        }
        if !(1..=MAX_DAYS).contains(&self.keep_days) {
            problems.add("events.keep_days", format!("{} days; accepted: 1 to {MAX_DAYS}", self.keep_days));
        }
        if self.max_size < MIN_SIZE {
            problems.add("events.max_size", format!("is below {MIN_SIZE}, the least that works"));
        }
    }
}
