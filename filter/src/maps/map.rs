//! One map: its lines, and what they say of a message.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use weir_smtp::envelope::Path;

use super::{Of, Use};

/// Characters of what a customer is told.
const MAX_REASON: usize = 200;

/// Beyond it a score decides by itself.
const MAX_SCORE: f64 = 1000.0;

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// What a customer is told, where it is said.
    pub(super) reason: Option<String>,
    pub(super) score: f64,
}

#[derive(Debug, Clone)]
pub(super) struct Map {
    of: Of,
    /// Addresses, domains (`example.org`), domains and all beneath (`.example.org`), or customers' ids.
    names: HashMap<String, Entry>,
    v4: PrefixMap<Ipv4Net, Entry>,
    v6: PrefixMap<Ipv6Net, Entry>,
}

impl Map {
    /// # Errors
    /// The first mistake, with its line.
    pub(super) fn parse(text: &str, of: Of, action: Use) -> Result<Self, String> {
        let mut map = Self { of, names: HashMap::new(), v4: PrefixMap::new(), v6: PrefixMap::new() };
        for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                map.add(line, action).map_err(|what| format!("line {}: {what}", at + 1))?;
            }
        }
        Ok(map)
    }

    fn add(&mut self, line: &str, action: Use) -> Result<(), String> {
        let (key, rest) = line.split_once([' ', '\t']).map_or((line, ""), |(key, rest)| (key, rest.trim()));
        let rest = rest
            .split_once('#')
            .filter(|_| action == Use::Score || action == Use::Bypass)
            .map_or(rest, |(rest, _)| rest.trim());
        let entry = entry(rest, action)?;
        let twice = match self.of {
            Of::Customer => match key.parse::<IpNet>().or_else(|_| key.parse::<IpAddr>().map(IpNet::from)) {
                Ok(prefix) if prefix.trunc() != prefix => {
                    return Err(format!(
                        "{key} has bits behind its length; did you mean {}?",
                        prefix.trunc()
                    ));
                }
                Ok(IpNet::V4(prefix)) => self.v4.insert(prefix, entry).is_some(),
                Ok(IpNet::V6(prefix)) => self.v6.insert(prefix, entry).is_some(),
                Err(_) => {
                    crate::customers::check_id(key)?;
                    self.names.insert(key.to_owned(), entry).is_some()
                }
            },
            Of::Sender | Of::Recipient => self.names.insert(name(key, self.of)?, entry).is_some(),
        };
        if twice { Err(format!("{key} is there twice")) } else { Ok(()) }
    }

    pub(super) fn len(&self) -> usize {
        self.names.len() + self.v4.iter().count() + self.v6.iter().count()
    }

    /// What is said of a sender or recipient: of the address, else of its domain, else of the nearest domain above.
    pub(super) fn path(&self, path: &Path) -> Option<&Entry> {
        if path.is_null() {
            return self.names.get(NULL);
        }
        let address = String::from_utf8_lossy(path.as_bytes()).to_lowercase();
        if let Some(entry) = self.names.get(&address) {
            return Some(entry);
        }
        let domain = path.domain()?;
        let domain = domain.strip_suffix('.').unwrap_or(&domain);
        if let Some(entry) = self.names.get(domain) {
            return Some(entry);
        }
        let mut rest = domain;
        loop {
            if let Some(entry) = self.names.get(&format!(".{rest}")) {
                return Some(entry);
            }
            rest = rest.split_once('.')?.1;
        }
    }

    /// What is said of a customer: by name, else by the longest prefix of his address.
    pub(super) fn customer(&self, id: Option<&str>, address: IpAddr) -> Option<&Entry> {
        id.and_then(|id| self.names.get(id)).or_else(|| match IpNet::from(address.to_canonical()) {
            IpNet::V4(address) => self.v4.get_lpm(&address).map(|(_, entry)| entry),
            IpNet::V6(address) => self.v6.get_lpm(&address).map(|(_, entry)| entry),
        })
    }
}

/// The sender of a bounce.
const NULL: &str = "<>";

/// As it is sought: `user@example.org`, `example.org`, `.example.org`, `<>`. An `@` before a domain may be there.
fn name(key: &str, of: Of) -> Result<String, String> {
    if key == NULL && of == Of::Sender {
        return Ok(NULL.to_owned());
    }
    let key = key.to_lowercase();
    let wrong = || format!("{key:?} is none of user@example.org, example.org and .example.org");
    let (local, domain) = key.rsplit_once('@').unwrap_or(("", &key));
    let bare = if local.is_empty() { domain.strip_prefix('.').unwrap_or(domain) } else { domain };
    let literal = !local.is_empty() && bare.starts_with('[') && bare.ends_with(']');
    if !literal && (!crate::dns::is_name(bare) || bare.ends_with('.')) {
        return Err(wrong());
    }
    Ok(if local.is_empty() { domain.to_owned() } else { key.clone() })
}

fn entry(rest: &str, action: Use) -> Result<Entry, String> {
    match action {
        Use::Bypass if rest.is_empty() => Ok(Entry { reason: None, score: 0.0 }),
        Use::Bypass => Err(format!("{rest:?} stands behind the entry; `bypass` has nothing there")),
        Use::Score => {
            let score = rest.parse().ok().filter(|score: &f64| score.abs() <= MAX_SCORE);
            let wrong = || format!("{rest:?} is no number from -{MAX_SCORE} to {MAX_SCORE}");
            Ok(Entry { reason: None, score: score.ok_or_else(wrong)? })
        }
        Use::Defer | Use::Reject => {
            if rest.len() > MAX_REASON || !rest.bytes().all(|octet| octet == b' ' || octet.is_ascii_graphic())
            {
                return Err(format!(
                    "what the customer is told is at most {MAX_REASON} characters of ASCII (RFC 5321 section 4.2)"
                ));
            }
            Ok(Entry { reason: (!rest.is_empty()).then(|| rest.to_owned()), score: 0.0 })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(of: Of, action: Use, text: &str) -> Map {
        Map::parse(text, of, action).unwrap()
    }

    #[test]
    fn the_nearest_entry_decides() {
        let text = "# comment\n\nuser@Example.org 1\nexample.org 2\n.example.org 3\n@other.example -4.5 # why\n<> 5\n";
        let map = map(Of::Sender, Use::Score, text);
        let score = |path: &str| map.path(&Path::new(path)).map(|entry| entry.score);
        assert_eq!(score("USER@example.ORG"), Some(1.0));
        assert_eq!(score("x@example.org"), Some(2.0));
        assert_eq!(score("x@a.b.example.org"), Some(3.0));
        assert_eq!(score("x@other.example"), Some(-4.5));
        assert_eq!(score("x@below.other.example"), None);
        assert_eq!(score("x@notexample.org"), None);
        assert_eq!(score(""), Some(5.0));
        assert_eq!(score("no-domain"), None);
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn customers_are_known_by_name_and_by_prefix() {
        let map = map(
            Of::Customer,
            Use::Reject,
            "4711 gone\n10.1.0.0/16\n10.1.7.0/24 closed\nfd01::/48\n10.2.0.1\n",
        );
        let told = |id: Option<&str>, address: &str| {
            map.customer(id, address.parse().unwrap()).map(|entry| entry.reason.clone().unwrap_or_default())
        };
        assert_eq!(told(Some("4711"), "10.1.7.1").unwrap(), "gone");
        assert_eq!(told(Some("4712"), "10.1.7.1").unwrap(), "closed");
        assert_eq!(told(None, "::ffff:10.1.8.1").unwrap(), "");
        assert!(told(None, "fd01::9").is_some() && told(None, "10.2.0.1").is_some());
        assert!(told(None, "10.2.0.2").is_none() && told(None, "fd02::9").is_none());
        assert_eq!(map.len(), 5);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (of, action, text, what) in [
            (Of::Sender, Use::Reject, "a@b.example\na b@c", None),
            (Of::Sender, Use::Reject, "x@", Some("line 1: \"x@\" is none of")),
            (Of::Sender, Use::Reject, "\n\n*.example", Some("line 3: \"*.example\" is none of")),
            (Of::Recipient, Use::Reject, "<>", Some("line 1: \"<>\" is none of")),
            (Of::Sender, Use::Bypass, "a.example yes", Some("line 1: \"yes\" stands behind")),
            (Of::Sender, Use::Score, "a.example", Some("line 1: \"\" is no number")),
            (Of::Sender, Use::Score, "a.example 1e9", Some("line 1: \"1e9\" is no number")),
            (Of::Sender, Use::Score, "a.example NaN", Some("line 1: \"NaN\" is no number")),
            (Of::Sender, Use::Reject, "a.example sp\u{e4}ter", Some("line 1: what the customer is told")),
            (Of::Sender, Use::Reject, "a.example\nA.EXAMPLE", Some("line 2: A.EXAMPLE is there twice")),
            (Of::Customer, Use::Reject, "10.1.0.1/16", Some("line 1: 10.1.0.1/16 has bits")),
            (
                Of::Customer,
                Use::Reject,
                "10.1.0.0/16\n10.1.0.0/16 x",
                Some("line 2: 10.1.0.0/16 is there twice"),
            ),
        ] {
            let problem = Map::parse(text, of, action).err();
            match what {
                Some(what) => assert!(
                    problem.as_ref().is_some_and(|found| found.starts_with(what)),
                    "{text}: {problem:?}"
                ),
                None => assert_eq!(problem, None, "{text}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_file_panics_and_what_is_in_it_is_found(text in "[a.@<> #\n1/:-]{0,60}", local in "[a-z]{1,8}", domain in "[a-z]{1,8}\\.[a-z]{2,5}") {
            for of in [Of::Sender, Of::Recipient, Of::Customer] {
                for action in [Use::Bypass, Use::Defer, Use::Reject, Use::Score] {
                    let _ = Map::parse(&text, of, action);
                }
            }
            let path = Path::new(format!("{local}@{domain}"));
            for key in [format!("{local}@{domain}"), domain.clone(), format!("@{domain}"), format!(".{domain}")] {
                prop_assert!(map(Of::Sender, Use::Bypass, &key).path(&path).is_some(), "{}", key);
            }
        }
    }
}
