//! The table of events, and the way of one event in and out of it. `docs/privacy.md` is generated from the same list of
//! columns, so a field that is stored and not described cannot be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, ToSql, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::event::{Event, Outcome};

/// Changes with the table below. Files of another version are neither read nor written, and go when their time has come.
pub const VERSION: i64 = 1;

/// The rows are in the order of time, so time needs no index of its own, and every index below ends with it: the
/// latest of a customer are next to each other.
pub const TABLE: &str = "
    CREATE TABLE message (
        at INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        agent BLOB,
        node TEXT NOT NULL,
        customer TEXT,
        customer_unknown INTEGER NOT NULL,
        address BLOB,
        destination BLOB,
        destination_port INTEGER,
        banner TEXT,
        helo TEXT,
        sender TEXT,
        sender_domain TEXT,
        recipients INTEGER NOT NULL,
        recipient_addresses TEXT,
        recipient_domains TEXT,
        size INTEGER NOT NULL,
        bare_line_ends INTEGER NOT NULL,
        message_id TEXT,
        verdict TEXT NOT NULL,
        rule TEXT,
        reason TEXT,
        scores TEXT,
        infections TEXT,
        bypassed TEXT,
        reply_code INTEGER,
        reply TEXT,
        steps TEXT
    );
    CREATE INDEX message_by_id ON message (id);
    CREATE INDEX message_by_customer ON message (customer) WHERE customer IS NOT NULL;
    CREATE INDEX message_by_address ON message (address);
    CREATE INDEX message_by_message_id ON message (message_id) WHERE message_id IS NOT NULL;
";

pub const COLUMNS: &str = "at, id, agent, node, customer, customer_unknown, address, destination, \
    destination_port, banner, helo, sender, sender_domain, \
    recipients, recipient_addresses, recipient_domains, size, bare_line_ends, message_id, verdict, rule, reason, \
    scores, infections, bypassed, reply_code, reply, steps";

const INSERT: &str = "INSERT INTO message VALUES \
    (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// A recipient that was refused before has a row of the same id, and no destination heard of him.
const FILL_IN: &str = "UPDATE message SET banner = coalesce(?2, banner), reply_code = ?3, reply = ?4 \
    WHERE id = ?1 AND verdict = 'accept'";

/// Writes one row.
///
/// # Errors
/// Those of the database.
pub fn insert(database: &Connection, event: &Event) -> rusqlite::Result<()> {
    database.prepare_cached(INSERT)?.execute(params![
        event.at.cast_signed(),
        event.id,
        event.agent.map(octets),
        event.node,
        event.customer,
        event.customer_unknown,
        event.address.map(octets),
        event.destination.map(octets),
        event.destination_port,
        event.banner,
        event.helo,
        event.sender,
        event.sender_domain,
        event.recipients.cast_signed(),
        list(&event.recipient_addresses),
        list(&event.recipient_domains),
        event.size.cast_signed(),
        event.bare_line_ends.cast_signed(),
        event.message_id,
        event.verdict,
        event.rule,
        event.reason,
        list(&event.scores),
        list(&event.infections),
        list(&event.bypassed),
        event.reply_code,
        event.reply,
        list(&event.steps),
    ])?;
    Ok(())
}

/// Completes the row of a message. False: it is not here.
///
/// # Errors
/// Those of the database.
pub fn fill_in(database: &Connection, id: &str, outcome: &Outcome) -> rusqlite::Result<bool> {
    let values: [&dyn ToSql; 4] = [&id, &outcome.banner, &outcome.code, &outcome.reply];
    Ok(database.prepare_cached(FILL_IN)?.execute(values)? > 0)
}

/// An event from a row of [`COLUMNS`].
///
/// # Errors
/// If a value is not of its type.
pub fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let number = |column: &str| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(Event {
        at: number("at")?,
        id: row.get("id")?,
        agent: address(row, "agent")?,
        node: row.get("node")?,
        customer: row.get("customer")?,
        customer_unknown: row.get("customer_unknown")?,
        address: address(row, "address")?,
        destination: address(row, "destination")?,
        destination_port: row.get("destination_port")?,
        banner: row.get("banner")?,
        helo: row.get("helo")?,
        sender: row.get("sender")?,
        sender_domain: row.get("sender_domain")?,
        recipients: number("recipients")?,
        recipient_addresses: listed(row, "recipient_addresses")?,
        recipient_domains: listed(row, "recipient_domains")?,
        size: number("size")?,
        bare_line_ends: number("bare_line_ends")?,
        message_id: row.get("message_id")?,
        verdict: row.get("verdict")?,
        rule: row.get("rule")?,
        reason: row.get("reason")?,
        scores: listed(row, "scores")?,
        infections: listed(row, "infections")?,
        bypassed: listed(row, "bypassed")?,
        reply_code: row.get("reply_code")?,
        reply: row.get("reply")?,
        steps: listed(row, "steps")?,
    })
}

/// An address as it is stored: 4 or 16 octets, so that the addresses of a prefix are next to each other.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address of stored octets.
pub fn from_octets(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

fn address(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<IpAddr>> {
    match row.get_ref(column)? {
        ValueRef::Blob(octets) => Ok(from_octets(octets)),
        _ => Ok(None),
    }
}

/// As JSON; an empty list takes no room.
fn list<T: Serialize>(list: &[T]) -> Option<String> {
    // What is serialised here are texts and numbers, which cannot fail.
    if list.is_empty() { None } else { serde_json::to_string(list).ok() }
}

fn listed<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<Vec<T>> {
    let text: Option<String> = row.get(column)?;
    let parsed = text.map_or(Ok(Vec::new()), |text| serde_json::from_str(&text));
    parsed.map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
    })
}
