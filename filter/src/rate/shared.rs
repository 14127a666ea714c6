//! Counts in Redis or Valkey, shared by all nodes: one round trip for each call, on the store's clock.

mod keys;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Script};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::{Answer, Ask, Away, Moment};

const SCRIPT: &str = include_str!("rate.lua");

/// Before all names.
const PREFIX: &str = "weir";

/// A message that an agent replays comes back within this: its session's time for a verdict, and more.
const REMEMBERED: Duration = Duration::from_secs(600);

/// An answer that takes longer is none: a message waits for several of them.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two tries to reach the store.
const PAUSE: Duration = Duration::from_millis(250);

/// Between two questions whether it is still there.
const BEAT: Duration = Duration::from_secs(1);

/// The store of several nodes.
pub struct Shared {
    client: Client,
    script: Script,
    forget: Script,
    connection: Mutex<Option<MultiplexedConnection>>,
    /// When the store began, as it says: another answer means that it has forgotten everything.
    began: Mutex<Option<String>>,
    counts: Counts,
}

/// What happened to it since the start.
#[derive(Debug, Default)]
struct Counts {
    here: AtomicBool,
    /// Said in the log: once, each time it goes; and of one that was never there.
    missed: AtomicBool,
    failures: AtomicU64,
    emptied: AtomicU64,
}

/// For the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct State {
    pub here: bool,
    /// Questions without an answer.
    pub failures: u64,
    /// How often it came back without its counts.
    pub emptied: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Shared {
    /// # Errors
    /// If the address is none.
    pub fn new(url: &str) -> Result<Arc<Self>, RedisError> {
        Ok(Arc::new(Self {
            client: Client::open(url)?,
            script: Script::new(SCRIPT),
            forget: Script::new(keys::FORGET),
            connection: Mutex::default(),
            began: Mutex::default(),
            counts: Counts::default(),
        }))
    }

    pub fn state(&self) -> State {
        State {
            here: self.counts.here.load(Ordering::Relaxed),
            failures: self.counts.failures.load(Ordering::Relaxed),
            emptied: self.counts.emptied.load(Ordering::Relaxed),
        }
    }

    /// Keeps a connection, for as long as the node runs.
    pub async fn stay_connected(self: Arc<Self>) {
        loop {
            match self.connect().await {
                Ok(()) => self.until_away().await,
                Err(cause) => self.lost(&cause),
            }
            sleep(PAUSE).await;
        }
    }

    async fn connect(&self) -> Result<(), String> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connect = self.client.get_multiplexed_async_connection_with_config(&config);
        let mut connection = connect.await.map_err(|cause| cause.to_string())?;
        // So that the first question needs no second.
        self.script.load_async(&mut connection).await.map_err(|cause| cause.to_string())?;
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
        self.counts.missed.store(false, Ordering::Relaxed);
        if !self.counts.here.swap(true, Ordering::Relaxed) {
            info!("the counters' store is there");
        }
        Ok(())
    }

    /// Until a question fails.
    async fn until_away(&self) {
        loop {
            sleep(BEAT).await;
            let Some(mut connection) = self.connection() else { return };
            let ping = redis::cmd("PING");
            let asked = ping.query_async::<String>(&mut connection);
            if !matches!(timeout(PATIENCE, asked).await, Ok(Ok(_))) {
                self.lost(&"no answer to PING");
                return;
            }
        }
    }

    fn connection(&self) -> Option<MultiplexedConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lost(&self, cause: &dyn std::fmt::Display) {
        *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.counts.here.store(false, Ordering::Relaxed);
        if !self.counts.missed.swap(true, Ordering::Relaxed) {
            warn!(%cause, "the counters' store is away");
        }
    }

    /// As [`super::Counters::rate`]. `now`: the store's own time, unless it is given.
    ///
    /// # Errors
    /// Without an answer in time. It may have been counted all the same.
    pub async fn rate(&self, ask: Ask<'_>, now: Option<Moment>) -> Result<Answer, Away> {
        let Some(mut connection) = self.connection() else {
            self.counts.failures.fetch_add(1, Ordering::Relaxed);
            return Err(Away);
        };
        let Ask { namespace, key, limit, seconds, weight, message } = ask;
        // With its length, so that no two namespaces and keys have one name.
        let length = namespace.len();
        let mark = message.map(|id| format!("{PREFIX}:message:{length}:{namespace}:{key}:{id}"));
        let mut call = self.script.prepare_invoke();
        call.key(format!("{PREFIX}:count:{length}:{namespace}:{key}"))
            .key(format!("{PREFIX}:windows:{namespace}"))
            .key(mark.unwrap_or_default())
            .key(format!("{PREFIX}:began"))
            .key(format!("{PREFIX}:namespaces"))
            .arg(limit)
            .arg(seconds)
            .arg(weight)
            .arg(REMEMBERED.as_millis().to_string())
            .arg(namespace);
        if let Some(Moment(now)) = now {
            call.arg(now);
        }
        let asked = timeout(PATIENCE, call.invoke_async::<(u8, u64, String)>(&mut connection)).await;
        let outcome = asked.map_err(|_| "no answer in time".to_owned());
        match outcome.and_then(|answer| answer.map_err(|cause| cause.to_string())) {
            Ok((within, sum, began)) => {
                self.is_the_same(began);
                Ok(Answer { within: within == 1, sum })
            }
            Err(cause) => {
                self.counts.failures.fetch_add(1, Ordering::Relaxed);
                self.lost(&cause);
                Err(Away)
            }
        }
    }

    /// A store that lost its counts lets everybody send as if he had sent nothing: somebody should know.
    fn is_the_same(&self, began: String) {
        let mut known = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|known| *known != began) {
            self.counts.emptied.fetch_add(1, Ordering::Relaxed);
            error!("the counters' store came back empty: every limit begins anew");
        }
        *known = Some(began);
    }
}
