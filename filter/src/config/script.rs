//! `[script]`.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use crate::fetch::Host;
use crate::policy::Template;
use crate::policy::script::{Bounds, Replies};

/// Policy as a script in Luau (docs/policy.md), in place of `policy.preset`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// The script. A changed file is taken at once (or at SIGHUP): it is compiled and run on the samples, and refused if
    /// it errs on any; then the one before stays. A script that errs at the start stops the start.
    #[schemars(example = &"/etc/weir/policy.luau")]
    pub file: Option<PathBuf>,
    /// A script that is asked as well, after the verdict, with counters of its own: where its verdict differs, that is
    /// logged and counted, and nothing else comes of it. It makes verdicts later by the time that it takes, and scanners are
    /// asked for it, too.
    #[schemars(example = &"/etc/weir/new.luau")]
    pub candidate: Option<PathBuf>,
    /// What becomes of a message whose script errs: `preset` (judged as without a script; what the script has counted
    /// is not counted again) or `defer` (451).
    pub on_script_error: OnScriptError,
    /// A directory of messages on which a script is tried before it is used, one in a file, 1,000 of 1 MiB at most;
    /// beside those that weir brings along.
    pub samples: Option<PathBuf>,
    /// Milliseconds of the processor that one call may use. Waiting for answers does not count.
    pub max_cpu_ms: u64,
    /// Bytes that one call may use. As many calls run at a time as there are messages.
    pub max_memory: usize,
    /// Seconds from a call to its verdict, scanners not counted.
    pub max_seconds: u64,
    /// Where `http` may ask: `host` (at the port of the scheme) or `host:port`. The provider's own services: what a script says
    /// there may come from customers. Empty: nowhere.
    #[schemars(example = ["api.example:8080"])]
    pub http_hosts: Vec<String>,
    /// For https: a file in PEM with the authorities that are trusted.
    #[schemars(example = &"/etc/ssl/certs/ca-certificates.crt")]
    pub http_ca_file: Option<PathBuf>,
    /// Seconds for which a script may block a customer with `block()`.
    pub max_block_seconds: u64,
    /// Customers that scripts may block in an hour, all together, each of whom counts once an hour; further ones are not blocked, which is an error in the log and an
    /// alarm in `status`: a script that has gone mad must not block everybody. 0: none.
    pub max_blocks_per_hour: u64,
    /// How a script's refusals are written: `{reason}` is the script's text, `{limit}` the limit that it names, `{contact}`
    /// and `{id}` are as in `[texts]`. Of what it becomes 10 lines of 400 characters are said.
    #[schemars(with = "String")]
    pub reply: Template,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnScriptError {
    #[default]
    Preset,
    Defer,
}

impl Default for Script {
    fn default() -> Self {
        let bounds = Bounds::default();
        let replies = Replies::default();
        Self {
            file: None,
            candidate: None,
            on_script_error: OnScriptError::Preset,
            samples: None,
            max_cpu_ms: u64::try_from(bounds.cpu.as_millis()).unwrap_or(u64::MAX),
            max_memory: bounds.memory,
            max_seconds: bounds.wall.as_secs(),
            http_hosts: Vec::new(),
            http_ca_file: None,
            max_block_seconds: bounds.block.as_secs(),
            max_blocks_per_hour: 20,
            reply: replies.template,
        }
    }
}

/// With less, a machine for scripts cannot be made.
const LEAST_MEMORY: usize = 1024 * 1024;

/// Of the processor, and until the verdict: what an agent would still wait for.
const MOST_CPU_MS: u64 = 10_000;
const MOST_SECONDS: u64 = 50;

/// Whoever is to be blocked for longer is an operator's business.
const MOST_BLOCK_SECONDS: u64 = 7 * 86_400;

const MOST_BLOCKS: u64 = 10_000;

impl Script {
    pub(super) fn check(&self, problems: &mut Problems) {
        let paths = [
            ("file", &self.file),
            ("candidate", &self.candidate),
            ("samples", &self.samples),
            ("http_ca_file", &self.http_ca_file),
        ];
        for (index, host) in self.http_hosts.iter().enumerate() {
            if Host::parse(host).is_none() {
                problems.add(&format!("script.http_hosts[{index}]"), "must be host or host:port");
            }
        }
        for (key, path) in paths {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                problems.add(&format!("script.{key}"), "must be an absolute path");
            }
        }
        if !(1..=MOST_CPU_MS).contains(&self.max_cpu_ms) {
            let what = format!("{} ms; accepted: 1 to {MOST_CPU_MS}", self.max_cpu_ms);
            problems.add("script.max_cpu_ms", what);
        }
        if !(1..=MOST_SECONDS).contains(&self.max_seconds) {
            let what = format!("{} seconds; accepted: 1 to {MOST_SECONDS}", self.max_seconds);
            problems.add("script.max_seconds", what);
        }
        if !(1..=MOST_BLOCK_SECONDS).contains(&self.max_block_seconds) {
            let what = format!("{} seconds; accepted: 1 to {MOST_BLOCK_SECONDS}", self.max_block_seconds);
            problems.add("script.max_block_seconds", what);
        }
        if self.max_blocks_per_hour > MOST_BLOCKS {
            let what = format!("{}; accepted: 0 to {MOST_BLOCKS}", self.max_blocks_per_hour);
            problems.add("script.max_blocks_per_hour", what);
        }
        if self.max_memory < LEAST_MEMORY {
            problems.add("script.max_memory", format!("is below {LEAST_MEMORY}"));
        }
        if let Err(problem) = self.reply.check() {
            problems.add("script.reply", problem);
        }
    }

    pub fn bounds(&self) -> Bounds {
        Bounds {
            cpu: Duration::from_millis(self.max_cpu_ms),
            memory: self.max_memory,
            wall: Duration::from_secs(self.max_seconds),
            block: Duration::from_secs(self.max_block_seconds),
        }
    }
}
