//! Samples: a few whole messages that somebody may look at who has the key. Nothing here keeps mail back or delays it:
//! what cannot be stored at once is not, and counted.

mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use weir_daemon::time;

use crate::config::Quarantine as Config;
use crate::facts::Facts;
use crate::rate::{Ask, Counters, Moment, Once};

pub use store::{Kept, Label, ReadError, armored, decrypt, find, list, remove};
use writer::{Claim, Place, Writer};

const HOUR: u64 = 3600;

/// Namespaces of the limits: of all samples, and of one customer's.
const ALL: &str = "quarantine";
const OF_CUSTOMER: &str = "quarantine-customer";

/// Of `quarantine`.
const EVERYBODY: &str = "all";

/// Who wants a sample.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'w> {
    /// Why, in a word.
    pub rule: &'w str,
    /// Before the namespaces of its counts.
    pub before: &'static str,
    pub now: Moment,
    /// Whether it is only asked whether there would be one.
    pub only_asks: bool,
}

/// Why there is no sample of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Privacy,
    TooLarge,
    CustomerLimit,
    Limit,
    CountersAway,
    Unreadable,
    LineFull,
}

impl Without {
    const ALL: [Self; 7] = [
        Self::Privacy,
        Self::TooLarge,
        Self::CustomerLimit,
        Self::Limit,
        Self::CountersAway,
        Self::Unreadable,
        Self::LineFull,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Privacy => "privacy",
            Self::TooLarge => "too_large",
            Self::CustomerLimit => "customer_limit",
            Self::Limit => "limit",
            Self::CountersAway => "counters_away",
            Self::Unreadable => "unreadable",
            Self::LineFull => "line_full",
        }
    }
}

/// Where samples go; as configured.
#[derive(Debug)]
pub struct Quarantine {
    config: Config,
    /// None: samples are only asked for.
    writer: Option<Writer>,
    without: [AtomicU64; Without::ALL.len()],
}

impl Quarantine {
    /// None where it is off, and there is nothing left of when it was on.
    ///
    /// # Errors
    /// If the directory cannot be used, where it is on.
    pub fn open(config: &Config) -> anyhow::Result<Option<Self>> {
        match Self::try_open(config) {
            Err(cause) if !config.enabled => {
                tracing::warn!(cause = format!("{cause:#}"), "samples of before stay where they are");
                Ok(None)
            }
            opened => opened,
        }
    }

    fn try_open(config: &Config) -> anyhow::Result<Option<Self>> {
        let directory = &config.directory;
        if !config.enabled && !directory.exists() {
            return Ok(None);
        }
        let unusable = || format!("quarantine.directory: {}", directory.display());
        store::make(directory).with_context(unusable)?;
        let claim = match Claim::take(directory).with_context(unusable)? {
            Some(claim) => claim,
            None if config.enabled => bail!("{}: another weir-filter keeps its samples there", unusable()),
            None => return Ok(None),
        };
        let to = config.recipient().map_err(anyhow::Error::msg).context("quarantine.public_key")?;
        let place = Place {
            directory: directory.clone(),
            keep: Duration::from_secs(config.keep_days * 86_400),
            room: config.max_disk,
        };
        let writer = Writer::start(place, to.filter(|_| config.enabled), claim);
        let writer = writer.context("there can be no thread for samples")?;
        Ok(Some(Self { writer: Some(writer), ..Self::asked_only(config) }))
    }

    /// Takes no samples, and says whether it would.
    pub fn asked_only(config: &Config) -> Self {
        Self { config: config.clone(), writer: None, without: Default::default() }
    }

    /// SpamAssassin's score above which the preset wants a sample.
    pub fn sample_above(&self) -> f64 {
        self.config.sample_above
    }

    /// Takes a sample of a message, unless there are too many by now; whether it did.
    pub async fn take<C: Counters>(&self, facts: &Facts<'_>, counters: &Once<C>, wish: Wish<'_>) -> bool {
        if !self.config.enabled {
            return false;
        }
        let taken = self.try_take(facts, counters, wish).await;
        if let Err(why) = taken
            && !wish.only_asks
        {
            self.without[why as usize].fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    async fn try_take<C: Counters>(
        &self,
        facts: &Facts<'_>,
        counters: &Once<C>,
        wish: Wish<'_>,
    ) -> Result<(), Without> {
        if facts.is_closed() {
            return Err(Without::Privacy);
        }
        if facts.body().size() > self.config.max_sample_size {
            return Err(Without::TooLarge);
        }
        let id = &facts.transaction().id;
        let customer = facts.identity().to_string();
        // His own limit comes first: what he has beyond it must not use up that of all.
        for (namespace, key, limit, over) in [
            (OF_CUSTOMER, customer.as_str(), self.config.max_per_customer_hour, Without::CustomerLimit),
            (ALL, EVERYBODY, self.config.max_per_hour, Without::Limit),
        ] {
            let namespace = &format!("{}{namespace}", wish.before);
            let ask = Ask { namespace, key, limit, seconds: HOUR, weight: 1, message: None };
            let counted = counters.rate(id, ask, wish.now).await.map_err(|_| Without::CountersAway)?;
            if !counted.within {
                return Err(over);
            }
        }
        let Some(writer) = self.writer.as_ref().filter(|_| !wish.only_asks) else { return Ok(()) };
        let message = facts.body().head(self.config.max_sample_size).await;
        let message = message.map_err(|cause| {
            tracing::warn!(id, %cause, "sample not taken");
            Without::Unreadable
        })?;
        let label = Label { id: id.clone(), time: time::now(), customer, rule: wish.rule.to_owned() };
        if writer.write(label, message) { Ok(()) } else { Err(Without::LineFull) }
    }

    pub fn status(&self) -> Value {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let without: serde_json::Map<String, Value> = Without::ALL
            .iter()
            .map(|why| (why.name().to_owned(), json!(of(&self.without[*why as usize]))))
            .collect();
        let counts = self.writer.as_ref().map(|writer| &writer.counts);
        json!({
            "enabled": self.config.enabled,
            "directory": self.config.directory,
            "waiting": counts.map(|counts| of(&counts.waiting)),
            "stored": counts.map(|counts| of(&counts.stored)),
            "repeated": counts.map(|counts| of(&counts.repeated)),
            "failed": counts.map(|counts| of(&counts.failed)),
            "samples": counts.map(|counts| of(&counts.samples)),
            "bytes": counts.map(|counts| of(&counts.bytes)),
            "not_stored": without,
        })
    }
}
