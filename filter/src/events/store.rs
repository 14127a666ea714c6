//! All files of events: which is written, which go.
//!
//! A file a day, not one for all: the oldest go by a removal, which costs nothing and gives the room back at once, where
//! deleting rows would rewrite every index; the indexes that are written fit into memory, so that writing does not
//! slow down with what is kept; and damage ends with the file that has it. A day larger than a sixteenth of all the
//! room has several files. An answer asks file after file, latest first, until it has enough.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tracing::{error, info};

use super::event::{Event, Outcome};
use super::schema;
use super::segment::{self, Listed, Name, Segment, is_damage};

/// Parts of the room that one file takes; also what is left free for the log beside the one that is written.
const PARTS: u64 = 16;

/// Outcomes come seconds to minutes after their events: they are looked for in so many files.
const LATEST: usize = 3;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub keep_days: u64,
    pub max_size: u64,
}

/// Why events cannot be stored at all.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("events.directory: {path}: {source}", path = path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error("events.directory: {path}: another weir-filter stores its events there", path = path.display())]
    Taken { path: PathBuf },
}

/// The directory, open to be written by one process.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    bounds: Bounds,
    current: Option<Segment>,
    /// Bytes of all other files.
    others: u64,
    /// Files that were moved aside.
    pub damaged: u64,
    /// Held as long as this is open.
    _claim: fs::File,
}

/// What is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub files: usize,
    pub bytes: u64,
}

impl Store {
    /// # Errors
    /// If the directory cannot be used, or another process does.
    pub fn open(directory: &Path, bounds: Bounds) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Unusable { path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(unusable)?;
        let claim = fs::File::create(directory.join("lock")).map_err(unusable)?;
        match claim.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StoreError::Taken { path: directory.to_owned() });
            }
            Err(fs::TryLockError::Error(source)) => return Err(unusable(source)),
            Ok(()) => {}
        }
        let mut store = Self {
            directory: directory.to_owned(),
            bounds,
            current: None,
            others: 0,
            damaged: 0,
            _claim: claim,
        };
        store.measure().map_err(unusable)?;
        Ok(store)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes a batch, all or nothing; a damaged file is moved aside first. `now` in seconds since 1970.
    ///
    /// # Errors
    /// Those of the database; the batch is lost.
    pub fn write(
        &mut self,
        events: &[Event],
        outcomes: &[(String, Outcome)],
        now: u64,
    ) -> rusqlite::Result<Lost> {
        match self.try_write(events, outcomes, now) {
            Err(error) if is_damage(&error) => {
                self.move_current_aside(&error);
                self.try_write(events, outcomes, now)
            }
            written => written,
        }
    }

    fn try_write(
        &mut self,
        events: &[Event],
        outcomes: &[(String, Outcome)],
        now: u64,
    ) -> rusqlite::Result<Lost> {
        let current = self.current(now)?;
        let transaction = current.database.transaction()?;
        let mut last = current.last;
        for event in events {
            // Two in one microsecond are put one apart.
            last = event.at.max(last + 1);
            schema::insert(&transaction, &Event { at: last, ..event.clone() })?;
        }
        let mut elsewhere = Vec::new();
        for (id, outcome) in outcomes {
            if !schema::fill_in(&transaction, id, outcome)? {
                elsewhere.push((id, outcome));
            }
        }
        transaction.commit()?;
        current.last = last;
        let lost = self.fill_in_earlier(&elsewhere)?;
        Ok(Lost { outcomes: lost })
    }

    /// Outcomes of messages that are in files of before. The number of those found nowhere.
    fn fill_in_earlier(&self, outcomes: &[(&String, &Outcome)]) -> rusqlite::Result<usize> {
        if outcomes.is_empty() {
            return Ok(0);
        }
        let mut left: Vec<_> = outcomes.to_vec();
        let current = self.current.as_ref().map(|current| current.name);
        for file in self.files().iter().rev().filter(|file| Some(file.name) != current).take(LATEST) {
            let mut segment = match Segment::open(&self.directory, file.name) {
                Ok(segment) => segment,
                Err(error) if is_damage(&error) => continue,
                Err(error) => return Err(error),
            };
            let transaction = segment.database.transaction()?;
            let mut missing = Vec::new();
            for (id, outcome) in left {
                if !schema::fill_in(&transaction, id, outcome)? {
                    missing.push((id, outcome));
                }
            }
            transaction.commit()?;
            left = missing;
            if left.is_empty() {
                break;
            }
        }
        Ok(left.len())
    }

    /// The file that is written now.
    fn current(&mut self, now: u64) -> rusqlite::Result<&mut Segment> {
        let today = segment::day(now);
        let full = match &self.current {
            Some(current) => current.name.day < today || current.size()? >= self.bounds.max_size / PARTS,
            None => true,
        };
        if full {
            let name = self.next_name(today);
            // Closed first: its log goes with that.
            self.current = None;
            let opened = Segment::open(&self.directory, name);
            self.current = Some(match opened {
                Err(error) if is_damage(&error) => {
                    self.move_aside(&name.path(&self.directory), &error);
                    Segment::open(&self.directory, Name { number: name.number + 1, ..name })?
                }
                opened => opened?,
            });
            self.retain(now);
        }
        // It was put there just now, if it was not there before.
        self.current.as_mut().ok_or(rusqlite::Error::QueryReturnedNoRows)
    }

    /// The last file of today while there is room in it, else one more. A clock that went back makes no file before
    /// the last.
    fn next_name(&self, today: u64) -> Name {
        let files = self.files();
        let Some(last) = files.last().filter(|last| last.name.day >= today) else {
            return Name { day: today, number: 1 };
        };
        let next = Name { number: last.name.number + 1, ..last.name };
        let has_room = !last.damaged && last.size() < self.bounds.max_size / PARTS;
        let is_full = self.current.as_ref().is_some_and(|current| current.name == last.name);
        if has_room && !is_full { last.name } else { next }
    }

    /// Removes what is too old, and the oldest of what is too much. `now` in seconds since 1970.
    pub fn retain(&mut self, now: u64) {
        let current = self.current.as_ref().map(|current| current.name);
        let mut files: Vec<(Listed, u64)> = self
            .files()
            .into_iter()
            .map(|file| (file.size(), file))
            .map(|(size, file)| (file, size))
            .collect();
        let keep = self.bounds.keep_days * 86_400;
        let too_old = |file: &Listed| segment::end(file.name.day).is_some_and(|end| end + keep <= now);
        let room = self.bounds.max_size - self.bounds.max_size / PARTS;
        let mut bytes: u64 = files.iter().map(|(_, size)| size).sum();
        files.retain(|(file, size)| {
            if Some(file.name) == current && !file.damaged || !(too_old(file) || bytes > room) {
                return true;
            }
            match file.remove() {
                Ok(()) => {
                    bytes -= size;
                    info!(file = %file.path.display(), bytes = size, "events removed: their time or their room is over");
                    false
                }
                Err(cause) => {
                    error!(file = %file.path.display(), %cause, "events cannot be removed");
                    true
                }
            }
        });
        let others = files.iter().filter(|(file, _)| Some(file.name) != current);
        self.others = others.map(|(_, size)| size).sum();
        // A quiet node's last file would otherwise stay for ever.
        if self.current.as_ref().is_some_and(|current| current.name.day < segment::day(now)) {
            self.current = None;
        }
    }

    pub fn usage(&self) -> Usage {
        let files = self.files();
        Usage { files: files.len(), bytes: files.iter().map(Listed::size).sum() }
    }

    /// Whether the files take more room than they may.
    pub fn is_over(&self) -> bool {
        let current = self.current.as_ref().and_then(|current| current.size().ok()).unwrap_or(0);
        self.others + current > self.bounds.max_size - self.bounds.max_size / PARTS
    }

    fn files(&self) -> Vec<Listed> {
        segment::list(&self.directory).unwrap_or_else(|cause| {
            error!(directory = %self.directory.display(), %cause, "events cannot be listed");
            Vec::new()
        })
    }

    fn measure(&mut self) -> io::Result<()> {
        self.others = segment::list(&self.directory)?.iter().map(Listed::size).sum();
        Ok(())
    }

    fn move_current_aside(&mut self, why: &rusqlite::Error) {
        if let Some(current) = self.current.take() {
            let path = current.path.clone();
            drop(current);
            self.move_aside(&path, why);
        }
    }

    fn move_aside(&mut self, path: &Path, why: &rusqlite::Error) {
        self.damaged += 1;
        let aside = path.with_extension(format!("damaged-{:08x}", rand::random::<u32>()));
        match fs::rename(path, &aside) {
            Ok(()) => error!(
                file = %path.display(), aside = %aside.display(), cause = %why,
                "events are damaged: the file was moved aside, a new one is begun"
            ),
            Err(cause) => error!(file = %path.display(), %cause, "damaged events cannot be moved aside"),
        }
        // They belong to a file that is no more.
        for suffix in ["-wal", "-shm"] {
            let mut beside = path.as_os_str().to_owned();
            beside.push(suffix);
            let _ = fs::remove_file(beside);
        }
    }
}

/// What could not be stored of a batch that was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Outcomes of messages that are not known here.
    pub outcomes: usize,
}
