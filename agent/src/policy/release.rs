//! The release: on the operator's word all customers' new connections go straight, for a while. It ends in the kernel,
//! with the agent or without, and is kept in a file, so that an agent that is started meanwhile goes on with it.
//!
//! ```json
//! {"version": 1, "until": 1795305600}
//! ```
//!
//! `until` is in seconds since 1970.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{PolicyError, file, locked, time};
use crate::config::{Backend, Config};
use crate::reminder::Reminder;
use crate::steer::{BootTime, Steering};

/// Whoever wants it for longer stops the agent.
pub(super) const MAX_DURATION: Duration = Duration::from_secs(7 * 86_400);

const NAME: &str = "release.json";

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    until: Option<u64>,
}

/// Whether customers' new connections go straight, and until when.
#[derive(Debug)]
pub struct Release {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    until: Option<BootTime>,
    /// Changed since the file was written.
    unsaved: bool,
    reminder: Reminder,
}

impl Release {
    /// The release of the last run, if it is not over. Where the rules that steer are the operator's own there is none.
    pub fn of(config: &Config) -> Self {
        let directory = &config.state.directory;
        match config.steering.backend {
            Backend::Ebpf | Backend::Tproxy => Self::open(directory),
            Backend::External => Self { file: directory.join(NAME), state: Mutex::default() },
        }
    }

    pub(super) fn open(directory: &Path) -> Self {
        let file = directory.join(NAME);
        let until = file::load(&file, |document| read(&document));
        if let Some(until) = until {
            alarm(until);
        }
        Self { file, state: Mutex::new(State { until, ..State::default() }) }
    }

    /// Until when, if there is a release now.
    pub fn until(&self) -> Option<BootTime> {
        self.lock().until.filter(|until| *until > BootTime::now())
    }

    /// As `status` shows it.
    pub fn status(&self) -> Option<Value> {
        self.until().map(to_json)
    }

    /// Begins, or goes on for so long from now. What cannot be written down holds all the same: who releases has
    /// worse to fear.
    pub fn begin(
        &self,
        steering: &Mutex<Box<dyn Steering>>,
        duration: Duration,
    ) -> Result<Value, PolicyError> {
        if !(Duration::from_secs(1)..=MAX_DURATION).contains(&duration) {
            return Err(PolicyError::ReleaseDuration { seconds: duration.as_secs() });
        }
        let (mut state, until) = (self.lock(), BootTime::now().after(duration));
        locked(steering).release(Some(until))?;
        state.until = Some(until);
        alarm(until);
        self.save_or_warn(&mut state);
        Ok(to_json(until))
    }

    pub fn end(&self, steering: &Mutex<Box<dyn Steering>>) -> Result<(), PolicyError> {
        let mut state = self.lock();
        if state.until.is_none_or(|until| until <= BootTime::now()) {
            return Err(PolicyError::NotReleased);
        }
        locked(steering).release(None)?;
        self.ended(&mut state, "the operator has ended it");
        Ok(())
    }

    /// Ends what is over, and says again what is not. To be called every second.
    pub fn sweep(&self, steering: &Mutex<Box<dyn Steering>>) {
        let (mut state, now) = (self.lock(), BootTime::now());
        if state.until.is_some_and(|until| until <= now) {
            // The kernel has ended it already.
            if let Err(error) = locked(steering).release(None) {
                warn!(%error, "what is left of the release could not be removed");
            }
            self.ended(&mut state, "its time is over");
        }
        let until = state.until;
        if state.reminder.is_due(until.is_some(), Instant::now())
            && let Some(until) = until
        {
            alarm(until);
        }
        if state.unsaved {
            self.save_or_warn(&mut state);
        }
    }

    /// Has the file say what holds, for another agent.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn settle(&self) -> Result<(), PolicyError> {
        let mut state = self.lock();
        if state.unsaved {
            self.save_or_warn(&mut state);
        }
        if state.unsaved {
            let source = std::io::Error::other("it is not on the disk that customers are released, or not");
            return Err(PolicyError::File { path: self.file.clone(), source });
        }
        Ok(())
    }

    fn ended(&self, state: &mut State, why: &str) {
        state.until = None;
        info!(why, "released no more: customers' new connections are intercepted again");
        self.save_or_warn(state);
    }

    fn save_or_warn(&self, state: &mut State) {
        let document = Document { version: VERSION, until: state.until.map(time::unix) };
        let outcome = file::replace(&self.file, &document);
        // Once is enough of a warning.
        if let (Err(error), false) = (&outcome, state.unsaved) {
            let path = self.file.display();
            warn!(%path, %error, "the next start will not know whether customers are released");
        }
        state.unsaved = outcome.is_err();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(document: &Document) -> Result<Option<BootTime>, String> {
    if document.version != VERSION {
        return Err(format!("version {} is not known, only {VERSION} is", document.version));
    }
    let now = BootTime::now();
    // A clock that was wrong when the file was written must not release anybody for longer than one may.
    let left = |until: u64| Duration::from_secs(until.saturating_sub(time::unix(now))).min(MAX_DURATION);
    Ok(document.until.map(left).filter(|left| !left.is_zero()).map(|left| now.after(left)))
}

fn to_json(until: BootTime) -> Value {
    json!({ "until": time::rfc3339(until), "seconds_left": until.since(BootTime::now()).as_secs() })
}

fn alarm(until: BootTime) {
    let seconds_left = until.since(BootTime::now()).as_secs();
    warn!(
        seconds_left,
        "released by the operator's command: customers' new connections go straight, unjudged"
    );
}
