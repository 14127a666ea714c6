//! Policy scripts: Luau, in a sandbox, with limits on time and memory that hold.
//!
//! A script is a file with functions named [`Context::name`]. It is compiled once; each call runs it from its beginning
//! with globals of its own, so that nothing of one message is seen by the next. What a script asks (`rate`, `scan`, ...)
//! suspends it until [`World`] has answered; so nothing a script does holds up other messages, and a verdict ends it
//! where it stands.

mod answer;
mod ask;
mod call;
mod error;
mod keeper;
mod live;
mod machine;
mod meter;
mod names;
mod network;
mod parts;
mod recorded;
mod reply;
mod samples;
mod slot;
mod trial;
mod world;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mlua::MultiValue;
use mlua::chunk::Compiler;

pub use answer::Answer;
pub use error::{LoadError, ScriptError};
pub use keeper::Keeper;
pub use live::{Asked, Counting, Live, Stats};
use machine::{Machines, Step};
pub use network::Question;
pub use recorded::{File, Recorded, SCANNERS};
pub use reply::Replies;
pub use samples::Samples;
pub use trial::{Outcome, Trial};
pub use world::World;

/// When scripts are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// A transaction begins: the agent has said who connects, and under which id.
    Connect,
    /// A recipient is named: each one for itself.
    Rcpt,
    /// The message is complete: once, whatever the number of recipients.
    Data,
}

/// What a script may call, beside Luau's own library.
const FUNCTIONS: [&str; 17] = [
    "accept",
    "block",
    "defer",
    "dns",
    "dnsbl",
    "dnswl",
    "has",
    "headers",
    "http",
    "log",
    "parts",
    "quarantine",
    "rate",
    "reject",
    "reputation",
    "scan",
    "stat",
];

/// Of these, what needs the message.
const AT_END_OF_DATA: [&str; 4] = ["headers", "parts", "quarantine", "scan"];

/// What one call may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of the processor; waiting does not count.
    pub cpu: Duration,
    /// Bytes, in use at a time.
    pub memory: usize,
    /// From the call to the verdict, scanners not counted.
    pub wall: Duration,
    /// Somebody is blocked for, at most.
    pub block: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            cpu: Duration::from_millis(100),
            memory: 64 * 1024 * 1024,
            wall: Duration::from_secs(5),
            block: Duration::from_secs(86_400),
        }
    }
}

impl Context {
    pub const ALL: [Self; 3] = [Self::Connect, Self::Rcpt, Self::Data];

    /// The name of the function.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
        }
    }
}

/// A script that is compiled and can be called.
pub struct Script {
    name: String,
    code: Vec<u8>,
    contexts: Vec<Context>,
    bounds: Bounds,
    machines: Arc<Machines>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("name", &self.name).field("contexts", &self.contexts).finish()
    }
}

impl Script {
    /// Compiles, and runs the script's beginning to see whether it will be asked.
    ///
    /// # Errors
    /// What is wrong with it, with its name and line.
    pub fn new(name: &str, source: &str, bounds: Bounds) -> Result<Self, LoadError> {
        let compiler = Compiler::new().set_optimization_level(1).set_debug_level(1);
        let code = compiler.compile(source).map_err(|error| syntax(name, &error))?;
        let machines = Arc::new(Machines::new(bounds));
        let mut script = Self { name: name.to_owned(), code, contexts: Vec::new(), bounds, machines };
        script.contexts = script.begin().map_err(|error| LoadError::Fails { name: name.into(), error })?;
        if script.contexts.is_empty() {
            return Err(LoadError::NoContext { name: name.into() });
        }
        Ok(script)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it wants to be asked.
    pub fn contexts(&self) -> &[Context] {
        &self.contexts
    }

    fn begin(&self) -> Result<Vec<Context>, ScriptError> {
        let failed = |error: mlua::Error| ScriptError::from_lua(&error, self.bounds.memory);
        let machine = self.machines.take().map_err(failed)?;
        let (thread, globals) = machine.load(&self.name, &self.code).map_err(failed)?;
        loop {
            let step = machine.resume(&thread, MultiValue::new());
            if machine.meter().is_exhausted() {
                return Err(ScriptError::Processor(self.bounds.cpu));
            }
            match step.map_err(failed)? {
                Step::Pauses => {}
                Step::Asks(function, _) => return Err(call::outside(&function)),
                Step::Ends => break,
            }
        }
        let is_function =
            |context: &Context| matches!(globals.raw_get(context.name()), Ok(mlua::Value::Function(_)));
        Ok(Context::ALL.into_iter().filter(is_function).collect())
    }
}

fn syntax(name: &str, error: &mlua::Error) -> LoadError {
    let text = match error {
        mlua::Error::SyntaxError { message, .. } => message.lines().next().unwrap_or_default().to_owned(),
        other => other.to_string(),
    };
    // The compiler is not told the name: `[string "..."]:3: ...` or `:3: ...`.
    let place = text.find("]:").map_or(text.as_str(), |at| text.get(at + 1..).unwrap_or_default());
    LoadError::Syntax(format!("{name}:{}", place.trim_start_matches(':')))
}

#[cfg(test)]
mod bombs;
#[cfg(test)]
mod keeper_tests;
#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;
