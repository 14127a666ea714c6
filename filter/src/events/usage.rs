//! How many addresses sent mail, day by day: what licences count.

use std::collections::{BTreeMap, HashSet};
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

/// Of the days from `since` (a second since 1970) on, from the files of events. Exact: each day has files of its own,
/// and its addresses are in an index.
///
/// # Errors
/// If the directory cannot be read.
pub fn usage(directory: &Path, since: Option<u64>) -> std::io::Result<Days> {
    let mut days: BTreeMap<u64, (HashSet<Source>, u64)> = BTreeMap::new();
    let mut unread = Vec::new();
    let first = since.map_or(0, segment::day);
    for file in segment::list(directory)?.into_iter().filter(|file| file.name.day >= first) {
        if file.damaged {
            unread.push(format!("{}: damaged", file.path.display()));
            continue;
        }
        let (sources, messages) = days.entry(file.name.day).or_default();
        match count(&file.path, sources) {
            Ok(some) => *messages += some,
            Err(cause) => unread.push(format!("{}: {cause}", file.path.display())),
        }
    }
    let day = |(day, (sources, messages)): (u64, (HashSet<Source>, u64))| Day {
        day: format!("{:04}-{:02}-{:02}", day / 10_000, day / 100 % 100, day % 100),
        sources: sources.len(),
        messages,
    };
    Ok(Days { days: days.into_iter().rev().map(day).collect(), unread })
}

fn count(path: &Path, sources: &mut HashSet<Source>) -> rusqlite::Result<u64> {
    let Some(database) = segment::read(path)? else { return Ok(0) };
    let sql = "SELECT address, count(*) FROM message GROUP BY address";
    let mut statement = database.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut messages = 0;
    while let Some(row) = rows.next()? {
        let address: Option<Vec<u8>> = row.get(0)?;
        sources.extend(address.as_deref().and_then(from_octets).map(Source::of));
        messages += row.get::<_, i64>(1)?.cast_unsigned();
    }
    Ok(messages)
}
