//! Whose mail a filter node has refused lately: such a customer is not exempted by itself.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{file, time};
use crate::config::{Config, WhenTlsWanted};
use crate::relay::record::{Record, Verdict};
use crate::source::Source;
use crate::steer::BootTime;

const NAME: &str = "refusals.json";

const VERSION: u32 = 1;

/// How often the file is written, if there is anything new: the refusals that an agent killed may take with it.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);

/// How long a refusal counts.
const MEMORY: Duration = Duration::from_secs(86_400);

/// Sources remembered; when there are more, the one whose last refusal is the oldest is forgotten, and counts as one
/// that had none.
const MAX_SOURCES: usize = 100_000;

#[derive(Debug)]
pub struct Refusals {
    /// Where they are kept for the next start. `None`: nobody is exempted by itself, so nothing is remembered.
    file: Option<PathBuf>,
    history: Mutex<History>,
}

#[derive(Debug, Default)]
struct History {
    /// The number of each source's last refusal.
    last: HashMap<Source, u64>,
    /// By number, which is by age: source, and until when its refusal counts.
    by_age: BTreeMap<u64, (Source, BootTime)>,
    next: u64,
    /// Sources refused since somebody asked.
    news: Vec<Source>,
    /// Changed since the file was written.
    unsaved: bool,
    /// When the file may be written again.
    due: Option<BootTime>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// The oldest first.
    refusals: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    source: IpAddr,
    /// Until when it counts, in seconds since 1970.
    until: u64,
}

impl Refusals {
    /// Those that the last run remembered.
    pub fn of(config: &Config) -> Self {
        match config.relay.wanted_tls {
            WhenTlsWanted::Report => Self { file: None, history: Mutex::default() },
            WhenTlsWanted::Exempt => Self::open(&config.state.directory),
        }
    }

    pub(super) fn open(directory: &Path) -> Self {
        let path = directory.join(NAME);
        let mut history: History = file::load(&path, read);
        (history.news, history.unsaved) = (Vec::new(), false);
        Self { file: Some(path), history: Mutex::new(history) }
    }

    /// Writes them down for the next start, if there is anything new: at most every minute, or `at_once`.
    pub fn save(&self, at_once: bool) {
        let Some(path) = &self.file else { return };
        let (mut history, now) = (self.lock(), BootTime::now());
        let due = at_once || history.due.is_none_or(|due| due <= now);
        if !history.unsaved || !due {
            return;
        }
        (history.unsaved, history.due) = (false, Some(now.after(SAVE_INTERVAL)));
        let line = |(source, until): &(Source, BootTime)| Line {
            source: source.address(),
            until: time::unix(*until),
        };
        let lines = history.by_age.values().filter(|(_, until)| *until > now).map(line).collect();
        // Sessions need not wait for the disk.
        drop(history);
        if let Err(error) = file::replace(path, &Document { version: VERSION, refusals: lines }) {
            warn!(path = %path.display(), %error, "the next start will not know whose mail was refused");
            self.lock().unsaved = true;
        }
    }

    /// Remembers the customer if a node refused the message, whether or not it passed none the less (in shadow mode).
    /// What weir refused in a node's place, or the destination, says nothing of the customer.
    pub fn note(&self, customer: IpAddr, record: &Record) {
        let refused = matches!(record.verdict, Verdict::Reject | Verdict::Defer);
        if refused && record.node.is_some() && record.failure.is_none() {
            self.add(Source::of(customer), BootTime::now());
        }
    }

    /// A message of this customer was refused in another agent's session.
    pub fn refused(&self, customer: IpAddr) {
        self.add(Source::of(customer), BootTime::now());
    }

    pub(super) fn add(&self, source: Source, now: BootTime) {
        if self.file.is_some() {
            self.lock().add(source, now.after(MEMORY));
        }
    }

    /// Whether a message of this source was refused in the last 24 hours.
    pub(super) fn is_recent(&self, source: Source, now: BootTime) -> bool {
        let history = self.lock();
        let last = history.last.get(&source).and_then(|number| history.by_age.get(number));
        last.is_some_and(|(_, until)| *until > now)
    }

    /// Sources refused since the last call.
    pub(crate) fn take_news(&self) -> Vec<Source> {
        std::mem::take(&mut self.lock().news)
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn add(&mut self, source: Source, until: BootTime) {
        let number = self.next;
        self.next += 1;
        if let Some(earlier) = self.last.insert(source, number) {
            self.by_age.remove(&earlier);
        }
        self.by_age.insert(number, (source, until));
        if self.last.len() > MAX_SOURCES
            && let Some((_, (oldest, _))) = self.by_age.pop_first()
        {
            self.last.remove(&oldest);
        }
        if self.news.len() < MAX_SOURCES {
            self.news.push(source);
        }
        self.unsaved = true;
    }
}

fn read(document: Document) -> Result<History, String> {
    if document.version != VERSION {
        return Err(format!("version {} is not known, only {VERSION} is", document.version));
    }
    let (boot, wall) = (BootTime::now(), time::unix(BootTime::now()));
    let mut history = History::default();
    for Line { source, until } in document.refusals {
        let left = Duration::from_secs(until.saturating_sub(wall)).min(MEMORY);
        if !left.is_zero() {
            history.add(Source::of(source), boot.after(left));
        }
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusals() -> Refusals {
        Refusals { file: Some("/nowhere".into()), history: Mutex::default() }
    }

    fn source(address: &str) -> Source {
        Source::of(address.parse().unwrap())
    }

    #[test]
    fn the_page_on_privacy_describes_the_file() {
        crate::privacy::tests::describes::<Line>(NAME);
    }

    #[test]
    fn a_source_is_an_address_or_a_slash_64() {
        assert_eq!(source("10.1.0.2"), source("::ffff:10.1.0.2"));
        assert_ne!(source("10.1.0.2"), source("10.1.0.3"));
        assert_eq!(source("fd01::2"), source("fd01::ffff:0:0:3"));
        assert_ne!(source("fd01::2"), source("fd01:0:0:1::2"));
        let (first, last) = source("fd01::2").range();
        assert_eq!(
            (first.to_string().as_str(), last.to_string().as_str()),
            ("fd01::", "fd01::ffff:ffff:ffff:ffff")
        );
    }

    #[test]
    fn a_refusal_counts_for_a_day() {
        let (refusals, now) = (refusals(), BootTime::now());
        refusals.add(source("fd01::2"), now);
        assert!(refusals.is_recent(source("fd01::3"), now.after(MEMORY - Duration::from_secs(1))));
        assert!(!refusals.is_recent(source("fd01::3"), now.after(MEMORY)));
        assert!(!refusals.is_recent(source("fd02::2"), now));
        assert_eq!(refusals.take_news(), [source("fd01::2")]);
        assert_eq!(refusals.take_news(), []);
    }

    #[test]
    fn the_oldest_give_way() {
        let (refusals, now) = (refusals(), BootTime::now());
        let numbered = |number: usize| Source::of(IpAddr::from(u32::try_from(number).unwrap().to_be_bytes()));
        for number in 0..MAX_SOURCES {
            refusals.add(numbered(number), now);
        }
        refusals.add(numbered(0), now);
        refusals.add(numbered(MAX_SOURCES), now);
        assert!(refusals.is_recent(numbered(0), now), "refused again");
        assert!(!refusals.is_recent(numbered(1), now), "the oldest");
        assert!(refusals.is_recent(numbered(2), now));
        let history = refusals.lock();
        assert_eq!((history.last.len(), history.by_age.len()), (MAX_SOURCES, MAX_SOURCES));
    }

    #[test]
    fn they_survive_a_restart() {
        let directory = tempfile::TempDir::new().unwrap();
        let (refusals, now) = (Refusals::open(directory.path()), BootTime::now());
        let is_written =
            || std::fs::read_to_string(directory.path().join(NAME)).is_ok_and(|text| text.contains("10."));
        refusals.save(true);
        assert!(!is_written(), "nothing to keep");
        refusals.add(source("fd01::2"), now);
        refusals.save(false);
        refusals.add(source("10.1.0.2"), now);
        refusals.save(false);
        assert!(!is_written(), "not every second");
        refusals.save(true);
        let next = Refusals::open(directory.path());
        for refused in ["10.1.0.2", "fd01::2"] {
            assert!(next.is_recent(source(refused), now));
            assert!(!next.is_recent(source(refused), now.after(MEMORY + Duration::from_secs(2))));
        }
        assert_eq!(next.take_news(), [], "nobody was refused since");

        std::fs::write(directory.path().join(NAME), "{").unwrap();
        assert!(!Refusals::open(directory.path()).is_recent(source("10.1.0.2"), now));
    }

    #[test]
    fn nothing_is_remembered_where_nobody_asks() {
        let (none, now) = (Refusals { file: None, history: Mutex::default() }, BootTime::now());
        none.add(source("10.1.0.2"), now);
        none.save(true);
        assert!(!none.is_recent(source("10.1.0.2"), now));
    }
}
