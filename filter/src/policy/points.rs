//! What is to be said against a message: points for its sender's reputation.

use super::{Policy, Verdict};
use crate::facts::Facts;
use crate::outbreak;
use crate::rate::Counters;
use crate::reputation::WORST;

/// Of what is not as bad.
const LIKELY: u64 = 3;
const REFUSED: u64 = 5;

impl<C: Counters> Policy<C> {
    /// By what is known of it now; nobody is asked. None: it does not count, for it was deferred and comes again.
    pub fn points(&self, facts: &Facts<'_>, verdict: &Verdict) -> Option<u64> {
        let refused = match verdict.refusal() {
            None => 0,
            Some(refusal) if refusal.code < 500 => return None,
            Some(refusal) if matches!(&*refusal.rule, "virus" | "file" | "spam") => WORST,
            Some(_) => REFUSED,
        };
        let finding = facts.outbreak_if_known();
        let outbreak = match finding.map(|finding| finding.level.max(finding.attachment)) {
            Some(outbreak::Level::Spam) => WORST,
            Some(outbreak::Level::Bulk) => LIKELY,
            Some(outbreak::Level::None) | None => 0,
        };
        let policy = &self.settings.policy;
        let scored = facts.results().known().map(|said| match (said.scanner, said.report, said.infection) {
            (_, _, Some(_)) => WORST,
            ("spamassassin", Some(report), _) if report.score > policy.spam_above => WORST,
            ("spamassassin", Some(report), _) if report.score > policy.bulk_above => LIKELY,
            ("rspamd", Some(report), _) if report.score >= policy.rspamd_spam_at => WORST,
            ("rspamd", Some(report), _) if report.score >= policy.rspamd_bulk_at => LIKELY,
            _ => 0,
        });
        Some(scored.fold(refused.max(outbreak), u64::max))
    }
}
