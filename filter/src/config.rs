//! `filter.toml`: every key, its default and the reason for it. The example file and the reference
//! are generated from these types.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::{Check, Problems};

use crate::scan::spamd::Address;

/// Configuration of weir-filter, a filter node: it judges messages for weir-agent and never sends mail.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub smtp: Smtp,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub counters: Counters,
    pub spamassassin: Option<SpamAssassin>,
    #[serde(default)]
    pub spool: Spool,
    #[serde(default)]
    pub log: Log,
}

/// Where messages come in, and from whom.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// Addresses to listen on, `address:port`; IPv6 as `[address]:port`.
    #[schemars(example = ["10.3.0.11:10025"])]
    pub listen: Vec<SocketAddr>,
    /// Who may connect and say with XCLIENT whose mail it is: the addresses of the agents. All others
    /// get 554 at connect, because whoever may use XCLIENT can speak for every customer.
    #[schemars(with = "Vec<String>", example = ["10.3.0.1/32"])]
    pub proxies: Vec<IpNet>,
    /// The name in the greeting, for people who read protocols.
    #[serde(default = "defaults::name")]
    pub name: String,
    /// Connections at a time; further ones get 421, and the agent tries another node. With
    /// `spool.memory_per_message` it bounds the memory used for bodies.
    #[serde(default = "defaults::max_sessions")]
    pub max_sessions: usize,
    /// Bytes of the largest message; announced in SIZE, larger ones get 552. Not less than the
    /// agent's `relay.max_message_size`.
    #[serde(default = "defaults::max_message_size")]
    pub max_message_size: u64,
    /// Recipients of one message; further ones get 452. High, because the destination has a limit of
    /// its own that the customer should meet first.
    #[serde(default = "defaults::max_recipients")]
    pub max_recipients: usize,
    /// Bytes of the longest command line, its line end included. RFC 5321 asks for 512 and more with
    /// extensions; the agent takes 4096 of its customers, and may have to say a little more here.
    #[serde(default = "defaults::max_command_line")]
    pub max_command_line: usize,
    /// Seconds a proxy may be silent. The agent keeps its connection while the customer composes his
    /// next message.
    #[serde(default = "defaults::idle_timeout")]
    pub idle_timeout: u64,
    /// Seconds from DATA to the end of the message. A customer's line may be slow, but a message that
    /// never ends would hold its place forever. Not below the agent's `relay.session_timeout`, or the node
    /// would seem to fail.
    #[serde(default = "defaults::data_timeout")]
    pub data_timeout: u64,
    /// Seconds a stop waits for messages in flight.
    #[serde(default = "defaults::shutdown_timeout")]
    pub shutdown_timeout: u64,
    /// TLS for agents that are not on the node's own wire: STARTTLS before XCLIENT; their side is `[filter.tls]`. Both
    /// files are read at the start, and again when they have changed: a renewed certificate needs no restart.
    pub tls: Option<Tls>,
}

/// The node's certificate, and whether TLS is a must.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The node's certificate, and those between it and the authority that the agents know: a file in PEM. Made out to
    /// the node's address, or to the agents' `filter.tls.server_name`.
    #[schemars(example = &"/etc/weir/filter.pem")]
    pub certificate: PathBuf,
    /// Its private key: a file in PEM that only weir-filter can read.
    #[schemars(example = &"/etc/weir/filter.key")]
    pub key: PathBuf,
    /// Whether nothing is said of customers and no mail is taken in clear (530), and XCLIENT is announced in TLS only.
    /// `false` while agents are changed over.
    #[serde(default = "defaults::required")]
    pub required: bool,
}

/// How much one source may send: an IPv4 address, or an IPv6 /64, because a customer with one has
/// them all. What is refused does not count, so a customer's retries never lock him out.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Messages a minute from one source; further ones are deferred with 451. 0: no limit.
    pub messages_per_minute: u64,
    /// Messages an hour from one source; further ones are deferred with 451. 0: no limit.
    pub messages_per_hour: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { messages_per_minute: 100, messages_per_hour: 1000 }
    }
}

/// What was sent lately, by whom: in memory, and in a file that outlives the process.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Counters {
    /// Counters kept at a time, about 300 bytes each; beyond it those unused for longest are forgotten.
    pub max_keys: usize,
    /// The file, written every 5 seconds and at the end: a node that is stopped loses no count, one that is killed at
    /// most those of the last 10 seconds. A damaged file stops the start, for nobody knows how much was sent. Empty:
    /// none, and counts end with the process.
    pub file: PathBuf,
}

impl Default for Counters {
    fn default() -> Self {
        Self { max_keys: 1_000_000, file: PathBuf::from("/var/lib/weir/counters.sqlite") }
    }
}

/// SpamAssassin, asked through spamd. Without this section messages are not scanned. Customers with
/// private addresses are trusted by SpamAssassin (its ALL_TRUSTED) unless its own `trusted_networks`
/// says otherwise, for example `trusted_networks 127.0.0.0/8`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpamAssassin {
    /// Where spamd listens: `address:port`, or `unix:/path`.
    #[schemars(with = "String", example = &"127.0.0.1:783")]
    pub address: Address,
    /// Messages with this score or more are rejected with 550.
    #[serde(default = "defaults::reject_at")]
    pub reject_at: f64,
    /// What becomes of a message when spamd is away, too slow or too busy: `accept-unscanned` (and
    /// the log line says so) or `defer` (451).
    #[serde(default)]
    pub when_away: WhenAway,
    /// Bytes of the largest message that is scanned; larger ones are not. Spam is small, and
    /// SpamAssassin's time grows with the size.
    #[serde(default = "defaults::max_scan_size")]
    pub max_size: u64,
    /// Messages scanned at a time: spamd's `--max-children`.
    #[serde(default = "defaults::concurrency")]
    pub concurrency: usize,
    /// Seconds a message waits for its turn.
    #[serde(default = "defaults::max_wait")]
    pub max_wait: u64,
    /// Seconds for one scan. With `max_wait` it has to fit into the agent's `filter.verdict_budget`.
    #[serde(default = "defaults::scan_timeout")]
    pub timeout: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WhenAway {
    #[default]
    AcceptUnscanned,
    Defer,
}

/// Where a message's body waits for its verdict.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Bytes of one message kept in memory; a longer one goes to an unlinked file.
    pub memory_per_message: usize,
    /// Directory of the files. Nothing stays in it: a file has no name once it is open.
    pub directory: PathBuf,
}

impl Default for Spool {
    fn default() -> Self {
        Self { memory_per_message: 256 * 1024, directory: PathBuf::from("/var/tmp") }
    }
}

/// What is logged, on standard error.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json` (one object a line) or `text`.
    pub format: weir_daemon::log::Format,
}

impl Check for Config {
    fn check(&self, problems: &mut Problems) {
        self.smtp.check(problems);
        if let Some(spamassassin) = &self.spamassassin {
            spamassassin.check(problems);
        }
        positive(problems, "counters.max_keys", self.counters.max_keys as u64);
        if !self.counters.file.as_os_str().is_empty() && !self.counters.file.is_absolute() {
            problems.add("counters.file", "must be an absolute path, or empty");
        }
        positive(problems, "spool.memory_per_message", self.spool.memory_per_message as u64);
        if !self.spool.directory.is_absolute() {
            problems.add("spool.directory", "must be an absolute path");
        }
    }
}

impl Smtp {
    fn check(&self, problems: &mut Problems) {
        if self.listen.is_empty() {
            problems.add("smtp.listen", "names no address to listen on");
        }
        for (index, address) in self.listen.iter().enumerate() {
            if self.listen[..index].contains(address) {
                problems.add(&format!("smtp.listen[{index}]"), "is named twice");
            }
        }
        if self.proxies.is_empty() {
            problems.add("smtp.proxies", "names no proxy, so nobody could use this node");
        }
        for (index, prefix) in self.proxies.iter().enumerate() {
            if prefix.prefix_len() == 0 {
                let what = "would let everybody speak for every customer; name the agents' addresses";
                problems.add(&format!("smtp.proxies[{index}]"), what);
            }
        }
        let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
        if self.name.is_empty() || !self.name.bytes().all(plain) {
            problems.add("smtp.name", "must be a host name: letters, digits, dots and hyphens");
        }
        if self.max_command_line < 512 {
            problems.add("smtp.max_command_line", "is below 512, the least of RFC 5321 section 4.5.3.1.4");
        }
        if self.max_recipients < 100 {
            problems.add("smtp.max_recipients", "is below 100, the least of RFC 5321 section 4.5.3.1.8");
        }
        if let Some(tls) = &self.tls {
            for (key, path) in [("certificate", &tls.certificate), ("key", &tls.key)] {
                if !path.is_absolute() {
                    problems.add(&format!("smtp.tls.{key}"), "must be an absolute path");
                }
            }
        }
        positive(problems, "smtp.max_sessions", self.max_sessions as u64);
        positive(problems, "smtp.max_message_size", self.max_message_size);
        seconds(problems, "smtp.idle_timeout", self.idle_timeout);
        seconds(problems, "smtp.data_timeout", self.data_timeout);
        seconds(problems, "smtp.shutdown_timeout", self.shutdown_timeout);
    }
}

impl SpamAssassin {
    fn check(&self, problems: &mut Problems) {
        if !self.reject_at.is_finite() {
            problems.add("spamassassin.reject_at", "must be a finite number");
        }
        positive(problems, "spamassassin.max_size", self.max_size);
        positive(problems, "spamassassin.concurrency", self.concurrency as u64);
        if self.concurrency > MAX_CONCURRENCY {
            problems.add("spamassassin.concurrency", format!("is above {MAX_CONCURRENCY}"));
        }
        seconds(problems, "spamassassin.timeout", self.timeout);
        if self.max_wait > DAY {
            problems.add("spamassassin.max_wait", format!("is above {DAY} seconds, a day"));
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

mod defaults {
    pub(super) fn name() -> String {
        "weir-filter".into()
    }
    pub(super) fn max_sessions() -> usize {
        1000
    }
    pub(super) fn max_message_size() -> u64 {
        100 * 1024 * 1024
    }
    pub(super) fn max_recipients() -> usize {
        5000
    }
    pub(super) fn max_command_line() -> usize {
        8192
    }
    pub(super) fn idle_timeout() -> u64 {
        600
    }
    pub(super) fn data_timeout() -> u64 {
        7200
    }
    pub(super) fn shutdown_timeout() -> u64 {
        30
    }
    pub(super) fn required() -> bool {
        true
    }
    pub(super) fn reject_at() -> f64 {
        6.0
    }
    pub(super) fn max_scan_size() -> u64 {
        512 * 1024
    }
    pub(super) fn concurrency() -> usize {
        5
    }
    pub(super) fn max_wait() -> u64 {
        15
    }
    pub(super) fn scan_timeout() -> u64 {
        25
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
