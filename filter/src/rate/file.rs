//! Counts that outlive the process: those in memory are saved every few seconds, and put back at the start.
//!
//! A file that is damaged is an error: to begin from nothing would loosen every limit.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::memory::Change;
use super::series::Entry;
use super::{Memory, Moment};

/// How often counts are saved. A process that is killed loses at most what was counted in this time and in that of
/// one saving.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(5);

/// Changes with the tables below.
const VERSION: i64 = 1;

pub(crate) const TABLES: &str = "
    CREATE TABLE window (namespace TEXT NOT NULL, place INTEGER NOT NULL, seconds INTEGER NOT NULL,
        PRIMARY KEY (namespace, place)) WITHOUT ROWID;
    CREATE TABLE key (namespace TEXT NOT NULL, key TEXT NOT NULL, ends INTEGER NOT NULL, counts BLOB NOT NULL,
        PRIMARY KEY (namespace, key)) WITHOUT ROWID;
    CREATE INDEX key_ends ON key (ends);
";

/// Why counts cannot be kept in the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(
        "counters.file: {path} is damaged ({what}), and nobody knows how much was sent lately. Put back a copy, or remove \
             it to begin from nothing"
    )]
    Damaged { path: PathBuf, what: String },
    #[error(
        "counters.file: {path} was made by another version of weir-filter (format {found}, here {VERSION}): remove it to \
             begin from nothing"
    )]
    Version { path: PathBuf, found: i64 },
    #[error("counters.file: {path}: {source}")]
    Unusable { path: PathBuf, source: io::Error },
    #[error("counters.file: {path}: {source}")]
    Database { path: PathBuf, source: rusqlite::Error },
}

/// The counts of one key, as they are in the file.
struct Row {
    key: String,
    ends: u64,
    counts: Vec<u8>,
}

/// The file, open.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    database: Connection,
}

impl File {
    /// Opens the file, which is made if there is none, and puts what is in it into `memory`.
    ///
    /// # Errors
    /// If it is damaged, or cannot be used.
    pub fn open(path: &Path, memory: &Memory, now: Moment) -> Result<Self, FileError> {
        let failed = |source| database_error(path, source);
        if !path.exists() {
            make(path)?;
        }
        let database =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        let file = Self { path: path.to_owned(), database };
        file.prepare().map_err(failed)?;
        match file.version().map_err(failed)? {
            VERSION => file.restore(memory, now)?,
            0 => return Err(FileError::Damaged { path: path.to_owned(), what: "it is empty".into() }),
            found => return Err(FileError::Version { path: path.to_owned(), found }),
        }
        Ok(file)
    }

    /// Saves what was counted since the last time, and drops what has run out. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// If it cannot be written; the next time everything is saved.
    pub fn save(&mut self, memory: &Memory, now: Moment) -> Result<(), FileError> {
        let changes = memory.changes();
        self.write(&changes, now).map_err(|source| {
            memory.mark_changed();
            database_error(&self.path, source)
        })
    }

    fn prepare(&self) -> rusqlite::Result<()> {
        // A write is whole or not there, whenever the process is killed. (A write-ahead log would be quicker, but what
        // follows damage in one is ignored without a word.)
        self.database.pragma_update(None, "journal_mode", "TRUNCATE")?;
        // Two nodes with one file would each take back what the other counted.
        self.database.pragma_update(None, "locking_mode", "EXCLUSIVE")
    }

    fn version(&self) -> rusqlite::Result<i64> {
        self.database.query_row("PRAGMA user_version", [], |row| row.get(0))
    }

    fn restore(&self, memory: &Memory, now: Moment) -> Result<(), FileError> {
        let failed = |source| database_error(&self.path, source);
        let damaged = |what: String| FileError::Damaged { path: self.path.clone(), what };
        let checked: String =
            self.database.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if checked != "ok" {
            return Err(damaged(checked));
        }
        for namespace in self.namespaces().map_err(failed)? {
            let windows = self.windows(&namespace).map_err(failed)?;
            let mut change = Change { namespace: namespace.as_str().into(), windows, ..Change::default() };
            for Row { key, ends, counts } in self.keys(&namespace).map_err(failed)? {
                let entry = decode(&namespace, &key, ends, &counts)
                    .filter(|entry| change.windows.starts_with(&entry.windows()))
                    .ok_or_else(|| damaged(format!("the counts of {key} in {namespace}")))?;
                if ends > now.0 {
                    change.entries.push((key.into(), entry));
                }
            }
            memory.restore(change, now);
        }
        Ok(())
    }

    fn namespaces(&self) -> rusqlite::Result<Vec<String>> {
        let mut statement =
            self.database.prepare("SELECT namespace FROM window UNION SELECT namespace FROM key")?;
        statement.query_map([], |row| row.get(0))?.collect()
    }

    fn windows(&self, namespace: &str) -> rusqlite::Result<Vec<u64>> {
        let mut statement =
            self.database.prepare("SELECT seconds FROM window WHERE namespace = ? ORDER BY place")?;
        statement.query_map([namespace], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?.collect()
    }

    fn keys(&self, namespace: &str) -> rusqlite::Result<Vec<Row>> {
        let mut statement = self.database.prepare("SELECT key, ends, counts FROM key WHERE namespace = ?")?;
        let row = |row: &rusqlite::Row<'_>| {
            let ends: i64 = row.get(1)?;
            Ok(Row { key: row.get(0)?, ends: ends.cast_unsigned(), counts: row.get(2)? })
        };
        statement.query_map([namespace], row)?.collect()
    }

    fn write(&mut self, changes: &[Change], now: Moment) -> rusqlite::Result<()> {
        let transaction = self.database.transaction()?;
        {
            let mut window = transaction.prepare_cached("INSERT OR REPLACE INTO window VALUES (?, ?, ?)")?;
            let mut key = transaction.prepare_cached("INSERT OR REPLACE INTO key VALUES (?, ?, ?, ?)")?;
            for change in changes {
                let namespace = &*change.namespace;
                for (place, seconds) in (0_i64..).zip(&change.windows) {
                    window.execute(params![namespace, place, seconds.cast_signed()])?;
                }
                for (name, entry) in &change.entries {
                    let ends = entry.last.saturating_add(change.life).min(i64::MAX.cast_unsigned());
                    let counts = encode(namespace, name, ends, entry);
                    key.execute(params![namespace, &**name, ends.cast_signed(), counts])?;
                }
            }
            transaction.execute("DELETE FROM key WHERE ends <= ?", [now.0.cast_signed()])?;
        }
        transaction.commit()
    }
}

/// Makes a file without counts. It has its name when it is whole: one that is empty was damaged.
fn make(path: &Path) -> Result<(), FileError> {
    let unusable = |source| FileError::Unusable { path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(unusable)?;
    }
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(unusable(error)),
        _ => {}
    }
    let fill = || -> rusqlite::Result<()> {
        let database = Connection::open(&beside)?;
        database.execute_batch(TABLES)?;
        database.pragma_update(None, "user_version", VERSION)?;
        database.close().map_err(|(_, error)| error)
    };
    fill().map_err(|source| database_error(path, source))?;
    fs::rename(&beside, path).map_err(unusable)
}

/// With all that the row says of it, and a checksum: a digit that flipped in a file must not be taken for a count.
fn encode(namespace: &str, key: &str, ends: u64, entry: &Entry) -> Vec<u8> {
    // What is serialised here cannot fail: it goes to memory, and has no map of unknown length.
    postcard::to_allocvec_crc32(&(namespace, key, ends, entry), CRC.digest()).unwrap_or_default()
}

fn decode(namespace: &str, key: &str, ends: u64, counts: &[u8]) -> Option<Entry> {
    let (of_namespace, of_key, says_ends, entry): (String, String, u64, Entry) =
        postcard::from_bytes_crc32(counts, CRC.digest()).ok()?;
    (of_namespace == namespace && of_key == key && says_ends == ends).then_some(entry)
}

const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

fn database_error(path: &Path, source: rusqlite::Error) -> FileError {
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            FileError::Damaged { path: path.to_owned(), what: source.to_string() }
        }
        _ => FileError::Database { path: path.to_owned(), source },
    }
}
