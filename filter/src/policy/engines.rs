//! What the engines that tell spam say, in words that hold for all of them.

use super::limits::Case;
use super::{Refusal, Step};
use crate::config::{Unscanned, WhenAway};
use crate::rate::Counters;
use crate::scan::{Cause, Scanned};

/// How sure an engine is that a message is spam.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Clean,
    /// Nobody looked at it: bulk mail, or padding would be a way out.
    Unscanned,
    /// Bulk mail, or likely spam.
    Likely,
    Sure,
}

impl<C: Counters> Case<'_, C> {
    /// SpamAssassin's opinion and score; without an answer the class of what is unscanned.
    pub(super) async fn spamassassin(&self, sure: impl Fn(f64) -> bool) -> Result<(Level, f64), Refusal> {
        let policy = &self.settings.policy;
        let scanned = self.facts.spamassassin().await;
        if let Scanned::Unscanned(cause) = scanned {
            self.required("spamassassin-away", *cause, self.settings.spamassassin_away)?;
        }
        let score = scanned.score();
        let level = match scanned.found() {
            Some(_) if sure(score) => Level::Sure,
            Some(_) if score > policy.bulk_above => Level::Likely,
            _ if scanned.is_unscanned() && policy.unscanned == Unscanned::Bulk => Level::Unscanned,
            _ => Level::Clean,
        };
        Ok((level, score))
    }

    /// A scanner that must answer did.
    fn required(&self, rule: &'static str, cause: Cause, when_away: WhenAway) -> Step {
        if cause.is_failure() && when_away == WhenAway::Defer {
            let texts = &self.settings.texts;
            return Err(Refusal::defer(rule, texts.say(&texts.scanner_away, "", "")));
        }
        Ok(())
    }

    pub(super) fn is_spam(&self, score: f64, reject_at: f64) -> Refusal {
        let texts = &self.settings.texts;
        let reason = format!("SpamAssassin score {score:.1} is at or above {reject_at:.1}");
        Refusal::reject("spamassassin", texts.say(&texts.spam, "", &reason))
    }
}
