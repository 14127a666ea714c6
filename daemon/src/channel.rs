//! What agents and filter nodes say to each other beside mail, over HTTP: agents ask who is blocked, and report what
//! destinations answered. Members that one side does not know it leaves alone.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// GET: who is blocked, as soon as it is something else than the `If-None-Match` of the request says; 304 if it is the same
/// after [`LONGEST_WAIT`].
pub const BLOCKS: &str = "/v1/blocks";

/// POST: what destinations answered.
pub const OUTCOMES: &str = "/v1/outcomes";

/// How long a node lets an agent wait for news.
pub const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Octets of a list of blocks, and of a batch of outcomes.
pub const MAX_BODY: usize = 8 * 1024 * 1024;

/// Prefixes of all blocks of a node. Beyond it the node refuses another block.
pub const MAX_PREFIXES: usize = 20_000;

/// Outcomes in one report.
pub const MAX_OUTCOMES: usize = 1000;

/// Characters of a destination's reply that are reported.
pub const MAX_TEXT: usize = 200;

/// Who is blocked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    pub blocks: Vec<Block>,
}

/// A blocked customer, with all his addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The customer's id, or the prefix.
    pub who: String,
    pub prefixes: Vec<String>,
    /// From now on; clocks need not agree.
    pub seconds_left: u64,
    /// What the customer is told: one line.
    pub text: String,
}

/// What destinations answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcomes {
    /// How many more there were since the last report, for which there was no room.
    #[serde(default)]
    pub lost: u64,
    pub outcomes: Vec<Outcome>,
}

/// What became of one message that a node had accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The message's.
    pub id: String,
    pub customer: IpAddr,
    pub destination: SocketAddr,
    /// `delivered`, `refused`, `unknown` and so on, as in the agent's log.
    pub outcome: String,
    /// Of the destination's reply to the message; none if there was none.
    pub code: Option<u16>,
    /// The reply, cut.
    pub text: String,
    /// Seconds since 1970.
    pub time: u64,
}

/// One line of printable ASCII of at most so many characters: what goes into replies and logs.
pub fn one_line(text: &str, most: usize) -> String {
    let plain = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let flat = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    flat.map(plain).take(most).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line("550 5.1.1\r\n nobody \u{e9}\0 ", 100), "550 5.1.1   nobody ??");
        assert_eq!(one_line(&"x".repeat(500), MAX_TEXT).len(), MAX_TEXT);
    }

    #[test]
    fn what_is_not_known_is_left_alone() {
        let text = "{\"blocks\": [{\"who\": \"a\", \"prefixes\": [\"10.1.0.0/24\"], \"seconds_left\": 7, \"text\": \"x\", \"new\": 1}]}";
        let blocks: Blocks = serde_json::from_str(text).unwrap();
        assert_eq!(blocks.blocks[0].prefixes, ["10.1.0.0/24"]);
        let again: Blocks = serde_json::from_str(&serde_json::to_string(&blocks).unwrap()).unwrap();
        assert_eq!(again, blocks);
    }
}
