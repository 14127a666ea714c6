//! A file with a script: the one in use, the one before it, and whether a new one may take its place.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde_json::{Value, json};

use super::names;
use super::samples::{Samples, read};
use super::{Bounds, Context, LoadError, Replies, Script};

/// Bytes of a script.
const MAX_SIZE: u64 = 256 * 1024;

/// A script that errs on more than `MAX_ERRORS` of its first `TRIAL` live messages (5 %) goes.
const TRIAL: u64 = 200;
const MAX_ERRORS: u64 = TRIAL / 20;

/// What all scripts of a node are loaded with.
#[derive(Debug)]
pub(super) struct Loading {
    pub(super) bounds: Bounds,
    pub(super) replies: Replies,
    pub(super) samples: Samples,
    /// Of all scanners that a script may name, why each that cannot be asked on this node cannot.
    pub(super) missing: Vec<(&'static str, String)>,
}

/// A script in use, and how it does.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) script: Script,
    /// By context: one that always fails at the end of data is no less broken for its many recipients.
    runs: [AtomicU64; Context::ALL.len()],
    errors: [AtomicU64; Context::ALL.len()],
}

impl Loaded {
    pub(super) fn is_asked(&self, context: Context) -> bool {
        self.script.contexts().contains(&context)
    }

    fn counts(&self, context: Context) -> (&AtomicU64, &AtomicU64) {
        let [connect, rcpt, data] = self.runs.each_ref();
        let [connect_errors, rcpt_errors, data_errors] = self.errors.each_ref();
        match context {
            Context::Connect => (connect, connect_errors),
            Context::Rcpt => (rcpt, rcpt_errors),
            Context::Data => (data, data_errors),
        }
    }
}

#[derive(Debug)]
pub(super) struct Slot {
    path: PathBuf,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    current: Arc<Loaded>,
    previous: Option<Arc<Loaded>>,
    /// The file as it was last looked at, whatever came of it.
    seen: Seen,
    /// Why the file's last content is not in use.
    refused: Option<String>,
    /// Why the script is no longer the newest.
    alarm: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    changed: Option<SystemTime>,
    source: Arc<str>,
}

impl Slot {
    /// # Errors
    /// Why the file cannot be used.
    pub(super) async fn new(path: &Path, loading: &Loading) -> Result<Self, LoadError> {
        let seen = look(path)?;
        let current = Arc::new(load(path, &seen.source, loading).await?);
        let held = Held { current, previous: None, seen, refused: None, alarm: None };
        Ok(Self { path: path.to_owned(), held: Mutex::new(held) })
    }

    pub(super) fn current(&self) -> Arc<Loaded> {
        self.held().current.clone()
    }

    /// Looks at the file, and takes what is new in it if it will do. `always`: whatever its time says.
    pub(super) async fn look_again(&self, loading: &Loading, always: bool) {
        let before = self.held().seen.clone();
        if !always && changed(&self.path) == before.changed {
            return;
        }
        let result = match look(&self.path) {
            Ok(seen) if seen.source == before.source => {
                self.held().seen = seen;
                return;
            }
            Ok(seen) => {
                let result = load(&self.path, &seen.source, loading).await;
                self.held().seen = seen;
                result
            }
            Err(error) => {
                self.held().seen.changed = changed(&self.path);
                Err(error)
            }
        };
        self.take(result);
    }

    fn take(&self, result: Result<Loaded, LoadError>) {
        let path = self.path.display();
        let mut held = self.held();
        match result {
            Ok(loaded) => {
                tracing::info!(%path, "script in use");
                held.previous = Some(std::mem::replace(&mut held.current, Arc::new(loaded)));
                (held.refused, held.alarm) = (None, None);
            }
            Err(error) => {
                tracing::error!(%path, %error, "script refused; the one before stays in use");
                held.refused = Some(error.to_string());
            }
        }
    }

    /// Counts how a call of a script ended. One that errs too often at its beginning goes, and the one before it
    /// returns.
    pub(super) fn ended(&self, loaded: &Arc<Loaded>, context: Context, error: Option<&str>) {
        let (runs, errors) = loaded.counts(context);
        let runs = runs.fetch_add(1, Relaxed) + 1;
        let Some(error) = error else { return };
        let errors = errors.fetch_add(1, Relaxed) + 1;
        if runs > TRIAL || errors != MAX_ERRORS + 1 {
            return;
        }
        let mut held = self.held();
        if !Arc::ptr_eq(&held.current, loaded) {
            return;
        }
        let path = self.path.display();
        let alarm = match held.previous.take() {
            Some(previous) => {
                held.current = previous;
                format!(
                    "{errors} of its first {runs} messages failed ({error}): the script before is in use again"
                )
            }
            None => format!(
                "{errors} of its first {runs} messages failed ({error}), and there is no script before it"
            ),
        };
        tracing::error!(%path, alarm, "script fails");
        held.alarm = Some(alarm);
    }

    /// Calls and errors of the script as it is.
    pub(super) fn calls(&self) -> (u64, u64) {
        let held = self.held();
        (sum(&held.current.runs), sum(&held.current.errors))
    }

    pub(super) fn status(&self) -> Value {
        let held = self.held();
        json!({
            "file": self.path.display().to_string(),
            "calls": sum(&held.current.runs),
            "errors": sum(&held.current.errors),
            "refused": held.refused,
            "alarm": held.alarm,
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sum(counts: &[AtomicU64]) -> u64 {
    counts.iter().map(|count| count.load(Relaxed)).sum()
}

/// None: there is no file.
fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|about| about.modified()).ok()
}

fn look(path: &Path) -> Result<Seen, LoadError> {
    // Before the content, so that a change behind it is not missed.
    let changed = changed(path);
    let source = String::from_utf8_lossy(&read(path, MAX_SIZE)?).into();
    Ok(Seen { changed, source })
}

async fn load(path: &Path, source: &str, loading: &Loading) -> Result<Loaded, LoadError> {
    let name = path.file_name().map_or_else(|| "script".into(), |name| name.to_string_lossy());
    let script = Script::new(&name, source, loading.bounds)?;
    names::check(&name, source, &loading.missing)?;
    loading.samples.try_on(&script, &loading.replies).await?;
    Ok(Loaded { script, runs: Default::default(), errors: Default::default() })
}
