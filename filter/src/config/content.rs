use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::{positive, seconds};

/// How messages are read: their headers and parts, for file types, scripts and the outbreak engine. A message that is not read
/// within these limits has the classes `too-big`, `too-many-parts`, `too-deep` or `out-of-time`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Content {
    /// Bytes for all messages that are read at a time; each takes twice its size until its verdict.
    pub memory: u64,
    /// Bytes of a message that are looked at; what is behind them is not. Not above half of `memory`.
    pub max_size: u64,
    /// Parts of a message, those that only hold others included.
    pub max_parts: usize,
    /// Multiparts and attached messages within each other.
    pub max_depth: usize,
    /// Seconds to read a message, the wait for memory included.
    pub timeout: u64,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            memory: 512 * 1024 * 1024,
            max_size: 64 * 1024 * 1024,
            max_parts: 1000,
            max_depth: 10,
            timeout: 10,
        }
    }
}

impl Content {
    pub(super) fn check(&self, problems: &mut Problems) {
        positive(problems, "content.max_size", self.max_size);
        positive(problems, "content.max_parts", self.max_parts as u64);
        positive(problems, "content.max_depth", self.max_depth as u64);
        if self.max_depth > 100 {
            problems
                .add("content.max_depth", "is above 100, deeper than any message that is meant to be read");
        }
        seconds(problems, "content.timeout", self.timeout);
        if self.max_size > self.memory / 2 {
            problems.add(
                "content.max_size",
                "is above half of content.memory: such a message could never be read",
            );
        }
    }
}
