use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::positive;
use crate::outbreak::{Exempt, Fingerprint, Rule};

/// The outbreak engine: the same message, or nearly, from several customers at once. It gives a message 0, 50 (bulk) or 100
/// (spam), and refuses nothing by itself. What it means is in docs/outbreak.md.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Outbreak {
    /// On, because what it finds only counts against the limits on bulk mail and spam, and nothing else sees across
    /// customers.
    pub enabled: bool,
    /// Different messages that are remembered, about 2 kB each, 6 kB more for one with many copies; beyond it those go
    /// that have the fewest copies.
    pub max_messages: usize,
    /// Copies in an hour that are bulk, if two customers or more send them. A copy is a pair of a customer and a recipient.
    pub bulk_copies: u32,
    /// Copies in an hour that are bulk, from one customer. Not above 256, for so many are kept.
    pub bulk_copies_single: u32,
    /// Copies in an hour that are spam,
    pub spam_copies: u32,
    /// from this many customers or more,
    pub spam_customers: u32,
    /// with this many copies for each of them or more: what programs send comes from very many, a little from each.
    pub copies_per_customer: f64,
    /// Customers who within its first hour send something that nobody sent on the day before, that make it bulk however little each
    /// sends. 0, off: it would see a campaign with one copy from each customer, but a program's new mail looks the same.
    pub spread_customers: u32,
    /// With `counters.redis`: whether nodes tell each other there what they see, so that a campaign is seen that goes through all of
    /// them, and a node that starts knows the last day.
    pub shared: bool,
    /// Customers whose mail is not counted, by the ids of `[customers]`.
    pub exempt_customers: Vec<String>,
    /// Domains of senders whose mail is not counted, with those below them. A sender can write any domain.
    #[schemars(example = ["provider.example"])]
    pub exempt_sender_domains: Vec<String>,
    /// Messages that are not counted, by their fingerprints, as the log has them.
    #[schemars(example = ["0f1e2d3c4b5a6978"])]
    pub exempt_fingerprints: Vec<String>,
}

impl Default for Outbreak {
    fn default() -> Self {
        let rule = Rule::default();
        Self {
            enabled: true,
            max_messages: 50_000,
            bulk_copies: rule.bulk,
            bulk_copies_single: rule.bulk_single,
            spam_copies: rule.outbreak,
            spam_customers: rule.outbreak_customers,
            copies_per_customer: rule.concentration,
            spread_customers: rule.spread,
            shared: true,
            exempt_customers: Vec::new(),
            exempt_sender_domains: Vec::new(),
            exempt_fingerprints: Vec::new(),
        }
    }
}

impl Outbreak {
    pub(super) fn check(&self, problems: &mut Problems) {
        positive(problems, "outbreak.max_messages", self.max_messages as u64);
        let copies = [
            ("bulk_copies", self.bulk_copies),
            ("bulk_copies_single", self.bulk_copies_single),
            ("spam_copies", self.spam_copies),
            ("spam_customers", self.spam_customers),
            ("spread_customers", if self.spread_customers == 0 { 2 } else { self.spread_customers }),
        ];
        for (key, value) in copies {
            if !(2..=256).contains(&value) {
                problems.add(&format!("outbreak.{key}"), format!("{value}; accepted: 2 to 256"));
            }
        }
        if !(self.copies_per_customer >= 1.0 && self.copies_per_customer <= 256.0) {
            problems.add("outbreak.copies_per_customer", "must be a number from 1 to 256");
        }
        for (index, text) in self.exempt_fingerprints.iter().enumerate() {
            if let Err(cause) = text.parse::<Fingerprint>() {
                problems.add(&format!("outbreak.exempt_fingerprints[{index}]"), cause);
            }
        }
    }

    pub fn rule(&self) -> Rule {
        Rule {
            bulk: self.bulk_copies,
            bulk_single: self.bulk_copies_single,
            outbreak: self.spam_copies,
            outbreak_customers: self.spam_customers,
            concentration: self.copies_per_customer,
            spread: self.spread_customers,
        }
    }

    pub fn exempt(&self) -> Exempt {
        Exempt {
            customers: self.exempt_customers.clone(),
            sender_domains: self.exempt_sender_domains.clone(),
            fingerprints: self.exempt_fingerprints.iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use weir_daemon::config;

    #[test]
    fn impossible_values_are_refused() {
        let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n[outbreak]\nspam_copies = 1\n\
                    copies_per_customer = nan\nexempt_fingerprints = [\"xyz\"]\n";
        let problems = config::parse::<Config>("f", text).unwrap_err().to_string();
        for expected in
            ["f:5: outbreak.spam_copies: 1; accepted", "outbreak.copies_per_customer", "[0]: \"xyz\" is no"]
        {
            assert!(problems.contains(expected), "{problems}");
        }
    }
}
