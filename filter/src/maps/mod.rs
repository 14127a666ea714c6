//! What the operator says of senders, recipients and customers, in files that are read again when they have changed.

mod file;
mod map;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use weir_smtp::envelope::Path;

use crate::config::Maps as Config;
use crate::facts::Facts;
use crate::scan::Cause;
use file::Watched;

/// Whose entries they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// Reverse-paths, which are what the customer says.
    Sender,
    /// Forward-paths.
    Recipient,
    /// Ids of `[customers]`, addresses and prefixes.
    Customer,
}

/// What becomes of what is found in a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// No scanner looks.
    Bypass,
    /// 451
    Defer,
    /// 550
    Reject,
    /// The number behind the entry is added to SpamAssassin's score.
    Score,
}

/// What all maps together say of a message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Said {
    /// It is refused: with 451 or 550, and why.
    pub refused: Option<(Use, String)>,
    /// No scanner is to look at it.
    pub bypass: Option<Cause>,
    /// Added to SpamAssassin's.
    pub score: f64,
    /// What of it was taken for a sender or recipient, who can be anybody: 0, or below.
    pub lowered_by_envelope: f64,
}

#[derive(Debug, Default)]
pub struct Maps(Vec<Watched>);

impl Maps {
    /// # Errors
    /// Which file will not do, and why.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self(config.files.iter().map(Watched::new).collect::<anyhow::Result<_>>()?))
    }

    /// Looks for the files' news; to be called now and then. Blocks.
    pub fn refresh(&self) {
        self.0.iter().for_each(Watched::refresh);
    }

    /// What they say of a message. Of its recipients one is enough to have it refused, and all are needed for it not to be
    /// scanned; the highest score of them counts.
    pub fn of(&self, facts: &Facts<'_>) -> Said {
        let mut said = Said::default();
        for watched in &self.0 {
            watched.add_to(&mut said, facts);
        }
        said
    }

    pub fn status(&self) -> Value {
        self.0.iter().map(Watched::status).collect()
    }
}

impl Said {
    fn add(&mut self, action: Use, of: Of, entries: &[Option<&map::Entry>]) {
        let Some(first) = entries.iter().flatten().next() else { return };
        match action {
            Use::Defer | Use::Reject if self.refused.is_none() => {
                let whose = match of {
                    Of::Sender => "Mail of this sender is not taken",
                    Of::Recipient => "Mail to one of these recipients is not taken",
                    Of::Customer => "Mail from you is not taken",
                };
                let reason = first.reason.clone().unwrap_or_else(|| whose.to_owned());
                self.refused = Some((action, reason));
            }
            Use::Bypass if entries.iter().all(Option::is_some) => {
                let cause = if of == Of::Customer { Cause::Allowed } else { Cause::Map };
                // Where both hold, the customer's is the one that can be relied upon.
                if self.bypass != Some(Cause::Allowed) {
                    self.bypass = Some(cause);
                }
            }
            Use::Score => {
                let scores = entries.iter().map(|entry| entry.map_or(0.0, |entry| entry.score));
                let score = scores.reduce(f64::max).unwrap_or_default();
                self.score += score;
                if of != Of::Customer {
                    self.lowered_by_envelope += score.min(0.0);
                }
            }
            Use::Defer | Use::Reject | Use::Bypass => {}
        }
    }
}

impl Watched {
    fn add_to(&self, said: &mut Said, facts: &Facts<'_>) {
        let map = self.map();
        let transaction = facts.transaction();
        let path = |path: &Path| map.path(path);
        match self.of() {
            Of::Sender => said.add(self.action(), Of::Sender, &[path(&transaction.envelope.sender.path)]),
            Of::Recipient => {
                let entries: Vec<_> =
                    transaction.envelope.recipients.iter().map(|one| path(&one.path)).collect();
                said.add(self.action(), Of::Recipient, &entries);
            }
            Of::Customer => {
                let id = facts.customer().map(|customer| customer.id.as_str());
                said.add(self.action(), Of::Customer, &[map.customer(id, transaction.customer.address)]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
