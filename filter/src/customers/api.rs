//! The provider's service that says whose an address is, and what it said lately.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use weir_daemon::http::{Client, Full, Limits, Request, StatusCode, Token, header};

use super::{Customer, Owner, check_id};
use crate::bounded::Bounded;
use crate::config::CustomersApi as Config;
use crate::rate::Source;

/// What stands for the address in the URL.
pub(crate) const ADDRESS: &str = "{address}";

/// Octets of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// After a look-up that failed the next one for the same address waits, so that each message does not.
const PAUSE: Duration = Duration::from_secs(10);

/// A failure is said in the log this often at most.
const COMPLAINT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    url: String,
    token: Option<Token>,
    timeout: Duration,
    fresh: Duration,
    stale: Duration,
    permits: Semaphore,
    cache: Mutex<Bounded<Source, Slot>>,
    complained: Mutex<Option<Instant>>,
    counts: Counts,
}

/// What is known of one source. Locked while it is asked for, so that nobody else asks.
type Slot = Arc<tokio::sync::Mutex<Known>>;

#[derive(Debug, Default)]
struct Known {
    answer: Option<(Option<Arc<Customer>>, Instant)>,
    failed: Option<Instant>,
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    failed: AtomicU64,
    stale: AtomicU64,
    unknown: AtomicU64,
}

impl Api {
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let client = match &config.ca_file {
            Some(file) => Client::trusting(file).with_context(|| format!("ca_file: {}", file.display()))?,
            None => Client::clear(),
        };
        let token = config.token_file.as_deref().map(Token::read).transpose().context("token_file")?;
        Ok(Self {
            client,
            url: config.url.clone(),
            token,
            timeout: Duration::from_millis(config.timeout_ms),
            fresh: Duration::from_secs(config.cache),
            stale: Duration::from_secs(config.stale),
            permits: Semaphore::new(config.concurrency),
            cache: Mutex::new(Bounded::new(config.max_cached)),
            complained: Mutex::default(),
            counts: Counts::default(),
        })
    }

    pub(super) async fn of(&self, address: IpAddr) -> Owner {
        let slot = self.slot(Source::of(address));
        // Whoever asks for it now has no more time than the look-up.
        let Ok(mut known) = timeout(self.timeout, slot.lock()).await else {
            return self.unknown();
        };
        if let Some((customer, at)) = &known.answer
            && at.elapsed() < self.fresh
        {
            return owner(customer.clone());
        }
        if known.failed.is_none_or(|at| at.elapsed() >= PAUSE) {
            match self.ask(address).await {
                Ok(customer) => {
                    *known = Known { answer: Some((customer.clone(), Instant::now())), failed: None };
                    return owner(customer);
                }
                Err(cause) => {
                    known.failed = Some(Instant::now());
                    self.complain(address, &cause);
                }
            }
        }
        match &known.answer {
            Some((customer, at)) if at.elapsed() < self.stale => {
                self.counts.stale.fetch_add(1, Ordering::Relaxed);
                owner(customer.clone())
            }
            _ => self.unknown(),
        }
    }

    /// Is asked for anew the next time.
    pub(super) fn forget(&self, source: Source) {
        self.cache().remove(&source);
    }

    pub(super) fn status(&self) -> Value {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "cached": self.cache().len(),
            "asked": of(&self.counts.asked),
            "failed": of(&self.counts.failed),
            "answered_stale": of(&self.counts.stale),
            "unknown": of(&self.counts.unknown),
        })
    }

    fn unknown(&self) -> Owner {
        self.counts.unknown.fetch_add(1, Ordering::Relaxed);
        Owner { unknown: true, ..Owner::default() }
    }

    fn slot(&self, source: Source) -> Slot {
        let mut cache = self.cache();
        if let Some(slot) = cache.get(&source) {
            return slot.clone();
        }
        let slot = Slot::default();
        cache.insert(source, slot.clone());
        slot
    }

    async fn ask(&self, address: IpAddr) -> Result<Option<Arc<Customer>>, String> {
        let permit = timeout(self.timeout, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| "too many look-ups at a time".to_owned());
        let _permit = _permit?.map_err(|error| error.to_string())?;
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        let mut request = Request::get(self.url.replace(ADDRESS, &address.to_string()));
        request = request.header(header::ACCEPT, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.authorization());
        }
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let limits = Limits { time: self.timeout, body: MAX_ANSWER };
        let answer = self.client.fetch(request, limits).await.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::OK => read(answer.body()),
            StatusCode::NOT_FOUND | StatusCode::NO_CONTENT => Ok(None),
            other => Err(format!("it answered {other}")),
        }
    }

    fn complain(&self, address: IpAddr, cause: &str) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            *complained = Some(Instant::now());
            tracing::warn!(%address, cause, "customers.api: whose addresses are is not known, so each is limited alone");
        }
    }

    fn cache(&self) -> MutexGuard<'_, Bounded<Source, Slot>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn owner(customer: Option<Arc<Customer>>) -> Owner {
    Owner { customer, prefix: None, unknown: false }
}

/// An object with an `id`, a text or a number; what else is in it is metadata. `null`, or an `id` that is: nobody.
fn read(body: &[u8]) -> Result<Option<Arc<Customer>>, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
    let mut metadata: Map<String, Value> = match answer {
        Value::Null => return Ok(None),
        Value::Object(members) => members,
        _ => return Err("the answer is no object".to_owned()),
    };
    let id = match metadata.shift_remove("id") {
        Some(Value::String(id)) => id,
        Some(Value::Number(id)) => id.to_string(),
        Some(Value::Null) => return Ok(None),
        _ => return Err("the answer has no id, which is a text, a number or null".to_owned()),
    };
    check_id(&id)?;
    Ok(Some(Arc::new(Customer { id, metadata })))
}
