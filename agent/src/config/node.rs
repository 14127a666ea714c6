//! A filter node in one line: `host:port weight=2 max_in_flight=50`.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The heaviest: shares finer than this are a mistake.
const MAX_WEIGHT: u32 = 1000;

/// A filter node, and how much of the load it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Node {
    pub place: Place,
    pub weight: u32,
    /// Messages at a time.
    pub max_in_flight: Option<usize>,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    Address(SocketAddr),
    /// `name:port`.
    Name(String),
}

impl Place {
    /// The name without port and root; `None`: an address.
    pub fn host(&self) -> Option<&str> {
        let Self::Name(name) = self else { return None };
        let (host, _) = name.rsplit_once(':')?;
        Some(host.strip_suffix('.').unwrap_or(host))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl FromStr for Place {
    type Err = NodeError;

    fn from_str(text: &str) -> Result<Self, NodeError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.rsplit_once(':').filter(|(name, port)| is_name(name) && is_port(port));
        name.map(|_| Self::Name(text.to_ascii_lowercase())).ok_or_else(|| NodeError::Place(text.into()))
    }
}

/// A host name (RFC 1123), and no address that was mistyped: its last label has a letter.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.chars().all(plain);
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && last.contains(|c: char| c.is_ascii_alphabetic())
}

fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error(
        "{0:?} is neither address:port nor name:port, for example 10.3.0.11:10025, [fd03::11]:10025 or filter.example:10025"
    )]
    Place(String),
    #[error("{0:?} is neither weight=1 to 1000 nor max_in_flight=1 or more")]
    Setting(String),
    #[error("{0} is there twice")]
    Twice(&'static str),
}

impl FromStr for Node {
    type Err = NodeError;

    fn from_str(text: &str) -> Result<Self, NodeError> {
        let mut words = text.split_ascii_whitespace();
        let place = words.next().unwrap_or_default().parse()?;
        let (mut weight, mut max_in_flight) = (None, None);
        for word in words {
            let unknown = || NodeError::Setting(word.into());
            match word.split_once('=') {
                Some(("weight", value)) => {
                    let value = value.parse().ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
                    once(&mut weight, value.ok_or_else(unknown)?, "weight")?;
                }
                Some(("max_in_flight", value)) => {
                    let value = value.parse().ok().filter(|limit| *limit > 0);
                    once(&mut max_in_flight, value.ok_or_else(unknown)?, "max_in_flight")?;
                }
                _ => return Err(unknown()),
            }
        }
        Ok(Self { place, weight: weight.unwrap_or(1), max_in_flight })
    }
}

fn once<T>(setting: &mut Option<T>, value: T, name: &'static str) -> Result<(), NodeError> {
    if setting.replace(value).is_some() { Err(NodeError::Twice(name)) } else { Ok(()) }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if self.weight != 1 {
            write!(f, " weight={}", self.weight)?;
        }
        self.max_in_flight.map_or(Ok(()), |limit| write!(f, " max_in_flight={limit}"))
    }
}

impl TryFrom<String> for Node {
    type Error = NodeError;

    fn try_from(text: String) -> Result<Self, NodeError> {
        text.parse()
    }
}

impl From<Node> for String {
    fn from(node: Node) -> Self {
        node.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_enough_and_settings_may_follow() {
        let node: Node = "10.3.0.11:10025".parse().unwrap();
        assert_eq!((node.weight, node.max_in_flight), (1, None));
        let text = "[fd03::11]:10025 weight=3 max_in_flight=50";
        let node: Node = text.parse().unwrap();
        assert_eq!((node.weight, node.max_in_flight), (3, Some(50)));
        assert_eq!(node.to_string(), text);
        let node: Node = "Filter.example:10025".parse().unwrap();
        assert_eq!(node.place, Place::Name("filter.example:10025".into()));
        let rooted: Node = "filter.example.:10025".parse().unwrap();
        for (node, host) in [(node, Some("filter.example")), (rooted, Some("filter.example"))] {
            assert_eq!(node.place.host(), host);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "\"\" is neither address:port"),
            ("filter.example", "\"filter.example\" is neither"),
            ("filter.example:0", "\"filter.example:0\" is neither"),
            ("10.3.0.300:25", "\"10.3.0.300:25\" is neither"),
            ("fil ter:25", "\"fil\" is neither"),
            ("10.3.0.11", "\"10.3.0.11\" is neither"),
            ("10.3.0.11:25 weight=0", "\"weight=0\" is neither"),
            ("10.3.0.11:25 weight=2000", "\"weight=2000\" is neither"),
            ("10.3.0.11:25 max_in_flight=no", "\"max_in_flight=no\" is neither"),
            ("10.3.0.11:25 backup", "\"backup\" is neither"),
            ("10.3.0.11:25 weight=1 weight=2", "weight is there twice"),
        ] {
            let error = text.parse::<Node>().unwrap_err().to_string();
            assert!(error.starts_with(reason), "{text}: {error}");
        }
    }
}
