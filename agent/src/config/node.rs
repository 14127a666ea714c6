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
    pub address: SocketAddr,
    pub weight: u32,
    /// Messages at a time.
    pub max_in_flight: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("{0:?} is no address:port, for example 10.3.0.11:10025 or [fd03::11]:10025")]
    Address(String),
    #[error("{0:?} is neither weight=1 to 1000 nor max_in_flight=1 or more")]
    Setting(String),
    #[error("{0} is there twice")]
    Twice(&'static str),
}

impl FromStr for Node {
    type Err = NodeError;

    fn from_str(text: &str) -> Result<Self, NodeError> {
        let mut words = text.split_ascii_whitespace();
        let address = words.next().unwrap_or_default();
        let address = address.parse().map_err(|_| NodeError::Address(address.into()))?;
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
        Ok(Self { address, weight: weight.unwrap_or(1), max_in_flight })
    }
}

fn once<T>(setting: &mut Option<T>, value: T, name: &'static str) -> Result<(), NodeError> {
    if setting.replace(value).is_some() { Err(NodeError::Twice(name)) } else { Ok(()) }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
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
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, reason) in [
            ("", "\"\" is no address:port"),
            ("10.3.0.11", "\"10.3.0.11\" is no address:port"),
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
