//! `[customers]`: whose addresses are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;
use weir_daemon::http::Uri;

use super::{positive, seconds};
use crate::customers::{ADDRESS, check_id};

/// Whose addresses are, so that a customer with many has the limits of one. What is not known here is limited by its address
/// alone. The longest prefix decides, then the service.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Customers {
    /// Prefixes and whose they are.
    pub prefixes: Vec<CustomerPrefix>,
    /// The same in a file of comma-separated values (RFC 4180). The first line names the columns: `prefix,id`, and others,
    /// which become metadata. It is read again when it has changed, within 2 seconds; one with a mistake changes nothing
    /// (at the start: is an error). To change it, write another file beside it and rename that. Empty: none.
    pub file: PathBuf,
    /// The provider's HTTP service, asked for what is in no prefix.
    pub api: Option<CustomersApi>,
}

/// A prefix, and whose it is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomerPrefix {
    /// Its addresses, `address/length`.
    #[schemars(with = "String", example = &"10.1.7.0/24")]
    pub prefix: IpNet,
    /// The customer. Without one, the prefix is limited as one source.
    pub id: Option<String>,
    /// What else is known of him.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A service that says whose an address is: GET, answered by 200 and an object with `id` (other members are metadata), or by
/// 404 if it is nobody's. While it does not answer, what it said last holds until it is stale; then addresses are limited
/// by themselves, and the log and `status` say so.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomersApi {
    /// Where it is, with `{address}` in the place of the address. Of an IPv6 /64 one address is asked for.
    #[schemars(example = &"http://127.0.0.1:8080/ip-to-cust/{address}")]
    pub url: String,
    /// For `https`: a file in PEM with the authorities that are trusted, for example /etc/ssl/certs/ca-certificates.crt.
    pub ca_file: Option<PathBuf>,
    /// A file with a token, said as `Authorization: Bearer`.
    pub token_file: Option<PathBuf>,
    /// Milliseconds for an answer. A message waits for it.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Seconds that an answer holds.
    #[serde(default = "cache")]
    pub cache: u64,
    /// Seconds that it holds while the service does not answer.
    #[serde(default = "stale")]
    pub stale: u64,
    /// Answers kept, about 300 bytes each and what is in them; beyond it the oldest is forgotten.
    #[serde(default = "max_cached")]
    pub max_cached: usize,
    /// Requests at a time.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
}

fn timeout_ms() -> u64 {
    2000
}
fn cache() -> u64 {
    300
}
fn stale() -> u64 {
    3600
}
fn max_cached() -> usize {
    100_000
}
fn concurrency() -> usize {
    16
}

impl Customers {
    pub(super) fn check(&self, problems: &mut Problems) {
        for (index, entry) in self.prefixes.iter().enumerate() {
            let key = |name: &str| format!("customers.prefixes[{index}].{name}");
            if entry.prefix.trunc() != entry.prefix {
                let what = format!("has bits behind its length; did you mean {}?", entry.prefix.trunc());
                problems.add(&key("prefix"), what);
            }
            if self.prefixes[..index].iter().any(|earlier| earlier.prefix == entry.prefix) {
                problems.add(&key("prefix"), "is named twice");
            }
            if let Some(Err(what)) = entry.id.as_deref().map(check_id) {
                problems.add(&key("id"), what);
            }
        }
        if !self.file.as_os_str().is_empty() && !self.file.is_absolute() {
            problems.add("customers.file", "must be an absolute path, or empty");
        }
        if let Some(api) = &self.api {
            api.check(problems);
        }
    }
}

impl CustomersApi {
    fn check(&self, problems: &mut Problems) {
        let uri: Option<Uri> = self.url.replace(ADDRESS, "192.0.2.1").parse().ok();
        let scheme = uri.as_ref().and_then(Uri::scheme_str);
        let key = "customers.api.url";
        if uri.as_ref().is_none_or(|uri| uri.host().is_none()) || !matches!(scheme, Some("http" | "https")) {
            problems.add(key, "must be http://host:port/path or https://host/path");
        } else if !self.url.contains(ADDRESS) {
            problems.add(key, "does not say where the address goes: {address}");
        } else if scheme == Some("https") && self.ca_file.is_none() {
            problems.add("customers.api.ca_file", "is missing: whose certificates are trusted?");
        }
        for (name, path) in [("ca_file", &self.ca_file), ("token_file", &self.token_file)] {
            if path.as_ref().is_some_and(|path| !path.is_absolute()) {
                problems.add(&format!("customers.api.{name}"), "must be an absolute path");
            }
        }
        if !(10..=30_000).contains(&self.timeout_ms) {
            let what = format!("{} milliseconds; accepted: 10 to 30000", self.timeout_ms);
            problems.add("customers.api.timeout_ms", what);
        }
        seconds(problems, "customers.api.cache", self.cache);
        seconds(problems, "customers.api.stale", self.stale);
        if self.stale < self.cache {
            problems.add("customers.api.stale", "is less than customers.api.cache");
        }
        positive(problems, "customers.api.max_cached", self.max_cached as u64);
        positive(problems, "customers.api.concurrency", self.concurrency as u64);
        if self.concurrency > 1000 {
            problems.add("customers.api.concurrency", "is above 1000");
        }
    }
}
