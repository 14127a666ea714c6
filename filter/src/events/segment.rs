//! One file of events: those of a day, or of a part of it where a day is too large.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use weir_daemon::time;

use super::schema;

/// Another process (`forget`) may be writing.
const BUSY: Duration = Duration::from_secs(5);

/// What SQLite puts beside a database while it is open.
const BESIDE: [&str; 2] = ["-wal", "-shm"];

/// A file's place in the order of all: its day as the number 20261121, and its number in that day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    pub day: u64,
    pub number: u64,
}

impl Name {
    pub fn path(self, directory: &Path) -> PathBuf {
        directory.join(format!("{}-{}.sqlite", self.day, self.number))
    }

    fn parse(stem: &str) -> Option<Self> {
        let (day, number) = stem.split_once('-')?;
        let digits = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit());
        let day = day.parse().ok().filter(|_| day.len() == 8 && digits(day))?;
        Some(Self { day, number: number.parse().ok().filter(|_| digits(number))? })
    }
}

/// A file of the directory, with what SQLite keeps beside it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub name: Name,
    /// Moved aside, and not to be read.
    pub damaged: bool,
    pub path: PathBuf,
}

/// All files of events, oldest first.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<Listed>> {
    let mut listed = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let Some((stem, kind)) = file.split_once('.') else { continue };
        let Some(name) = Name::parse(stem) else { continue };
        let damaged = kind.starts_with("damaged");
        if kind == "sqlite" || damaged {
            listed.push(Listed { name, damaged, path });
        }
    }
    listed.sort();
    Ok(listed)
}

impl Listed {
    /// Bytes on disk.
    pub fn size(&self) -> u64 {
        let size = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        self.beside().map(size).sum::<u64>() + size(self.path.clone())
    }

    /// # Errors
    /// If the file itself cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)?;
        for path in self.beside() {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    fn beside(&self) -> impl Iterator<Item = PathBuf> {
        BESIDE.into_iter().map(|suffix| with_suffix(&self.path, suffix))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    beside.into()
}

/// Day and second of it: 20261121 from a second since 1970.
pub fn day(unix: u64) -> u64 {
    let (year, month, day) = time::date(unix);
    year * 10_000 + month * 100 + day
}

/// The second at which a day ends.
pub fn end(day: u64) -> Option<u64> {
    time::midnight(day / 10_000, day / 100 % 100, day % 100).map(|midnight| midnight + 86_400)
}

/// A file that is open to be written.
#[derive(Debug)]
pub struct Segment {
    pub name: Name,
    pub path: PathBuf,
    pub database: Connection,
    /// When its last event was.
    pub last: u64,
}

impl Segment {
    /// Opens the file; one that is not there is made.
    ///
    /// # Errors
    /// If it is damaged, of another version, or cannot be used.
    pub fn open(directory: &Path, name: Name) -> rusqlite::Result<Self> {
        let path = name.path(directory);
        let mut database = Connection::open(&path)?;
        database.busy_timeout(BUSY)?;
        // Readers read while it is written, and a killed process leaves it whole.
        database.pragma_update(None, "journal_mode", "WAL")?;
        // What the machine (not the process) loses in a crash is the last seconds.
        database.pragma_update(None, "synchronous", "NORMAL")?;
        // What is forgotten is not left in free pages.
        database.pragma_update(None, "secure_delete", true)?;
        let version: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        match version {
            0 => {
                let transaction = database.transaction()?;
                transaction.execute_batch(schema::TABLE)?;
                transaction.pragma_update(None, "user_version", schema::VERSION)?;
                transaction.commit()?;
            }
            schema::VERSION => {}
            _ => return Err(other_version()),
        }
        let last: Option<i64> = database.query_row("SELECT max(at) FROM message", [], |row| row.get(0))?;
        Ok(Self { name, path, database, last: last.map_or(0, i64::cast_unsigned) })
    }

    /// Bytes of its pages, without what is still in the log beside it.
    ///
    /// # Errors
    /// Those of the database.
    pub fn size(&self) -> rusqlite::Result<u64> {
        let number = |pragma| self.database.query_row(pragma, [], |row| row.get::<_, i64>(0));
        Ok((number("PRAGMA page_count")? * number("PRAGMA page_size")?).cast_unsigned())
    }
}

/// A file that is only read. None: it is of another version, or went since it was listed.
///
/// # Errors
/// If it is damaged or cannot be used.
pub fn read(path: &Path) -> rusqlite::Result<Option<Connection>> {
    let database = match Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY) {
        Err(_) if !path.exists() => return Ok(None),
        opened => opened?,
    };
    database.busy_timeout(BUSY)?;
    let version: Option<i64> = database.query_row("PRAGMA user_version", [], |row| row.get(0)).optional()?;
    Ok(Some(database).filter(|_| version == Some(schema::VERSION)))
}

/// Whether a file with this error is of no use any more.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        || matches!(error, rusqlite::Error::SqliteFailure(_, Some(text)) if text.starts_with("no such table"))
        || matches!(error, rusqlite::Error::SqlInputError { msg, .. } if msg.starts_with("no such table"))
        || *error == other_version()
}

fn other_version() -> rusqlite::Error {
    rusqlite::Error::InvalidParameterName("made by another version of weir-filter".into())
}
