//! Prefixes and whose they are. The longest prefix decides.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use serde_json::Map;

use super::{Customer, Owner, check_id};

/// Octets of a file.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error(transparent)]
    File(io::Error),
    #[error(
        "the first line names the columns: prefix,id, and what else is known of a customer; it is {found:?}"
    )]
    Columns { found: String },
    #[error("line {line}: {what}")]
    Line { line: u64, what: String },
    #[error("larger than {MAX_SIZE} octets")]
    Size,
}

#[derive(Debug, Clone)]
struct Entry {
    customer: Option<Arc<Customer>>,
}

/// Whose each prefix is.
#[derive(Debug, Clone, Default)]
pub struct Table {
    v4: PrefixMap<Ipv4Net, Entry>,
    v6: PrefixMap<Ipv6Net, Entry>,
    by_id: HashMap<String, Vec<IpNet>>,
}

impl Table {
    /// Adds what is in a file of comma-separated values (RFC 4180). The first line names the columns: `prefix`, `id`, and
    /// others, which are metadata. Empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    /// The first mistake, with its line. What was there before it has been added.
    pub fn read(&mut self, content: impl Read) -> Result<(), TableError> {
        let mut text = Vec::new();
        content.take(MAX_SIZE + 1).read_to_end(&mut text).map_err(TableError::File)?;
        if text.len() as u64 > MAX_SIZE {
            return Err(TableError::Size);
        }
        let mut format = csv::ReaderBuilder::new();
        let mut rows = format.trim(csv::Trim::All).comment(Some(b'#')).from_reader(text.as_slice());
        let columns = rows.headers().map_err(|error| wrong(&error, &text))?.clone();
        let names: Vec<&str> = columns.iter().map(|name| name.trim_start_matches('\u{feff}')).collect();
        if names.get(..2) != Some(&["prefix", "id"]) {
            return Err(TableError::Columns { found: names.join(",") });
        }
        for row in rows.records() {
            let row = row.map_err(|error| wrong(&error, &text))?;
            let at = |what: String| TableError::Line { line: line(&text, row.position()), what };
            let field = |index: usize| row.get(index).unwrap_or_default();
            let prefix = parse(field(0)).map_err(at)?;
            let values = names.iter().zip(&row).skip(2).filter(|(_, value)| !value.is_empty());
            let metadata = values.map(|(name, value)| ((*name).to_owned(), value.into())).collect();
            let id = Some(field(1)).filter(|id| !id.is_empty());
            self.add(prefix, id, metadata).map_err(at)?;
        }
        Ok(())
    }

    /// Adds a prefix. Without an id it is a customer of its own, of whom only the prefix is known.
    ///
    /// # Errors
    /// In words, if it is somebody's already, or there is something wrong with it.
    pub fn add(
        &mut self,
        prefix: IpNet,
        id: Option<&str>,
        metadata: Map<String, serde_json::Value>,
    ) -> Result<(), String> {
        if prefix.trunc() != prefix {
            return Err(format!("{prefix} has bits behind its length: did you mean {}?", prefix.trunc()));
        }
        if prefix.prefix_len() == 0 {
            return Err(format!("{prefix} would make everybody one customer"));
        }
        id.map_or(Ok(()), check_id)?;
        let customer = id.map(|id| Arc::new(Customer { id: id.to_owned(), metadata }));
        let known = match &prefix {
            IpNet::V4(prefix) => self.v4.contains_key(prefix),
            IpNet::V6(prefix) => self.v6.contains_key(prefix),
        };
        if known {
            return Err(format!("{prefix} is there already"));
        }
        match prefix {
            IpNet::V4(prefix) => self.v4.insert(prefix, Entry { customer }),
            IpNet::V6(prefix) => self.v6.insert(prefix, Entry { customer }),
        };
        if let Some(id) = id {
            self.by_id.entry(id.to_owned()).or_default().push(prefix);
        }
        Ok(())
    }

    pub fn get(&self, address: IpAddr) -> Option<Owner> {
        let (prefix, entry) = match address.to_canonical() {
            IpAddr::V4(address) => {
                let (prefix, entry) = self.v4.get_lpm(&Ipv4Net::from(address))?;
                (IpNet::from(prefix), entry)
            }
            IpAddr::V6(address) => {
                let (prefix, entry) = self.v6.get_lpm(&Ipv6Net::from(address))?;
                (IpNet::from(prefix), entry)
            }
        };
        Some(Owner { customer: entry.customer.clone(), prefix: Some(prefix), unknown: false })
    }

    /// A customer's prefixes, without what lies within them and is another's.
    pub fn prefixes_of(&self, id: &str) -> Vec<IpNet> {
        let own = self.by_id.get(id).map(Vec::as_slice).unwrap_or_default();
        own.iter().flat_map(|prefix| self.own_part(*prefix, id)).collect()
    }

    /// What is left of a prefix without longer ones of others.
    fn own_part(&self, prefix: IpNet, id: &str) -> Vec<IpNet> {
        let mut left = vec![prefix];
        let others = |entry: &Entry| entry.customer.as_ref().is_none_or(|customer| customer.id != id);
        let inner: Vec<IpNet> = match prefix {
            IpNet::V4(prefix) => {
                let inner = self.v4.children(&prefix).filter(|(_, entry)| others(entry));
                inner.map(|(prefix, _)| IpNet::from(prefix)).collect()
            }
            IpNet::V6(prefix) => {
                let inner = self.v6.children(&prefix).filter(|(_, entry)| others(entry));
                inner.map(|(prefix, _)| IpNet::from(prefix)).collect()
            }
        };
        for hole in inner {
            left = left.into_iter().flat_map(|part| without(part, hole)).collect();
        }
        left
    }

    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A prefix without another one: halves, and halves of halves.
fn without(prefix: IpNet, hole: IpNet) -> Vec<IpNet> {
    if hole.contains(&prefix) {
        return Vec::new();
    }
    if !prefix.contains(&hole) {
        return vec![prefix];
    }
    let halves = prefix.subnets(prefix.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, hole)).collect()
}

fn parse(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| format!("{text:?} is neither a prefix nor an address"))
}

/// The line of a record: the reader counts what it skips before it as the record's own.
fn line(text: &[u8], at: Option<&csv::Position>) -> u64 {
    let start = at.and_then(|at| usize::try_from(at.byte()).ok()).unwrap_or(0);
    let (before, rest) = text.split_at(start.min(text.len()));
    let lines = |octets: &[u8]| octets.iter().filter(|octet| **octet == b'\n').count() as u64;
    let says_nothing = |line: &&[u8]| line.trim_ascii().is_empty() || line.starts_with(b"#");
    let skipped = rest.split(|octet| *octet == b'\n').take_while(says_nothing).count() as u64;
    1 + lines(before) + skipped
}

fn wrong(error: &csv::Error, text: &[u8]) -> TableError {
    let line = line(text, error.position());
    let what = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, where the first line has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        _ => error.to_string(),
    };
    TableError::Line { line, what }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(text: &str) -> Result<Table, String> {
        let mut table = Table::default();
        table.read(text.as_bytes()).map(|()| table).map_err(|error| error.to_string())
    }

    fn owner(table: &Table, address: &str) -> Option<String> {
        table.get(address.parse().unwrap()).map(|owner| owner.identity(address.parse().unwrap()).to_string())
    }

    #[test]
    fn the_longest_prefix_says_whose_it_is() {
        let text = "\u{feff}prefix, id, plan\n# comment\n10.1.0.0/16,,\n10.1.7.0/24,4711,vps\n\n10.1.7.9,4712,\n\
                    fd01:7::/48,4711,\"dedicated, large\"\n";
        let table = table(text).unwrap();
        for (address, expected) in [
            ("10.1.7.8", Some("4711")),
            ("::ffff:10.1.7.8", Some("4711")),
            ("10.1.7.9", Some("4712")),
            ("10.1.8.1", Some("10.1.0.0/16")),
            ("fd01:7::1", Some("4711")),
            ("10.2.0.1", None),
        ] {
            assert_eq!(owner(&table, address).as_deref(), expected, "{address}");
        }
        let found = table.get("fd01:7::1".parse().unwrap()).unwrap().customer.unwrap();
        assert_eq!(found.metadata["plan"], "dedicated, large");
        let bare = table.get("10.1.7.9".parse().unwrap()).unwrap().customer.unwrap();
        assert!(bare.metadata.is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_file() {
        for (text, words) in [
            ("", "names the columns: prefix,id"),
            ("10.1.0.0/24,x\n", "it is \"10.1.0.0/24,x\""),
            ("prefix,id\n10.1.0.0/24,x\n10.1.0.0/24,y\n", "line 3: 10.1.0.0/24 is there already"),
            ("prefix,id\n10.1.0.1/24,x\n", "line 2: 10.1.0.1/24 has bits"),
            ("prefix,id\n\nten,x\n", "line 3: \"ten\" is neither"),
            ("prefix,id\n10.1.0.0/24\n", "line 2: 1 fields"),
            ("prefix,id\n10.1.0.0/24,10.1.0.0\n", "line 2: 10.1.0.0 is no customer's id"),
            ("prefix,id\n::/0,x\n", "line 2: ::/0 would make everybody"),
        ] {
            let error = table(text).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        let mut table = Table::default();
        let error = table.read(&b"prefix,id\n10.1.0.0/24,\xff\n"[..]).unwrap_err().to_string();
        assert_eq!(error, "line 2: not UTF-8");
    }

    #[test]
    fn many_prefixes() {
        let lines = (0..150_000_u32).map(|number| {
            format!("10.{}.{}.{}/32,c{}\n", number >> 16, number >> 8 & 255, number & 255, number % 1000)
        });
        let text = format!("prefix,id\n{}", lines.collect::<String>());
        let table = table(&text).unwrap();
        assert_eq!((table.len(), table.prefixes_of("c7").len()), (150_000, 150));
        assert_eq!(owner(&table, "10.2.0.7").as_deref(), Some("c79"));
    }

    proptest! {
        /// A customer's prefixes are the addresses whose owner he is, and no others.
        #[test]
        fn prefixes_are_what_is_looked_up(
            entries in prop::collection::btree_map((0_u32..64, 26_u8..=32), 0_u8..4, 0..20)
        ) {
            let mut table = Table::default();
            for ((bits, length), owner) in entries {
                let prefix = IpNet::new(std::net::Ipv4Addr::from_bits(bits).into(), length).unwrap().trunc();
                let id = ["a", "b", "c"].get(usize::from(owner)).copied();
                // Two that are the same without their last bits.
                let _ = table.add(prefix, id, Map::new());
            }
            for id in ["a", "b", "c"] {
                let own = table.prefixes_of(id);
                for bits in 0_u32..70 {
                    let address = IpAddr::from(std::net::Ipv4Addr::from_bits(bits));
                    let is_owner = table.get(address).and_then(|owner| owner.customer).is_some_and(|c| c.id == id);
                    prop_assert_eq!(own.iter().any(|prefix| prefix.contains(&address)), is_owner);
                }
            }
        }
    }
}
