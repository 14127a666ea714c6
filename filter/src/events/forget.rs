//! Removing the events of a customer before their time.

use std::path::Path;

use rusqlite::params_from_iter;

use super::search::{Query, condition};
use super::segment::{self, Segment};

/// Rows deleted at a time: the node writes between them.
const AT_ONCE: usize = 1000;

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub events: usize,
    /// Files in which events may be left, and why.
    pub unread: Vec<String>,
}

/// Removes all events that a query finds, whatever its limit; also while a node writes. What was deleted is overwritten.
///
/// # Errors
/// If the directory cannot be read.
pub fn forget(directory: &Path, query: &Query) -> std::io::Result<Forgotten> {
    let mut forgotten = Forgotten::default();
    for file in segment::list(directory)? {
        if file.damaged {
            forgotten.unread.push(format!("{}: damaged; remove it", file.path.display()));
            continue;
        }
        match Segment::open(directory, file.name).and_then(|segment| delete(&segment, query)) {
            Ok(events) => forgotten.events += events,
            Err(_) if !file.path.exists() => {}
            Err(cause) => forgotten.unread.push(format!("{}: {cause}", file.path.display())),
        }
    }
    Ok(forgotten)
}

fn delete(segment: &Segment, query: &Query) -> rusqlite::Result<usize> {
    let (terms, _) = condition(query);
    let sql =
        format!("DELETE FROM message WHERE at IN (SELECT at FROM message WHERE {terms} LIMIT {AT_ONCE})");
    let mut events = 0;
    loop {
        let deleted = segment.database.execute(&sql, params_from_iter(condition(query).1))?;
        events += deleted;
        if deleted < AT_ONCE {
            break;
        }
    }
    if events > 0 {
        // The log beside the file still has what it was before.
        segment.database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    }
    Ok(events)
}
