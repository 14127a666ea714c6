//! The verdict on a message: the presets at the end of data, once for each message whatever its number of recipients; scripts
//! about connections and recipients, too.

mod engines;
mod limits;
mod outside;
mod points;
mod reject;
pub mod script;
mod text;
mod verdict;
mod volume;

use crate::config::{Config, Limits, Preset, Texts, WhenAway};
use crate::events::Addresses;
use crate::facts::Facts;
use crate::files::Class;
use crate::rate::{Counters, Moment, Once};
use limits::Case;
pub use text::Template;
pub use verdict::{Refusal, Verdict};

/// Messages whose counting is remembered, in case the agent replays them: a minute's worth and more.
const REMEMBERED: usize = 100_000;

/// Nothing against the message, or why not.
type Step = Result<(), Refusal>;

/// One of the policies that come with weir, as configured.
#[derive(Debug)]
pub struct Policy<C> {
    counters: Once<C>,
    settings: Settings,
}

/// What of the configuration the presets follow.
#[derive(Debug)]
struct Settings {
    policy: crate::config::Policy,
    limits: Limits,
    texts: Texts,
    spamassassin_away: WhenAway,
    files: engines::Settings,
    /// What becomes of mail addresses in keys, for they are stored.
    addresses: Addresses,
}

impl<C: Counters> Policy<C> {
    pub fn new(counters: C, config: &Config) -> Self {
        let settings = Settings {
            policy: config.policy.clone(),
            limits: config.limits.clone(),
            texts: config.texts.clone(),
            spamassassin_away: config
                .spamassassin
                .as_ref()
                .map(|section| section.when_away)
                .unwrap_or_default(),
            files: engines::Settings {
                enabled: config.file_types.enabled,
                refused: config.file_types.refused().chain([Class::BannedName]).collect(),
                unscannable: config.file_types.unscannable,
            },
            addresses: Addresses::keyed(&rand::random()),
        };
        Self { counters: Once::new(counters, REMEMBERED), settings }
    }

    pub fn counters(&self) -> &C {
        self.counters.counters()
    }

    /// The same, for scripts: a message that one of them has counted is not counted again.
    pub fn once(&self) -> &Once<C> {
        &self.counters
    }

    /// The first refusal ends it, so no scanner is asked about a message that a limit refuses.
    pub async fn at_end_of_data(&self, facts: &Facts<'_>, now: Moment) -> Verdict {
        let case = Case::new(&self.counters, &self.settings, facts, now);
        let outcome = match self.settings.policy.preset {
            Preset::Volume => volume::judge(&case).await,
            Preset::Reject => reject::judge(&case).await,
        };
        match outcome {
            Ok(()) => Verdict::Accept,
            Err(refusal) => Verdict::Refuse(refusal),
        }
    }
}

#[cfg(test)]
mod outside_tests;
#[cfg(test)]
mod tests;
