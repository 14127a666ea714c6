//! What the engines that tell spam say, in words that hold for all of them; viruses, and files that are not let through.

use super::limits::Case;
use super::{Refusal, Step};
use crate::config::{Unscannable, Unscanned, WhenAway};
use crate::outbreak;
use crate::rate::Counters;
use crate::scan::{Cause, Scanned};

/// Characters of what others wrote, a virus' or a file's name, in a reply.
const MAX_REASON: usize = 200;

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

/// What all engines together say.
#[derive(Debug)]
pub(super) struct Opinions {
    /// The highest.
    pub(super) level: Level,
    /// How many of them call it likely spam at least.
    pub(super) likely: usize,
    /// What SpamAssassin's would be without what maps of senders and recipients took from its score; `Clean` where that is
    /// no more than it is now. Senders and recipients can be anybody: it counts all the same.
    pub(super) unlowered: Level,
    /// SpamAssassin's.
    pub(super) score: f64,
    /// What made them think so, for the customer.
    pub(super) reason: String,
}

/// What SpamAssassin's score says.
struct Scored {
    level: Level,
    unlowered: Level,
    score: f64,
}

impl Opinions {
    fn add(&mut self, level: Level, reason: String) {
        if level > self.level {
            (self.level, self.reason) = (level, reason);
        }
        self.likely += usize::from(level >= Level::Likely);
    }
}

impl<C: Counters> Case<'_, C> {
    /// Asks the engines one after the other, until one is sure. `sure`: what makes SpamAssassin so.
    pub(super) async fn opinions(&self, sure: impl Fn(f64) -> bool) -> Result<Opinions, Refusal> {
        let clean = Level::Clean;
        let mut opinions =
            Opinions { level: clean, likely: 0, unlowered: clean, score: 0.0, reason: String::new() };
        let level = self.outbreak().await;
        opinions.add(level, "the same message comes from many".to_owned());
        let Scored { level, unlowered, score } = self.spamassassin(sure).await?;
        (opinions.unlowered, opinions.score) = (unlowered, score);
        opinions.add(level, format!("SpamAssassin score {score:.1}"));
        if opinions.level < Level::Sure {
            let (level, score) = self.rspamd().await;
            opinions.add(level, format!("rspamd score {score:.1}"));
        }
        Ok(opinions)
    }

    pub(super) async fn outbreak(&self) -> Level {
        match self.facts.outbreak(self.now).await.map(|finding| finding.level.max(finding.attachment)) {
            Some(outbreak::Level::Spam) => Level::Sure,
            Some(outbreak::Level::Bulk) => Level::Likely,
            Some(outbreak::Level::None) | None => Level::Clean,
        }
    }

    async fn spamassassin(&self, sure: impl Fn(f64) -> bool) -> Result<Scored, Refusal> {
        let scanned = self.facts.spamassassin().await;
        if let Scanned::Unscanned(cause) = scanned {
            self.required("spamassassin-away", *cause, self.settings.spamassassin_away)?;
        }
        let bulk_above = self.settings.policy.bulk_above;
        let with = |maps: f64| scanned.found().map_or(0.0, |report| report.score + maps);
        let of = |score| self.level(scanned, score, &sure, |score| score > bulk_above);
        let score = with(self.said.score);
        let level = of(score);
        let unlowered = of(with(self.said.score - self.said.lowered_by_envelope));
        let unlowered = if unlowered > level { unlowered } else { Level::Clean };
        Ok(Scored { level, unlowered, score })
    }

    async fn rspamd(&self) -> (Level, f64) {
        let policy = &self.settings.policy;
        let scanned = self.facts.results().rspamd().await;
        let (likely, sure) = (policy.rspamd_bulk_at, policy.rspamd_spam_at);
        let score = scanned.score();
        (self.level(scanned, score, |score| score >= sure, |score| score >= likely), score)
    }

    fn level(
        &self,
        scanned: &Scanned,
        score: f64,
        sure: impl Fn(f64) -> bool,
        likely: impl Fn(f64) -> bool,
    ) -> Level {
        match scanned.found() {
            Some(_) if sure(score) => Level::Sure,
            Some(_) if likely(score) => Level::Likely,
            _ if scanned.is_unscanned() && self.settings.policy.unscanned == Unscanned::Bulk => {
                Level::Unscanned
            }
            _ => Level::Clean,
        }
    }

    /// A scanner that must answer did.
    fn required(&self, rule: &'static str, cause: Cause, when_away: WhenAway) -> Step {
        if cause.is_failure() && when_away == WhenAway::Defer {
            let texts = &self.settings.texts;
            return Err(Refusal::defer(rule, texts.say(&texts.scanner_away, "", "")));
        }
        Ok(())
    }

    pub(super) fn is_spam(&self, reason: &str) -> Refusal {
        let texts = &self.settings.texts;
        Refusal::reject("spam", texts.say(&texts.spam, "", reason))
    }

    /// No virus is let through; what an engine could not look at is bulk mail.
    pub(super) async fn viruses(&self) -> Step {
        let results = self.facts.results();
        if let Some(infection) = results.infection().await.and_then(|said| said.infection) {
            let texts = &self.settings.texts;
            let text = texts.say(&texts.virus, "", &shown(infection));
            return Err(Refusal::new("virus", 554, "5.7.1", text));
        }
        if results.is_unscanned() && self.settings.policy.unscanned == Unscanned::Bulk {
            return self.bulk().await;
        }
        Ok(())
    }

    /// Nor a file of a kind that is not, or with a name that is not.
    pub(super) async fn files(&self) -> Step {
        let Settings { enabled, refused, unscannable } = &self.settings.files;
        if !enabled {
            return Ok(());
        }
        let Some(files) = self.facts.files().await else { return Ok(()) };
        let refused = files.first_of(refused);
        let refused = refused.or_else(|| files.unscannable().filter(|_| *unscannable == Unscannable::Reject));
        if let Some(file) = refused {
            let texts = &self.settings.texts;
            return Err(Refusal::reject("file", texts.say(&texts.file, "", &shown(&file.to_string()))));
        }
        if files.unscannable().is_some() && *unscannable == Unscannable::Bulk {
            return self.bulk().await;
        }
        Ok(())
    }
}

/// Of `[file_types]`.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) enabled: bool,
    pub(super) refused: Vec<crate::files::Class>,
    pub(super) unscannable: Unscannable,
}

/// What others wrote, on one line and not long.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(MAX_REASON).map(|one| if one.is_control() || one == '{' { '?' } else { one }).collect()
}
