//! Why a script gave no verdict.

use std::path::PathBuf;
use std::time::Duration;

/// What went wrong in a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// With the script's name and line where there is one.
    #[error("{0}")]
    Failed(String),
    #[error("used more than {} ms of the processor (script.max_cpu_ms)", .0.as_millis())]
    Processor(Duration),
    #[error("used more than {0} bytes of memory (script.max_memory)")]
    Memory(usize),
    #[error("took more than {} s besides scanners (script.max_seconds)", .0.as_secs())]
    Time(Duration),
    #[error("called more than {0} functions for one message")]
    Calls(usize),
}

/// Why a file is no script that can be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is larger than {limit} bytes")]
    TooLarge { path: PathBuf, limit: u64 },
    /// The compiler's words, with name and line.
    #[error("{0}")]
    Syntax(String),
    #[error("{name}: {error}")]
    Fails { name: String, error: ScriptError },
    #[error("{name} has no function connect, rcpt or data: it would never be asked")]
    NoContext { name: String },
    #[error("{name}:{line}: {what}")]
    Unknown { name: String, line: usize, what: String },
    #[error("{name}: sample {sample}: {error}")]
    Sample { name: String, sample: String, error: ScriptError },
}

impl ScriptError {
    pub(super) fn from_lua(error: &mlua::Error, memory: usize) -> Self {
        match error {
            mlua::Error::MemoryError(_) => Self::Memory(memory),
            mlua::Error::RuntimeError(text) => Self::Failed(first_line(text)),
            mlua::Error::CallbackError { cause, .. } | mlua::Error::WithContext { cause, .. } => {
                Self::from_lua(cause, memory)
            }
            other => Self::Failed(first_line(&other.to_string())),
        }
    }
}

/// Without the trace of calls behind it, and not without end.
fn first_line(text: &str) -> String {
    const LIMIT: usize = 500;
    text.lines().next().unwrap_or_default().chars().take(LIMIT).collect()
}
