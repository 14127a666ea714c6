//! The copies that this node saw and those that others tell of: each node writes what it counts to a stream in Redis or
//! Valkey, and counts what the others wrote. What it needs for a verdict is always in its own memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamReadReply};
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Counted, Memory, Sighting, Store};
use crate::rate::{Away, Clock, Moment};

const STREAM: &str = "weir:outbreak:sightings";
const SEED: &str = "weir:outbreak:seed";

/// Entries that the stream keeps, 0.5 to 2 kB each: of more the oldest go.
const LENGTH: usize = 100_000;

/// Sightings that wait to be told; of more the newest are not told.
const WAITING: usize = 10_000;

/// Told, and heard, at a time.
const AT_ONCE: usize = 100;

/// What a node that starts wants to hear of.
const HISTORY: u64 = 24 * 3_600_000;

/// The store answers at once, or after this time without news.
const NEWS: Duration = Duration::from_secs(1);

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two tries to reach the store.
const PAUSE: Duration = Duration::from_millis(250);

/// What all nodes know.
#[derive(Debug)]
pub struct Nodes {
    memory: Memory,
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    client: Client,
    /// Whose sightings an entry's are: those of this process are counted already.
    own: String,
    /// With the time when it was counted.
    sender: mpsc::Sender<(Sighting, Instant)>,
    receiver: tokio::sync::Mutex<mpsc::Receiver<(Sighting, Instant)>>,
    /// The last entry that was heard.
    last: Mutex<Option<String>>,
    here: AtomicBool,
    /// Said in the log: once, each time it goes; and of one that was never there.
    missed: AtomicBool,
    told: AtomicU64,
    heard: AtomicU64,
    untold: AtomicU64,
    not_understood: AtomicU64,
}

/// For the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Shared {
    pub here: bool,
    /// Messages that others were told of, since the start.
    pub told: u64,
    /// Those of others that were counted here.
    pub heard: u64,
    /// Those that others never heard of.
    pub untold: u64,
    /// Entries that are no sightings of this version's: of a node with another, or somebody else's.
    pub not_understood: u64,
}

impl Nodes {
    /// `url`: of the store; none where a node is alone.
    ///
    /// # Errors
    /// If the address is none.
    pub fn new(memory: Memory, url: Option<&str>) -> Result<Self, RedisError> {
        let link = |url: &str| {
            let (sender, receiver) = mpsc::channel(WAITING);
            Ok::<_, RedisError>(Link {
                client: Client::open(url)?,
                own: format!("{:016x}", rand::random::<u64>()),
                sender,
                receiver: tokio::sync::Mutex::new(receiver),
                last: Mutex::default(),
                here: AtomicBool::default(),
                missed: AtomicBool::default(),
                told: AtomicU64::default(),
                heard: AtomicU64::default(),
                untold: AtomicU64::default(),
                not_understood: AtomicU64::default(),
            })
        };
        Ok(Self { memory, link: url.map(link).transpose()? })
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn shared(&self) -> Option<Shared> {
        self.link.as_ref().map(|link| Shared {
            here: link.here.load(Relaxed),
            told: link.told.load(Relaxed),
            heard: link.heard.load(Relaxed),
            untold: link.untold.load(Relaxed),
            not_understood: link.not_understood.load(Relaxed),
        })
    }

    /// Tells and hears for as long as the node runs. `seed`: this node's, which becomes that of all.
    pub(super) async fn exchange(&self, seed: &AtomicU64, clock: &Clock) {
        let Some(link) = &self.link else { return };
        loop {
            let ended = match link.connect(PATIENCE).await {
                Ok(connection) => self.stay(link, connection, seed, clock).await,
                Err(cause) => Err(cause),
            };
            if let Err(cause) = ended {
                link.here.store(false, Relaxed);
                if !link.missed.swap(true, Relaxed) {
                    warn!(%cause, "outbreak: the store is away, other nodes are not heard");
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn stay(
        &self,
        link: &Link,
        mut connection: MultiplexedConnection,
        seed: &AtomicU64,
        clock: &Clock,
    ) -> Result<(), RedisError> {
        let own = seed.load(Relaxed);
        redis::cmd("SETNX").arg(SEED).arg(own).query_async::<()>(&mut connection).await?;
        let theirs: u64 = redis::cmd("GET").arg(SEED).query_async(&mut connection).await?;
        if theirs != own {
            // Nothing that was signed with another is ever like what is signed with this one.
            seed.store(theirs, Relaxed);
            self.memory.clear();
            let mut waiting = link.receiver.lock().await;
            while waiting.try_recv().is_ok() {
                link.untold.fetch_add(1, Relaxed);
            }
        }
        // It waits for news, and whatever is asked on the same connection would wait too.
        let hearing = link.connect(PATIENCE + NEWS).await?;
        link.missed.store(false, Relaxed);
        if !link.here.swap(true, Relaxed) {
            info!("outbreak: other nodes are heard");
        }
        tokio::try_join!(link.tell(connection), self.hear(link, hearing, clock)).map(|_| ())
    }

    /// Until a question fails.
    async fn hear(
        &self,
        link: &Link,
        mut connection: MultiplexedConnection,
        clock: &Clock,
    ) -> Result<(), RedisError> {
        loop {
            let known = link.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let since = known.unwrap_or_else(|| format!("{}-0", clock.now().0.saturating_sub(HISTORY)));
            let mut command = redis::cmd("XREAD");
            command.arg("COUNT").arg(AT_ONCE).arg("BLOCK").arg(NEWS.as_millis().to_string());
            command.arg("STREAMS").arg(STREAM).arg(since);
            let news: Option<StreamReadReply> = command.query_async(&mut connection).await?;
            for entry in news.into_iter().flat_map(|news| news.keys).flat_map(|stream| stream.ids) {
                if entry.get::<String>("node").is_none_or(|node| node != link.own) {
                    match understood(&entry, clock.now()) {
                        Some((sighting, at)) => {
                            self.memory.count(&sighting, at);
                            link.heard.fetch_add(1, Relaxed);
                        }
                        None => {
                            link.not_understood.fetch_add(1, Relaxed);
                        }
                    }
                }
                *link.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry.id);
            }
            // There may be a day's worth of it.
            tokio::task::yield_now().await;
        }
    }
}

impl Link {
    async fn connect(&self, patience: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(patience));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Until it cannot be told.
    async fn tell(&self, mut connection: MultiplexedConnection) -> Result<(), RedisError> {
        let mut receiver = self.receiver.lock().await;
        let mut sightings = Vec::new();
        loop {
            let count = receiver.recv_many(&mut sightings, AT_ONCE).await as u64;
            let mut entries = redis::pipe();
            for (sighting, counted) in sightings.drain(..) {
                let Ok(text) = serde_json::to_string(&sighting) else { continue };
                let entry = entries.cmd("XADD").arg(STREAM).arg("MAXLEN").arg("~").arg(LENGTH).arg("*");
                // Of a store that was away, and no moment of another clock than the store's.
                let waited = counted.elapsed().as_millis().to_string();
                entry.arg("node").arg(&self.own).arg("waited").arg(waited).arg("sighting").arg(text).ignore();
            }
            // Until the store has them, whatever ends this.
            self.untold.fetch_add(count, Relaxed);
            entries.query_async::<()>(&mut connection).await?;
            self.untold.fetch_sub(count, Relaxed);
            self.told.fetch_add(count, Relaxed);
        }
    }
}

impl Store for Nodes {
    async fn count(&self, sighting: &Sighting, now: Moment) -> Result<Counted, Away> {
        if let Some(link) = &self.link
            && link.sender.try_send((sighting.clone(), Instant::now())).is_err()
        {
            link.untold.fetch_add(1, Relaxed);
        }
        Ok(self.memory.count(sighting, now))
    }
}

/// What another node saw, and when, as far as this one's clock says.
fn understood(entry: &StreamId, now: Moment) -> Option<(Sighting, Moment)> {
    let sighting: Sighting = serde_json::from_str(&entry.get::<String>("sighting")?).ok()?;
    let waited: u64 = entry.get("waited")?;
    let at = moment(&entry.id)?.min(now.0).saturating_sub(waited);
    Some((sighting.bounded(), Moment(at)))
}

/// When an entry was written, on the store's clock.
fn moment(id: &str) -> Option<u64> {
    id.split_once('-').and_then(|(milliseconds, _)| milliseconds.parse().ok())
}

#[cfg(test)]
mod tests {
    use redis::Value;
    use redis::streams::StreamId;

    use super::{moment, understood};
    use crate::outbreak::{MAX_RECIPIENTS, Sighting, Signature};
    use crate::rate::Moment;

    /// Counted when it was seen, not when the store was back; and no larger than one of this node's.
    #[test]
    fn what_another_node_saw_is_dated_and_bounded() {
        let recipients = vec![(1, 2); 5000];
        let sighting = Sighting { signature: Signature::default(), customer: 1, source: 1, recipients };
        let text = serde_json::to_string(&sighting).unwrap();
        let entry = |sighting: &str| {
            let fields = [("node", "other"), ("waited", "5000"), ("sighting", sighting)];
            let value = |text: &str| Value::BulkString(text.as_bytes().to_vec());
            let map = fields.map(|(name, text)| (name.to_owned(), value(text))).into();
            StreamId { id: "1600000000000-0".into(), map, ..StreamId::default() }
        };
        let later = Moment(1_700_000_000_000);
        let (heard, at) = understood(&entry(&text), later).unwrap();
        assert_eq!((heard.recipients.len(), at), (MAX_RECIPIENTS, Moment(1_599_999_995_000)));
        let (_, at) = understood(&entry(&text), Moment(1_500_000_000_000)).unwrap();
        assert_eq!(at, Moment(1_499_999_995_000), "a clock that is behind");
        assert!(understood(&entry("{}"), later).is_none());
    }

    #[test]
    fn ids_of_entries_say_when() {
        assert_eq!(moment("1600000000000-0"), Some(1_600_000_000_000));
        assert_eq!((moment("x-0"), moment("1600000000000")), (None, None));
    }
}
