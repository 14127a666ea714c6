//! What is known of one message, once it is judged: the value of its log line and of its row in the store.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rate::Source;

/// Octets kept of a text that a customer or a destination chose.
const MAX_TEXT: usize = 500;

/// Recipients and domains kept of one message; their number is known in any case.
pub const MAX_LISTED: usize = 20;

/// One message and its verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Microseconds since 1970.
    pub at: u64,
    /// The id that agent and node share.
    pub id: String,
    /// The agent that asked.
    pub agent: Option<IpAddr>,
    /// This node's name.
    pub node: String,
    /// Whose message it is, where addresses are known to belong to somebody.
    pub customer: Option<String>,
    /// Nobody could be asked whose address it is.
    pub customer_unknown: bool,
    /// The customer's address.
    pub address: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub destination_port: Option<u16>,
    /// The destination's name, as its banner says; the agent tells it later.
    pub banner: Option<String>,
    pub helo: Option<String>,
    /// Keyed hash of the reverse-path, or the address itself where those are stored; none for the null sender.
    pub sender: Option<String>,
    pub sender_domain: Option<String>,
    pub recipients: u64,
    /// As `sender`, of the first recipients.
    pub recipient_addresses: Vec<String>,
    /// Different ones, in order of appearance.
    pub recipient_domains: Vec<String>,
    /// Octets.
    pub size: u64,
    pub bare_line_ends: u64,
    pub message_id: Option<String>,
    pub verdict: String,
    pub rule: Option<String>,
    /// What the customer was told.
    pub reason: Option<String>,
    pub scores: Vec<Score>,
    pub infections: Vec<Infection>,
    pub bypassed: Vec<Bypassed>,
    /// What the destination answered, as the agent tells later.
    pub reply_code: Option<u16>,
    pub reply: Option<String>,
    pub steps: Vec<Step>,
}

/// What a scanner said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub scanner: String,
    pub score: f64,
    /// Names of the tests that hit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub symbols: String,
}

/// What a virus scanner found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Infection {
    pub scanner: String,
    pub name: String,
}

/// A scanner that did not say anything, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bypassed {
    pub scanner: String,
    pub cause: String,
}

/// How long a step took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub step: String,
    pub milliseconds: u64,
}

impl Step {
    pub fn new(step: &str, took: Duration) -> Self {
        Self { step: step.into(), milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// What became of an accepted message at its destination.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub banner: Option<String>,
    /// Of the reply that ended it; none if there was no reply.
    pub code: Option<u16>,
    /// The reply, or what went wrong.
    pub reply: String,
}

impl Event {
    /// Whose messages are counted together with it.
    pub fn source(&self) -> Option<String> {
        self.address.map(|address| Source::of(address).to_string())
    }

    /// Where the customer's connection went, with its port where that is known.
    pub fn destination(&self) -> Option<String> {
        let address = self.destination?;
        Some(match self.destination_port {
            Some(port) => SocketAddr::new(address, port).to_string(),
            None => address.to_string(),
        })
    }

    /// Milliseconds from the message's end to the verdict.
    pub fn judged(&self) -> Option<u64> {
        self.steps.iter().find(|step| step.step == "judge").map(|step| step.milliseconds)
    }

    /// In whole seconds since 1970.
    pub fn seconds(&self) -> u64 {
        self.at / 1_000_000
    }

    /// Cuts what others made long.
    pub fn bounded(mut self) -> Self {
        let texts = [
            &mut self.customer,
            &mut self.banner,
            &mut self.helo,
            &mut self.sender,
            &mut self.sender_domain,
            &mut self.message_id,
            &mut self.rule,
            &mut self.reason,
            &mut self.reply,
        ];
        texts.into_iter().flatten().for_each(cut);
        [&mut self.id, &mut self.node, &mut self.verdict].into_iter().for_each(cut);
        for list in [&mut self.recipient_addresses, &mut self.recipient_domains] {
            list.truncate(MAX_LISTED);
            list.iter_mut().for_each(cut);
        }
        self.scores.truncate(MAX_LISTED);
        self.scores.iter_mut().for_each(|score| cut(&mut score.symbols));
        self.infections.truncate(MAX_LISTED);
        self.infections.iter_mut().for_each(|infection| cut(&mut infection.name));
        self.bypassed.truncate(MAX_LISTED);
        self.steps.truncate(MAX_LISTED);
        self
    }
}

impl Outcome {
    pub fn bounded(mut self) -> Self {
        cut(&mut self.reply);
        self.banner.iter_mut().for_each(cut);
        self
    }
}

/// As much of a text as is kept; what is searched for is cut the same way.
pub fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
}
