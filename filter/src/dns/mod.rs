//! Names and lists in the DNS. A look-up that fails is neither "found" nor "not found": it is [`Answer::Away`].

mod list;
mod name;
mod values;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Label, Name, RData, RecordType};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

pub use list::{Asks, List, Listing, Use};
pub use name::{is_name, of_address, reversed};
pub use values::{Values, is_error};

use crate::bounded::Bounded;
use crate::config::Dns as Config;
use crate::together::together;

/// Where a host says which name servers it asks.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Records of an answer that are looked at.
const MAX_RECORDS: usize = 50;

/// After a look-up that failed the same is not asked for a while, so that each message does not wait for it anew.
const PAUSE: Duration = Duration::from_secs(5);

/// Failures that are remembered.
const MAX_FAILED: usize = 10_000;

/// Look-ups for the envelope of one message that are under way at a time.
const AT_ONCE: usize = 5;

/// How often the same complaint is in the log, at most.
const COMPLAINT: Duration = Duration::from_secs(60);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    A,
    Aaaa,
    Mx,
    Txt,
    Ptr,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::A, Self::Aaaa, Self::Mx, Self::Txt, Self::Ptr];

    pub fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Ptr => "PTR",
        }
    }

    fn record_type(self) -> RecordType {
        match self {
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Mx => RecordType::MX,
            Self::Txt => RecordType::TXT,
            Self::Ptr => RecordType::PTR,
        }
    }
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Address(IpAddr),
    /// Names are without their last dot; that of a null MX (RFC 7505) is empty.
    Mx {
        preference: u16,
        exchange: String,
    },
    Text(Vec<u8>),
    Name(String),
}

impl Record {
    fn of(data: &RData, kind: Kind) -> Option<Self> {
        let name = |name: &Name| name.to_ascii().trim_end_matches('.').to_owned();
        Some(match (kind, data) {
            (Kind::A, RData::A(address)) => Self::Address(address.0.into()),
            (Kind::Aaaa, RData::AAAA(address)) => Self::Address(address.0.into()),
            (Kind::Mx, RData::MX(mx)) => Self::Mx { preference: mx.preference, exchange: name(&mx.exchange) },
            (Kind::Txt, RData::TXT(text)) => Self::Text(text.txt_data.concat()),
            (Kind::Ptr, RData::PTR(pointer)) => Self::Name(name(&pointer.0)),
            _ => return None,
        })
    }

    /// Of an A record.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        match self {
            Self::Address(IpAddr::V4(address)) => Some(*address),
            _ => None,
        }
    }
}

/// What came of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// At least one.
    Records(Vec<Record>),
    /// There is none. `named`: the name has others.
    Nothing { named: bool },
    /// Nobody knows, and why.
    Away(String),
}

/// Whether a domain can have mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// It has an MX or an address.
    Exists,
    /// It has neither.
    Missing,
    /// It says that it takes no mail (RFC 7505).
    NullMx,
    /// Nobody knows.
    Away,
}

/// Asks name servers. Answers are kept as long as they say, and no longer than is configured.
#[derive(Debug)]
pub struct Dns {
    resolver: Option<TokioResolver>,
    timeout: Duration,
    turns: Semaphore,
    failed: Mutex<Bounded<(String, Kind), Instant>>,
    counts: Counts,
    complained: Seldom,
    /// Of errors that lists answer with.
    list_complained: Seldom,
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    failed: AtomicU64,
    busy: AtomicU64,
}

impl Dns {
    /// # Errors
    /// If its servers cannot be found out.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let mut servers = config.addresses();
        if servers.is_empty() {
            servers = of_host(Path::new(RESOLV_CONF));
        }
        let limit = Duration::from_millis(config.timeout_ms);
        let resolver = if servers.is_empty() { None } else { Some(resolver(config, &servers, limit)?) };
        Ok(Self {
            resolver,
            timeout: limit,
            turns: Semaphore::new(config.concurrency.min(Semaphore::MAX_PERMITS)),
            failed: Mutex::new(Bounded::new(MAX_FAILED)),
            counts: Counts::default(),
            complained: Seldom::default(),
            list_complained: Seldom::default(),
        })
    }

    /// The records of this kind of a name.
    pub async fn ask(&self, name: &str, kind: Kind) -> Answer {
        if !is_name(name) {
            return Answer::Nothing { named: false };
        }
        let key = (name.trim_end_matches('.').to_ascii_lowercase(), kind);
        if self.failed().get(&key).is_some_and(|at| at.elapsed() < PAUSE) {
            return Answer::Away("it failed a moment ago".to_owned());
        }
        self.counts.asked.fetch_add(1, Relaxed);
        let answer = match to_ask(&key.0) {
            Ok(asked) => timeout(self.timeout, self.converse(asked, kind)).await.unwrap_or_else(|_| {
                Answer::Away(format!("no answer within {} ms", self.timeout.as_millis()))
            }),
            Err(error) => Answer::Away(format!("it cannot be asked for: {error}")),
        };
        if let Answer::Away(cause) = &answer {
            self.unanswered(name, kind.name(), cause);
            self.failed().insert(key, Instant::now());
        }
        answer
    }

    fn unanswered(&self, name: &str, kind: &str, cause: &str) {
        self.counts.failed.fetch_add(1, Relaxed);
        if self.complained.is_time() {
            tracing::warn!(name, kind, cause, "DNS: no answer, which is held against nobody");
        }
    }

    async fn converse(&self, mut name: Name, kind: Kind) -> Answer {
        let Some(resolver) = &self.resolver else {
            return Answer::Away(format!("neither dns.servers nor {RESOLV_CONF} names a server"));
        };
        if self.turns.available_permits() == 0 {
            self.counts.busy.fetch_add(1, Relaxed);
        }
        let Ok(_turn) = self.turns.acquire().await else { return Answer::Away("stopped".to_owned()) };
        // Nothing is put behind it.
        name.set_fqdn(true);
        match resolver.lookup(name, kind.record_type()).await {
            Ok(found) => {
                let records = found.answers().iter().filter_map(|record| Record::of(&record.data, kind));
                let records: Vec<Record> = records.take(MAX_RECORDS).collect();
                if records.is_empty() { Answer::Nothing { named: true } } else { Answer::Records(records) }
            }
            Err(error) => answer_of(&error),
        }
    }

    /// Whether the domains of one message can have mail. A few look-ups are under way at a time, so that a message with many
    /// domains does not take the turns of others; all together have the time of two in a row. What is not known then is
    /// [`Domain::Away`].
    pub async fn domains(&self, names: &[&str]) -> Vec<Domain> {
        let share = &Semaphore::new(AT_ONCE);
        let until = tokio::time::Instant::now() + self.timeout * 2;
        let asking = names.iter().map(|name| async move {
            timeout_at(until, self.domain(name, share)).await.unwrap_or_else(|_| {
                self.unanswered(name, "domain", "not known in the time for all domains of a message");
                Domain::Away
            })
        });
        together(asking).await
    }

    /// As RFC 5321 section 5.1 looks for where mail goes.
    async fn domain(&self, name: &str, share: &Semaphore) -> Domain {
        let ask = async |kind| match share.acquire().await {
            Ok(_turn) => self.ask(name, kind).await,
            Err(_) => Answer::Away("stopped".to_owned()),
        };
        match ask(Kind::Mx).await {
            Answer::Records(records) => {
                let null =
                    |record: &Record| matches!(record, Record::Mx { exchange, .. } if exchange.is_empty());
                return if records.iter().all(null) { Domain::NullMx } else { Domain::Exists };
            }
            Answer::Nothing { named: false } => return Domain::Missing,
            Answer::Nothing { named: true } => {}
            Answer::Away(_) => return Domain::Away,
        }
        let (v4, v6) = tokio::join!(ask(Kind::A), ask(Kind::Aaaa));
        match (v4, v6) {
            (Answer::Records(_), _) | (_, Answer::Records(_)) => Domain::Exists,
            (Answer::Away(_), _) | (_, Answer::Away(_)) => Domain::Away,
            (Answer::Nothing { .. }, Answer::Nothing { .. }) => Domain::Missing,
        }
    }

    pub fn status(&self) -> Value {
        let Counts { asked, failed, busy } = &self.counts;
        json!({
            "asked": asked.load(Relaxed),
            "failed": failed.load(Relaxed),
            "had_to_wait": busy.load(Relaxed),
        })
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Bounded<(String, Kind), Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name as it is asked for: labels of ASCII as they are, with an underscore wherever it stands, others as IDNA has them.
fn to_ask(name: &str) -> Result<Name, ProtoError> {
    let label = |label: &str| {
        if label.is_ascii() { Label::from_raw_bytes(label.as_bytes()) } else { Label::from_utf8(label) }
    };
    Name::from_labels(name.split('.').map(label).collect::<Result<Vec<_>, _>>()?)
}

fn resolver(config: &Config, servers: &[SocketAddr], limit: Duration) -> anyhow::Result<TokioResolver> {
    let server = |address: &SocketAddr| {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        server
    };
    let servers = ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect());
    let mut builder = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    // A datagram that was lost is said once more in the time that there is.
    options.timeout = limit / 2;
    options.attempts = 1;
    options.cache_size = config.cache;
    options.positive_max_ttl = Some(Duration::from_secs(config.max_ttl));
    options.negative_max_ttl = Some(Duration::from_secs(config.max_ttl));
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().context("dns")
}

/// The servers of a host, as resolv.conf(5) has them; none where there is no such file.
fn of_host(path: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(server.parse().ok()?, 53))
    });
    servers.collect()
}

fn answer_of(error: &NetError) -> Answer {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NoError => Answer::Nothing { named: true },
            ResponseCode::NXDomain => Answer::Nothing { named: false },
            other => Answer::Away(other.to_string()),
        },
        other => Answer::Away(other.to_string()),
    }
}

/// Something that is said now and then only.
#[derive(Debug, Default)]
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it is to be said now.
    fn is_time(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = last.is_none_or(|at| at.elapsed() >= COMPLAINT);
        if now {
            *last = Some(Instant::now());
        }
        now
    }
}

#[cfg(test)]
pub(crate) mod tests;
