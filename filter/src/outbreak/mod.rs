//! Outbreaks: the same message, or nearly, from several customers at once.
//!
//! | module | what it does |
//! |---|---|
//! | [`words`], [`html`] | what a message says, without what is changed from copy to copy |
//! | [`signature`] | that in a few numbers, most of which another copy has too |
//! | [`memory`], [`cluster`] | the copies of each message |
//! | [`nodes`] | and those that other nodes saw |
//! | [`rule`] | 0, 50 or 100 |

mod cluster;
mod engine;
mod html;
mod memory;
mod nodes;
mod rule;
mod signature;
mod words;

use serde::{Deserialize, Serialize};

use crate::rate::{Away, Moment};
pub use engine::{Engine, Exempt, Finding, Who};
pub use memory::{Memory, Usage};
pub use nodes::{Nodes, Shared};
pub use rule::{Measures, Rule};
pub use signature::{Fingerprint, KEYS, Signature, Text};

/// How much of an outbreak a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    None,
    Bulk,
    Spam,
}

impl Level {
    pub fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Bulk => 50,
            Self::Spam => 100,
        }
    }
}

/// Recipients of one message that are counted.
const MAX_RECIPIENTS: usize = 32;

/// A message of which copies are counted. Everybody in it is a hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    pub signature: Signature,
    pub customer: u64,
    pub source: u64,
    /// Recipients and their domains.
    pub recipients: Vec<(u64, u64)>,
}

impl Sighting {
    /// Whatever another node says, it is no larger than one of this node's.
    fn bounded(mut self) -> Self {
        self.recipients.truncate(MAX_RECIPIENTS);
        self.signature.attachments.truncate(signature::MAX_ATTACHMENTS);
        self
    }
}

/// What is known after it was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub text: Level,
    /// The highest of its attachments.
    pub attachment: Level,
    /// Copies of its text in the last hour, and customers who sent them.
    pub copies: u32,
    pub customers: u32,
}

/// Where copies are counted.
pub trait Store: Send + Sync {
    fn count(&self, sighting: &Sighting, now: Moment) -> impl Future<Output = Result<Counted, Away>> + Send;
}

#[cfg(test)]
mod tests;
