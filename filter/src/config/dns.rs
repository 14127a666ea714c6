//! `[dns]`.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::{Envelope, positive, seconds};
use crate::dns::{Asks, Use, Values, is_name};

/// Names and lists in the DNS (docs/dns.md), for `[envelope]`, `dns.lists` and scripts. Nothing is asked unless one of these
/// wants to know. A name server that does not answer never has a message refused.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers that are asked, which have to look for the answer themselves: `address` or `address:port`. Empty: those of
    /// /etc/resolv.conf, as it is at the start. Lists refuse who asks them through a public resolver: have one of your own.
    #[schemars(example = ["127.0.0.1", "[::1]:5353"])]
    pub servers: Vec<String>,
    /// Milliseconds for one answer, the wait for its turn included. A message waits for it, and for three in a row at most (a
    /// domain's MX, its address, and the lists): three times as long must be within `smtp.verdict_budget`.
    pub timeout_ms: u64,
    /// Look-ups at a time.
    pub concurrency: usize,
    /// Answers kept; beyond it those go that are asked for least.
    pub cache: u64,
    /// Seconds that an answer is kept, where it says longer of itself.
    pub max_ttl: u64,
    /// Lists of addresses and domains: tables `[[dns.lists]]`, each with `name`, `zone`, `asks` (`address`, `sender-domain` or
    /// `sender-domain-and-address`), `values` (the answers that mean listed: `127.0.0.2`, `127.0.0.0/28`, `127.0.*.3`,
    /// `127.0.0-9.0`) and `use` (`allow`, `bulk`, `defer` or `reject`). None comes with weir.
    #[schemars(example = lists())]
    pub lists: Vec<DnsList>,
}

/// A list in the DNS.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsList {
    /// By which replies, logs, counts and scripts know it: small letters, digits and hyphens.
    pub name: String,
    /// Behind what is asked.
    pub zone: String,
    /// What stands before the zone.
    #[serde(default)]
    pub asks: Asks,
    /// The answers that mean listed. Every other says that it is not; 127.255.255.0/24 and 127.0.0.255 are errors.
    #[schemars(with = "Vec<String>")]
    pub values: Vec<Values>,
    /// What becomes of what is listed.
    #[serde(rename = "use")]
    pub action: Use,
}

fn lists() -> serde_json::Value {
    serde_json::json!([
        { "name": "dnswl", "zone": "list.dnswl.org", "values": ["127.0.*.3"], "use": "allow" }
    ])
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout_ms: 2000,
            concurrency: 200,
            cache: 20_000,
            max_ttl: 3600,
            lists: Vec::new(),
        }
    }
}

/// Look-ups that a message waits for one after the other: a domain's MX, its address, and the lists.
const IN_A_ROW: u64 = 3;

/// Lists that a message is looked up in, at the same time.
const MAX_LISTS: usize = 20;

/// Characters of a list's name.
const MAX_NAME: usize = 30;

impl Dns {
    /// `budget`: all the time that there is for a verdict, in seconds.
    pub(super) fn check(&self, problems: &mut Problems, envelope: &Envelope, budget: u64) {
        for (index, server) in self.servers.iter().enumerate() {
            if address(server).is_none() {
                problems.add(&format!("dns.servers[{index}]"), "must be an address, or address:port");
            }
        }
        if !(10..=20_000).contains(&self.timeout_ms) {
            let what = format!("{} milliseconds; accepted: 10 to 20000", self.timeout_ms);
            problems.add("dns.timeout_ms", what);
        }
        let asks = !self.lists.is_empty() || envelope.asks_for_names();
        if asks && self.timeout_ms.saturating_mul(IN_A_ROW) > budget.saturating_mul(1000) {
            let what = format!(
                "{} milliseconds: {IN_A_ROW} look-ups in a row may take longer than smtp.verdict_budget, {budget} seconds",
                self.timeout_ms
            );
            problems.add("dns.timeout_ms", what);
        }
        positive(problems, "dns.concurrency", self.concurrency as u64);
        if self.concurrency > super::MAX_CONCURRENCY {
            problems.add("dns.concurrency", format!("is above {}", super::MAX_CONCURRENCY));
        }
        seconds(problems, "dns.max_ttl", self.max_ttl);
        if self.lists.len() > MAX_LISTS {
            problems.add("dns.lists", format!("are more than {MAX_LISTS}"));
        }
        for (index, list) in self.lists.iter().enumerate() {
            list.check(&format!("dns.lists[{index}]"), problems);
            if self.lists.iter().take(index).any(|other| other.name == list.name) {
                problems.add(&format!("dns.lists[{index}].name"), "is named twice");
            }
        }
    }

    /// The servers that are named.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().filter_map(|server| address(server)).collect()
    }
}

impl DnsList {
    fn check(&self, key: &str, problems: &mut Problems) {
        let plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.bytes().all(plain) {
            let what = format!("must be small letters, digits and hyphens, {MAX_NAME} at most");
            problems.add(&format!("{key}.name"), what);
        }
        if !is_name(&self.zone) || !self.zone.trim_end_matches('.').contains('.') {
            problems.add(&format!("{key}.zone"), "must be the name of a zone, for example list.example.org");
        }
        if self.values.is_empty() {
            problems.add(&format!("{key}.values"), "names no answer: nothing would ever be listed");
        }
        if self.asks == Asks::SenderDomain && self.action == Use::Allow {
            let what = "must not be \"allow\" where only the sender's domain is asked: whoever claims to be of a listed domain \
                        would not be scanned; see asks = \"sender-domain-and-address\"";
            problems.add(&format!("{key}.use"), what);
        }
    }
}

/// The port of name servers.
const PORT: u16 = 53;

fn address(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT)))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use weir_daemon::config;

    fn parsed(lines: &str) -> Result<Config, String> {
        let text = format!("[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n{lines}");
        config::parse::<Config>("f", &text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn lists_are_tables_and_their_mistakes_have_lines() {
        let config = parsed(
            "[dns]\nservers = [\"127.0.0.1\", \"[::1]:5353\"]\n[[dns.lists]]\nname = \"dnswl\"\nzone = \"list.dnswl.org\"\n\
             values = [\"127.0.*.3\"]\nuse = \"allow\"\n",
        )
        .unwrap();
        assert_eq!(config.dns.addresses(), ["127.0.0.1:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
        let problems = parsed(
            "[dns]\nservers = [\"ns.example\"]\n[[dns.lists]]\nname = \"A\"\nzone = \"x\"\nasks = \"sender-domain\"\n\
             values = []\nuse = \"allow\"\n",
        )
        .unwrap_err();
        for line in [
            "f:5: dns.servers[0]: must be an address",
            "dns.lists[0].name: must be",
            "dns.lists[0].zone: must",
            "dns.lists[0].values: names no answer",
            "dns.lists[0].use: must not be \"allow\"",
        ] {
            assert!(problems.contains(line), "{line} is not in {problems}");
        }
        let problems = parsed(
            "[[dns.lists]]\nname = \"a\"\nzone = \"a.example\"\nvalues = [\"127.255.255.*\"]\nuse = \"reject\"\n",
        )
        .unwrap_err();
        assert!(problems.contains("f:7: dns.lists[0].values"), "{problems}");
        assert!(problems.contains("would always be an error"), "{problems}");
    }

    #[test]
    fn three_look_ups_in_a_row_are_within_the_time_for_a_verdict() {
        let with = |timeout: u64, more: &str| {
            parsed(&format!(
                "verdict_budget = 30\n[dns]\nservers = [\"127.0.0.1\"]\ntimeout_ms = {timeout}\n{more}"
            ))
        };
        let list =
            "[[dns.lists]]\nname = \"a\"\nzone = \"a.example\"\nvalues = [\"127.0.0.2\"]\nuse = \"bulk\"\n";
        for more in [
            list,
            "[envelope]\nsender_domain_exists = \"log\"\n",
            "[envelope]\nrecipient_domain_exists = \"reject\"\n",
        ] {
            with(10_000, more).unwrap();
            let problems = with(10_001, more).unwrap_err();
            let told = "f:7: dns.timeout_ms: 10001 milliseconds: 3 look-ups in a row may take longer than smtp.verdict_budget, 30 seconds";
            assert!(problems.contains(told), "{problems}");
        }
        // Nobody would ask.
        with(10_001, "").unwrap();
    }
}
