//! `filter.toml`: every key, its default and the reason for it. The example file and the reference
//! are generated from these types. One file a section.

mod channel;
mod clamav;
mod content;
mod counters;
mod customers;
mod dns;
mod envelope;
mod events;
mod file_types;
mod icap;
mod limits;
mod maps;
mod outbreak;
mod policy;
mod privacy;
mod quarantine;
mod reputation;
mod rspamd;
mod scanner;
mod script;
mod smtp;
mod spamassassin;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::{Check, Problems};
use weir_daemon::metrics::Metrics;

use crate::scan::Address;

pub use channel::{Blocks, Channel};
pub use clamav::ClamAv;
pub use content::Content;
pub use counters::{Counters, WhenStoreAway};
pub use customers::{Customers, CustomersApi};
pub use dns::{Dns, DnsList};
pub use envelope::{Check as CheckMode, Envelope};
pub use events::Events;
pub use file_types::{FileTypes, Unscannable};
pub use icap::{Engine, Icap};
pub use limits::Limits;
pub use maps::{MapFile, Maps};
pub use outbreak::Outbreak;
pub use policy::{Policy, Preset, Texts, Unscanned};
pub use privacy::Privacy;
pub use quarantine::Quarantine;
pub use reputation::Reputation;
pub use rspamd::Rspamd;
pub use script::{OnScriptError, Script};
pub use smtp::{Smtp, Tls};
pub use spamassassin::{SpamAssassin, WhenAway};

/// Configuration of weir-filter, a filter node: it judges messages for weir-agent and never sends mail.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub smtp: Smtp,
    #[serde(default)]
    pub policy: Policy,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub texts: Texts,
    #[serde(default)]
    pub script: Script,
    #[serde(default)]
    pub counters: Counters,
    #[serde(default)]
    pub customers: Customers,
    #[serde(default)]
    pub blocks: Blocks,
    pub channel: Option<Channel>,
    pub spamassassin: Option<SpamAssassin>,
    pub rspamd: Option<Rspamd>,
    pub clamav: Option<ClamAv>,
    pub icap: Option<Icap>,
    #[serde(default)]
    pub content: Content,
    #[serde(default)]
    pub file_types: FileTypes,
    #[serde(default)]
    pub outbreak: Outbreak,
    #[serde(default)]
    pub maps: Maps,
    #[serde(default)]
    pub envelope: Envelope,
    #[serde(default)]
    pub dns: Dns,
    #[serde(default)]
    pub reputation: Reputation,
    #[serde(default)]
    pub spool: Spool,
    #[serde(default)]
    pub events: Events,
    #[serde(default)]
    pub privacy: Privacy,
    #[serde(default)]
    pub quarantine: Quarantine,
    #[serde(default)]
    pub log: Log,
    pub metrics: Option<Metrics>,
}

/// Where a message's body waits for its verdict.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Bytes of one message kept in memory, in blocks of 16 KiB: with less than one block every message goes to a file. A longer one
    /// goes to an unlinked file. A message takes no more than an eighth of what `memory_total` leaves, so that many large ones leave
    /// room for small ones.
    pub memory_per_message: usize,
    /// Bytes of all messages kept in memory; above it bodies go to files at once.
    pub memory_total: usize,
    /// Directory of the files. Nothing stays in it: a file has no name once it is open.
    pub directory: PathBuf,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            memory_per_message: 4 * 1024 * 1024,
            memory_total: 256 * 1024 * 1024,
            directory: PathBuf::from("/var/tmp"),
        }
    }
}

/// What is logged, on standard error.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json` (one object a line) or `text`.
    pub format: weir_daemon::log::Format,
}

impl Config {
    /// Where the configured scanners listen.
    pub fn scanners(&self) -> impl Iterator<Item = &Address> {
        let spamassassin = self.spamassassin.iter().map(|section| &section.address);
        let rspamd = self.rspamd.iter().map(|section| &section.address);
        let clamav = self.clamav.iter().map(|section| &section.address);
        let icap = self.icap.iter().flat_map(|section| section.engines.iter().map(|engine| &engine.address));
        spamassassin.chain(rspamd).chain(clamav).chain(icap)
    }
}

impl Check for Config {
    fn check(&self, problems: &mut Problems) {
        self.smtp.check(problems);
        if let Some(metrics) = &self.metrics {
            metrics.check(problems);
        }
        let budget = self.smtp.verdict_budget;
        if let Some(spamassassin) = &self.spamassassin {
            spamassassin.check(problems, budget);
        }
        if let Some(rspamd) = &self.rspamd {
            rspamd.check(problems, budget);
        }
        if let Some(clamav) = &self.clamav {
            clamav.check(problems, budget);
        }
        if let Some(icap) = &self.icap {
            icap.check(problems, budget);
        }
        self.policy.check(problems);
        self.script.check(problems);
        self.limits.check(problems);
        self.texts.check(problems);
        self.counters.check(problems);
        self.customers.check(problems);
        self.content.check(problems);
        self.file_types.check(problems);
        self.events.check(problems);
        self.privacy.check(problems);
        self.quarantine.check(problems);
        self.outbreak.check(problems);
        self.maps.check(problems);
        self.dns.check(problems, &self.envelope, budget);
        self.reputation.check(problems);
        self.blocks.check(problems);
        if let Some(channel) = &self.channel {
            channel.check(&self.smtp, problems);
        }
        if !self.spool.directory.is_absolute() {
            problems.add("spool.directory", "must be an absolute path");
        }
    }
}

const DAY: u64 = 86_400;
const MAX_CONCURRENCY: usize = 10_000;

fn positive(problems: &mut Problems, key: &str, value: u64) {
    if value == 0 {
        problems.add(key, "must be at least 1");
    }
}

fn seconds(problems: &mut Problems, key: &str, value: u64) {
    if !(1..=DAY).contains(&value) {
        problems.add(key, format!("{value} seconds; accepted: 1 to {DAY}, a day"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Config;
    use weir_daemon::{config, reference};

    fn here(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    #[test]
    fn the_example_file_is_what_the_types_say_and_loads() {
        reference::check_generated(&here("filter.example.toml"), &reference::example::<Config>()).unwrap();
        if let Err(problems) = config::load::<Config>(&here("filter.example.toml")) {
            panic!("{problems}");
        }
    }

    #[test]
    fn the_reference_is_what_the_types_say() {
        let text = format!("# filter.toml\n\n{}", reference::markdown::<Config>());
        reference::check_generated(&here("../docs/filter.toml.md"), &text).unwrap();
    }

    #[test]
    fn sections_beside_smtp_are_optional() {
        let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n";
        let config: Config = config::parse("filter.toml", text).unwrap();
        assert_eq!((config.limits.messages_per_minute, config.limits.messages_per_hour), (100, 1000));
        assert!(config.spamassassin.is_none());
    }

    #[test]
    fn an_open_door_and_impossible_values_are_refused() {
        let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::/0\"]\n[limits]\nmessages_per_minute = 2000\n\
                    [spamassassin]\naddress = \"unix:spamd\"\ntimeout = 0\n";
        let problems = config::parse::<Config>("f", text).unwrap_err().to_string();
        let lines: Vec<_> = problems.lines().collect();
        assert!(lines[0].starts_with("f:3: smtp.proxies[0]: would let everybody"), "{problems}");
        assert!(lines[1].starts_with("f:7: spamassassin.address: "), "{problems}");
        assert!(lines[2].starts_with("f:8: spamassassin.timeout: 0 seconds; accepted"), "{problems}");
        assert_eq!(lines.len(), 3, "{problems}");
    }
}
