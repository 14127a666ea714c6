//! `[policy]` and `[texts]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use crate::policy::Template;

/// What becomes of a message, once its sender is within the limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// `volume`: spam is let through as long as there is little of it: what looks like bulk mail or spam is counted for
    /// each source, and deferred beyond `limits.bulk_messages` and `limits.spam_messages`. `reject`: spam is refused.
    /// Viruses are rejected by both.
    pub preset: Preset,
    /// SpamAssassin's score above which a message is bulk mail, or likely spam.
    pub bulk_above: f64,
    /// SpamAssassin's score above which a message is spam; for `reject` see `reject_at`.
    pub spam_above: f64,
    /// SpamAssassin's score from which a message is rejected with 550. Not set: never by `volume`, from 6.0 by `reject`.
    #[schemars(example = &10.0)]
    pub reject_at: Option<f64>,
    /// rspamd's score from which a message is bulk mail, or likely spam.
    pub rspamd_bulk_at: f64,
    /// rspamd's score from which a message is spam.
    pub rspamd_spam_at: f64,
    /// What a message is that a scanner could not look at, be it too large, be the scanner away: `bulk`, so that nobody is
    /// rid of a limit by making his mail large, or `clean`.
    pub unscanned: Unscanned,
    /// Bounces (messages without a sender) to one recipient in `dsn_bypass_seconds` above which SpamAssassin and rspamd are
    /// spared further ones: only if all of its recipients get so many, and never a virus engine. What is spared counts as
    /// `unscanned` says. 0: all are scanned.
    pub dsn_bypass_above: u64,
    /// Seconds in which bounces are counted.
    pub dsn_bypass_seconds: u64,
}

/// Which policy of those that come with weir.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    #[default]
    Volume,
    Reject,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unscanned {
    #[default]
    Bulk,
    Clean,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            preset: Preset::default(),
            bulk_above: 4.0,
            spam_above: 6.0,
            reject_at: None,
            rspamd_bulk_at: 6.0,
            rspamd_spam_at: 15.0,
            unscanned: Unscanned::default(),
            dsn_bypass_above: 0,
            dsn_bypass_seconds: 300,
        }
    }
}

impl Policy {
    pub(super) fn check(&self, problems: &mut Problems) {
        let scores = [
            ("bulk_above", self.bulk_above),
            ("spam_above", self.spam_above),
            ("rspamd_bulk_at", self.rspamd_bulk_at),
            ("rspamd_spam_at", self.rspamd_spam_at),
        ];
        let scores = scores.into_iter().chain(self.reject_at.map(|score| ("reject_at", score)));
        for (key, score) in scores {
            if !score.is_finite() {
                problems.add(&format!("policy.{key}"), "must be a finite number");
            }
        }
        super::seconds(problems, "policy.dsn_bypass_seconds", self.dsn_bypass_seconds);
        if self.spam_above < self.bulk_above {
            problems.add("policy.spam_above", "is below policy.bulk_above: spam is bulk mail, too");
        }
        if self.rspamd_spam_at < self.rspamd_bulk_at {
            problems.add("policy.rspamd_spam_at", "is below policy.rspamd_bulk_at: spam is bulk mail, too");
        }
    }
}

/// What customers are told, each with the code and the enhanced status code before it, and with the message's id behind it
/// unless it names `{id}`. `\n` begins a further line. `{limit}` is written from the limit, `{reason}` from what was found:
/// the text never says another number than the one that holds. `{contact}` is `contact`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Texts {
    /// Where a customer finds help: a link, an address. `{id}` in it is the message's.
    pub contact: String,
    /// 451 4.7.1, beyond a limit of the source.
    #[schemars(with = "String")]
    pub limit: Template,
    /// 451 4.7.1, beyond a limit of all the customer's sources together.
    #[schemars(with = "String")]
    pub customer_limit: Template,
    /// 451 4.7.1, beyond the limit of a source that has sent spam.
    #[schemars(with = "String")]
    pub suspect: Template,
    /// 550 5.7.1, for what is spam.
    #[schemars(with = "String")]
    pub spam: Template,
    /// 554 5.7.1, for what has a virus.
    #[schemars(with = "String")]
    pub virus: Template,
    /// 550 5.7.1, for what has a file that `[file_types]` does not let through.
    #[schemars(with = "String")]
    pub file: Template,
    /// 451 4.7.1 or 550 5.7.1, for what a map in `[maps]` refuses.
    #[schemars(with = "String")]
    pub refused: Template,
    /// 550, for what does not pass a check in `[envelope]`.
    #[schemars(with = "String")]
    pub envelope: Template,
    /// 451 4.7.1 or 550 5.7.1, for what a list in `dns.lists` has.
    #[schemars(with = "String")]
    pub listed: Template,
    /// 451 4.7.1, when a scanner does not answer and its `when_away` is `defer`.
    #[schemars(with = "String")]
    pub scanner_away: Template,
    /// 451 4.7.1, when the counts cannot be reached.
    #[schemars(with = "String")]
    pub counters_away: Template,
}

impl Default for Texts {
    fn default() -> Self {
        let text = |text: &str| Template::from(text);
        Self {
            contact: String::new(),
            limit: text("You may only send {limit}, try later"),
            customer_limit: text("Your account may only send {limit}, try later"),
            suspect: text("You have sent spam and may only send {limit}, try later"),
            spam: text("{reason}"),
            virus: text("Rejected by virus filter: {reason}"),
            file: text("Your message has a file that is not let through: {reason}"),
            refused: text("{reason}"),
            envelope: text("{reason}"),
            listed: text("Your mail is not taken: {reason}"),
            scanner_away: text("Temporarily unable to scan your message, try later"),
            counters_away: text("Temporarily unable to check your sending rate, try later"),
        }
    }
}

impl Texts {
    pub(super) fn check(&self, problems: &mut Problems) {
        let texts = [
            ("limit", &self.limit),
            ("customer_limit", &self.customer_limit),
            ("suspect", &self.suspect),
            ("spam", &self.spam),
            ("virus", &self.virus),
            ("file", &self.file),
            ("refused", &self.refused),
            ("envelope", &self.envelope),
            ("listed", &self.listed),
            ("scanner_away", &self.scanner_away),
            ("counters_away", &self.counters_away),
        ];
        let contact = Template::from(self.contact.as_str());
        for (key, text) in texts.into_iter().chain([("contact", &contact)]) {
            if let Err(problem) = text.check() {
                problems.add(&format!("texts.{key}"), problem);
            }
        }
    }
}
