//! Reading the store, while a node writes it or not.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use rusqlite::{Connection, ToSql, params_from_iter};
use serde::{Deserialize, Serialize};

use super::event::{Event, cut};
use super::schema::{self, octets};
use super::segment;

/// What is looked for: all that is said must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub id: Option<String>,
    pub message_id: Option<String>,
    pub customer: Option<String>,
    /// The customer's address is in it.
    pub prefix: Option<IpNet>,
    /// Seconds since 1970.
    pub since: Option<u64>,
    /// Not itself.
    pub until: Option<u64>,
    /// The latest of all.
    pub limit: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Latest first.
    pub events: Vec<Event>,
    /// Files that could not be read, and why: what is in them is missing.
    pub unread: Vec<String>,
}

/// One prefix for a customer that is named by his address, or by a prefix.
pub fn prefix(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(|address| IpNet::from(address.to_canonical()));
    text.parse().ok().or_else(address).map(|net: IpNet| net.trunc())
}

/// # Errors
/// If the directory cannot be read.
pub fn search(directory: &Path, query: &Query) -> std::io::Result<Found> {
    let mut events = Vec::new();
    let unread = visit(directory, query, |event| {
        events.push(event);
        Ok(())
    })?;
    Ok(Found { events, unread })
}

/// As [`search`], event by event; what cannot be read is told in the end.
///
/// # Errors
/// If the directory cannot be read, or what `each` says.
pub fn visit(
    directory: &Path,
    query: &Query,
    mut each: impl FnMut(Event) -> std::io::Result<()>,
) -> std::io::Result<Vec<String>> {
    let mut unread = Vec::new();
    let mut left = query.limit;
    let days = (query.since.map(segment::day), query.until.map(segment::day));
    for file in segment::list(directory)?.into_iter().rev() {
        if left == 0 || days.0.is_some_and(|since| file.name.day < since) {
            break;
        }
        if days.1.is_some_and(|until| file.name.day > until) {
            continue;
        }
        if file.damaged {
            unread.push(format!("{}: damaged", file.path.display()));
            continue;
        }
        let read = segment::read(&file.path).and_then(|database| match database {
            Some(database) => find(&database, query, left),
            None => Ok(Vec::new()),
        });
        match read {
            Ok(events) => {
                left -= events.len();
                events.into_iter().try_for_each(&mut each)?;
            }
            Err(cause) => unread.push(format!("{}: {cause}", file.path.display())),
        }
    }
    Ok(unread)
}

fn find(database: &Connection, query: &Query, limit: usize) -> rusqlite::Result<Vec<Event>> {
    let (condition, mut values) = condition(query);
    values.push(Box::new(i64::try_from(limit).unwrap_or(i64::MAX)));
    let columns = schema::COLUMNS;
    let sql = if is_range(query) {
        // The index of addresses says by itself which are the latest; only these are read.
        format!(
            "SELECT {columns} FROM message WHERE at IN \
             (SELECT at FROM message WHERE {condition} ORDER BY +at DESC LIMIT ?) ORDER BY at DESC"
        )
    } else {
        format!("SELECT {columns} FROM message WHERE {condition} ORDER BY at DESC LIMIT ?")
    };
    let mut statement = database.prepare(&sql)?;
    statement.query_map(params_from_iter(values), schema::event)?.collect()
}

/// Of more than one address, and of nothing else that has an index.
fn is_range(query: &Query) -> bool {
    let single = [&query.id, &query.message_id, &query.customer].into_iter().any(Option::is_some);
    !single && query.prefix.is_some_and(|prefix| prefix.prefix_len() < prefix.max_prefix_len())
}

type Values = Vec<Box<dyn ToSql>>;

/// The condition in SQL, and its values in order.
pub fn condition(query: &Query) -> (String, Values) {
    let mut terms: Vec<&str> = Vec::new();
    let mut values: Values = Vec::new();
    let texts =
        [("id = ?", &query.id), ("message_id = ?", &query.message_id), ("customer = ?", &query.customer)];
    for (term, text) in texts {
        if let Some(text) = text {
            let mut text = text.clone();
            cut(&mut text);
            terms.push(term);
            values.push(Box::new(text));
        }
    }
    if let Some(prefix) = query.prefix {
        let (first, last) = (octets_of(prefix.network()), octets_of(prefix.broadcast()));
        if first == last {
            terms.push("address = ?");
            values.push(Box::new(first));
        } else {
            terms.push("length(address) = ? AND address BETWEEN ? AND ?");
            let length = i64::try_from(first.len()).unwrap_or_default();
            values.extend([Box::new(length) as Box<dyn ToSql>, Box::new(first), Box::new(last)]);
        }
    }
    // With the sign no index of time is used, where that of addresses is to be.
    let [since, until] = if is_range(query) { ["+at >= ?", "+at < ?"] } else { ["at >= ?", "at < ?"] };
    for (term, seconds) in [(since, query.since), (until, query.until)] {
        if let Some(seconds) = seconds {
            terms.push(term);
            values.push(Box::new(i64::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX)));
        }
    }
    if terms.is_empty() {
        terms.push("1");
    }
    (terms.join(" AND "), values)
}

/// Not canonical: a prefix's first and last address are of one family.
fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(_) => octets(address),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
