//! How many addresses sent mail, day by day: IP addresses, and mail addresses, which are what licences count.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use serde::Serialize;

use super::schema::from_octets;
use super::segment;
use crate::rate::Source;

/// One day's count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Day {
    /// 2026-11-21, in UTC.
    pub day: String,
    /// Different IPv4 addresses and IPv6 /64s.
    pub sources: usize,
    /// Different senders' mail addresses, as they are stored; bounces have none.
    pub senders: usize,
    pub messages: u64,
}

/// All days that are kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Days {
    /// Latest first.
    pub days: Vec<Day>,
    /// Files that could not be read, and why: the counts of their days are too low.
    pub unread: Vec<String>,
}

/// Of the days from `since` (a second since 1970) on, from the files of events: each day has files of its own, and its
/// addresses are in an index.
///
/// # Errors
/// If the directory cannot be read.
pub fn usage(directory: &Path, since: Option<u64>) -> std::io::Result<Days> {
    let mut days: BTreeMap<u64, Counted> = BTreeMap::new();
    let mut unread = Vec::new();
    let first = since.map_or(0, segment::day);
    for file in segment::list(directory)?.into_iter().filter(|file| file.name.day >= first) {
        if file.damaged {
            unread.push(format!("{}: damaged", file.path.display()));
            continue;
        }
        let counted = days.entry(file.name.day).or_default();
        if let Err(cause) = count(&file.path, counted) {
            unread.push(format!("{}: {cause}", file.path.display()));
        }
    }
    let day = |(day, counted): (u64, Counted)| Day {
        day: format!("{:04}-{:02}-{:02}", day / 10_000, day / 100 % 100, day % 100),
        sources: counted.sources.len(),
        senders: counted.senders.len(),
        messages: counted.messages,
    };
    Ok(Days { days: days.into_iter().rev().map(day).collect(), unread })
}

/// Of one day.
#[derive(Debug, Default)]
struct Counted {
    sources: HashSet<Source>,
    /// Hashes of them: of ten million, two are taken for one on one day in 300,000.
    senders: HashSet<u64>,
    messages: u64,
}

fn count(path: &Path, counted: &mut Counted) -> rusqlite::Result<()> {
    let Some(database) = segment::read(path)? else { return Ok(()) };
    let sql = "SELECT address, count(*) FROM message GROUP BY address";
    let mut statement = database.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let address: Option<Vec<u8>> = row.get(0)?;
        counted.sources.extend(address.as_deref().and_then(from_octets).map(Source::of));
        counted.messages += row.get::<_, i64>(1)?.cast_unsigned();
    }
    let mut statement = database.prepare("SELECT DISTINCT sender FROM message WHERE sender IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut hasher = DefaultHasher::new();
        row.get::<_, String>(0)?.hash(&mut hasher);
        counted.senders.insert(hasher.finish());
    }
    Ok(())
}
