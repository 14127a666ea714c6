//! Everything that a node stores of people: `docs/privacy.md` is generated from this, and a test compares it with the
//! tables as they are.

use weir_daemon::privacy::{self, Place, field, sections};

const FIND: &str = "to find the message";
const EXPLAIN: &str = "to explain the verdict";
const TRACE: &str = "to see where it went";
const ABUSE: &str = "to answer complaints and find who sends spam";

const EVENTS: Place = Place {
    title: "Events (table `message`)",
    place: "SQLite files in `events.directory`, one or more a day",
    kept: "`events.keep_days`, 30 days by default: a day's files go when its last event is so old; earlier, when `events.max_size` \
           is reached",
    deleted: "`weir-filter forget --customer NAME|PREFIX`; all: stop the node, remove the directory",
    fields: &[
        field("at", "when the message was judged, microseconds since 1970", FIND),
        field("id", "the id that agent and node share", FIND),
        field("agent", "address of the agent", TRACE),
        field("node", "name of this node", TRACE),
        field("customer", "the customer, as the provider names him", ABUSE),
        field("customer_unknown", "whether the provider's service could not be asked", EXPLAIN),
        field("address", "the customer's IP address", ABUSE),
        field("destination", "the destination's IP address", TRACE),
        field("destination_port", "and port", TRACE),
        field("banner", "the destination's name, from its banner", TRACE),
        field("helo", "what the customer's server calls itself", ABUSE),
        field(
            "sender",
            "keyed hash of the reverse-path (the address itself only with `events.store_addresses`)",
            ABUSE,
        ),
        field("sender_domain", "its domain", ABUSE),
        field("recipients", "number of recipients", EXPLAIN),
        field(
            "recipient_addresses",
            "keyed hashes of the first 20 recipients (or, as above, their addresses)",
            ABUSE,
        ),
        field("recipient_domains", "their first 20 domains", TRACE),
        field("size", "octets", EXPLAIN),
        field("bare_line_ends", "number of line ends that are none", EXPLAIN),
        field("message_id", "the header's Message-ID; not of customers in `privacy.no_content`", FIND),
        field("verdict", "accept, defer or reject", EXPLAIN),
        field("rule", "the rule that refused it", EXPLAIN),
        field("reason", "what the customer was told", EXPLAIN),
        field("scores", "what scanners said: score, names of tests", EXPLAIN),
        field("infections", "names of viruses that scanners found", EXPLAIN),
        field("bypassed", "scanners that were not asked (`content`: files and outbreaks), and why", EXPLAIN),
        field("reply_code", "code of the destination's reply", TRACE),
        field(
            "reply",
            "its text, with `[address]` in place of each word that holds a mail address (but as it is with `events.store_addresses`)",
            TRACE,
        ),
        field("steps", "milliseconds of each step", "to find what is slow"),
    ],
};

const WINDOWS: Place = Place {
    title: "Counters, their windows (table `window`)",
    place: "`counters.file`",
    kept: "as long as the file",
    deleted: "stop the node, remove the file",
    fields: &[
        field("namespace", "name of a rule", "limits must outlive a restart"),
        field("place", "number of the window", "the same"),
        field("seconds", "its length", "the same"),
    ],
};

const COUNTERS: Place = Place {
    title: "Counters (table `key`)",
    place: "memory, and `counters.file`; with `counters.redis` there, under names `weir:count:…` with the same parts",
    kept: "the longest window of the rule, a day at most (`reputation.days`, where `reputation.enabled` is set), after the last message",
    deleted: "`weir-filter forget --customer`, `weir-filter rates clear KEY`, `weir-filter customer-changed ADDRESS`",
    fields: &[
        field("namespace", "name of a rule", "limits"),
        field(
            "key",
            "a customer, an IPv4 address or an IPv6 /64; with it a sender's domain where that is limited, or the keyed hash of a bounce's \
             recipient (`policy.dsn_bypass_above`), whose key no restart outlives",
            "limits",
        ),
        field("ends", "when nothing is left of it", "to forget it then"),
        field("counts", "messages in each sixtieth of the window", "limits"),
    ],
};

const BLOCKS: Place = Place {
    title: "Blocks (fields of an entry)",
    place: "memory, and `blocks.file`; agents are told",
    kept: "until the block is over, a year at most",
    deleted: "`weir-filter unblock CUSTOMER|PREFIX`, not `weir-filter forget`: who is blocked stays so",
    fields: &[
        field("until", "when it is over", "to end it then"),
        field("reason", "why, as the customer is told", EXPLAIN),
        field("by", "operator, or a script's name", EXPLAIN),
        field("seen", "addresses of the customer that mail came from since", "to stop them at the agents"),
    ],
};

const AUDIT: Place = Place {
    title: "Audit log (fields of a line)",
    place: "`privacy.audit_log`",
    kept: "as long as the operator keeps the file: it only grows, and weir never removes it; purging the package does",
    deleted: "by the operator, with the file",
    fields: privacy::AUDIT,
};

const SAMPLES: Place = Place {
    title: "Samples (fields in the clear, the first line of a file)",
    place: "`quarantine.directory`, a file each, mode 0600 in a directory of mode 0700; only where `quarantine.enabled` is set. Behind \
            the line is the whole message, encrypted (age, X25519) to `quarantine.public_key`",
    kept: "`quarantine.keep_days`, 7 days by default; earlier, when `quarantine.max_disk` is reached",
    deleted: "`weir-filter forget --customer NAME|PREFIX`, `weir-filter quarantine delete ID`; all: remove the files",
    fields: &[
        field("id", "the message's id", FIND),
        field("time", "when it was taken, seconds since 1970", "to remove it in time"),
        field(
            "customer",
            "the customer, else his prefix, IPv4 address or IPv6 /64",
            "to forget and export it",
        ),
        field("rule", "why it was taken: `outbreak`, `spamassassin`, `script`", EXPLAIN),
    ],
};

const SIGHTINGS: Place = Place {
    title: "Sightings of the outbreak engine (fields of an entry)",
    place: "memory, with the text's signature as numbers; with `outbreak.shared` and `counters.redis` in the stream \
            `weir:outbreak:sightings` there",
    kept: "in memory until others need the room (`outbreak.max_messages`), and who sent copies for a day; in Redis the newest 100,000",
    deleted: "in memory by a restart, and of customers without a name by `weir-filter customer-changed ADDRESS`; in Redis with \
              `DEL weir:outbreak:sightings`",
    fields: &[
        field(
            "signature",
            "numbers that another copy of the text has too, and hashes of attachments",
            CAMPAIGN,
        ),
        field("customer", "hash of the customer", CAMPAIGN),
        field("source", "hash of his network", CAMPAIGN),
        field("recipients", "hashes of the first 32 recipients and of their domains", CAMPAIGN),
    ],
};

const CAMPAIGN: &str = "to see one message from many customers";

const PLACES: [Place; 7] = [EVENTS, WINDOWS, COUNTERS, BLOCKS, AUDIT, SAMPLES, SIGHTINGS];

/// `docs/privacy.md`.
pub fn document() -> String {
    HEAD.to_owned() + &sections(&PLACES)
}

const HEAD: &str = "# What weir-filter stores of people

What the agent stores: [privacy-agent.md](privacy-agent.md). A model notice to customers: [privacy-notice.md](privacy-notice.md).

Nothing of a message's content is kept: not its text, not its subject, no attachment; but for samples, where the operator has
switched `[quarantine]` on (below). A body is in memory, or in a file without a
name, until its verdict. Mail addresses are stored only as keyed hashes (HMAC-SHA256, the first 80 bits, of the address in small
letters; the key is made at the first start, `address.key` in `events.directory`, mode 0600, and never leaves the node); domains
are stored in clear; in what a destination replied `[address]` stands for them. Whoever has the key can test whether an address he knows was a sender or a recipient, and no more; remove
the key, and nobody can.

Messages of customers in `privacy.no_content` meet the limits only: nobody looks at their content, so they have no scores and no
Message-ID here, and do not count as bulk mail for that.

Log lines on standard error say the same as an event, without sender, recipients and their hashes; how long they are kept is the
service manager's business.

Where `[channel]` is set, the node remembers the last 100,000 accepted messages, in memory only, until their agent reports what the
destination answered: id, customer or address, and the sender's domain. The answers become counts (`delivery-failures` and the like).

`weir-filter export --customer NAME|PREFIX` prints all that is stored of a customer as JSON, `weir-filter forget --customer
NAME|PREFIX` removes it: events (what is deleted is overwritten in the files), counters and samples, which stay encrypted in the
export. Both are written to the audit log, with the
name of the customer. Of a message that is judged while he is forgotten, the event or a sample may be stored after that.

Samples are never taken of customers in `privacy.no_content`. Each `weir-filter quarantine show` is in the audit log, as is each block
by a policy script, with the script and the message.
";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Connection;
    use serde_json::Value;
    use weir_daemon::audit::{Actor, Audit};
    use weir_daemon::reference;

    use super::*;

    fn columns(tables: &str) -> Vec<(String, Vec<String>)> {
        let database = Connection::open_in_memory().unwrap();
        database.execute_batch(tables).unwrap();
        let mut statement = database
            .prepare(
                "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' \
                 ORDER BY m.rowid, c.cid",
            )
            .unwrap();
        let rows: Vec<(String, String)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let mut columns: Vec<(String, Vec<String>)> = Vec::new();
        for (table, column) in rows {
            match columns.last_mut().filter(|(name, _)| *name == table) {
                Some((_, names)) => names.push(column),
                None => columns.push((table, vec![column])),
            }
        }
        columns
    }

    #[test]
    fn every_column_of_every_table_is_described() {
        let tables = [crate::events::TABLE, crate::rate::TABLES].map(columns).concat();
        assert_eq!(
            tables.iter().map(|(table, _)| table.as_str()).collect::<Vec<_>>(),
            ["message", "window", "key"]
        );
        for ((table, columns), place) in tables.iter().zip(&PLACES) {
            assert!(place.title.ends_with(&format!("(table `{table}`)")), "{}", place.title);
            assert_eq!(*columns, place.names(), "{table}");
        }
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("audit");
        Audit::new("weir-filter", &file).record(Actor::own(), "forget", &Value::Null).unwrap();
        let line: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let sighting = crate::outbreak::Sighting {
            signature: crate::outbreak::Signature::default(),
            customer: 0,
            source: 0,
            recipients: Vec::new(),
        };
        let sighting = serde_json::to_value(sighting).unwrap();
        let fields: Vec<&str> = sighting.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, SIGHTINGS.names());
        let label = crate::quarantine::Label {
            id: String::new(),
            time: 0,
            customer: String::new(),
            rule: String::new(),
        };
        let label = serde_json::to_value(label).unwrap();
        let fields: Vec<&str> = label.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, SAMPLES.names());
        let fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, AUDIT.names());
    }

    #[test]
    fn the_document_is_what_is_stored() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/privacy.md");
        reference::check_generated(&path, &document()).unwrap();
    }
}
