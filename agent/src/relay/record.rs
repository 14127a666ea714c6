//! What is logged of a message: one record, when its fate is known.

use std::time::Duration;

use weir_smtp::Reply;
use weir_smtp::reply::Severity;

use crate::config::Mode;
use crate::failure::Failure;
use crate::nodes::NodeId;

/// The name of a session in logs: 12 characters, unique for all practical purposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionId(String);

impl SessionId {
    /// From 60 random bits.
    pub fn new(random: u64) -> Self {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let digit = |index: u32| char::from(DIGITS[(random >> (index * 5) & 31) as usize]);
        Self((0..12).map(digit).collect())
    }

    pub fn message(&self, number: u32) -> MessageId {
        MessageId(format!("{}-{number}", self.0))
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a message, the same in the logs of agent and filter node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageId(String);

impl MessageId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the filter, or the configuration in its place, decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Defer,
    Reject,
    /// There was none: the customer left, or the message could not be judged.
    None,
}

impl Verdict {
    /// What a final reply amounts to.
    pub fn of(reply: &Reply) -> Self {
        match reply.severity() {
            Severity::Positive => Self::Accept,
            Severity::Transient => Self::Defer,
            Severity::Intermediate | Severity::Permanent => Self::Reject,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Defer => "defer",
            Self::Reject => "reject",
            Self::None => "none",
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The destination answered end of data with 2xx.
    Delivered,
    /// As `Delivered`, or refused by the destination, but the customer was gone and did not hear it.
    Unreported,
    /// The destination refused it.
    Refused,
    /// Weir refused it: verdict, limit or failure.
    Withheld,
    /// It went to the destination whole, and the connection was lost before the answer: the customer's server
    /// will try again, and there may be two.
    Unknown,
    /// The customer left before the message was complete or delivered.
    Abandoned,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Unreported => "unreported",
            Self::Refused => "refused",
            Self::Withheld => "withheld",
            Self::Unknown => "unknown",
            Self::Abandoned => "abandoned",
        }
    }
}

/// One message's line in the log. Holds no mail address.
#[derive(Debug)]
pub struct Record {
    pub id: MessageId,
    pub helo: String,
    pub recipients: usize,
    /// Octets of the body, dots unstuffed.
    pub size: u64,
    pub bare_lf: u64,
    pub bare_cr: u64,
    pub verdict: Verdict,
    pub outcome: Outcome,
    pub mode: Mode,
    /// The node that gave the verdict.
    pub node: Option<NodeId>,
    /// Why weir decided in a node's place.
    pub failure: Option<Failure>,
    /// What the node said.
    pub filter_reply: Option<Reply>,
    /// What the customer was told.
    pub reply: Option<Reply>,
    /// Nodes that failed on it: which, and how.
    pub node_failures: Vec<(NodeId, String)>,
    pub suspect: bool,
    /// Protocol and cipher towards the destination, or why there was none.
    pub tls: String,
    pub duration: Duration,
    /// From the end of the message to the destination's answer.
    pub answered_after: Option<Duration>,
}
