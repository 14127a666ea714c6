//! Off the hot path: a queue of bounded length, and one thread that writes in batches what comes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::{error, warn};
use weir_daemon::time;

use super::event::{Event, Outcome};
use super::store::Store;

/// Events and outcomes that wait, at most; about 1 KiB each.
const QUEUE: usize = 8192;

/// Rows of one transaction, at most.
const BATCH: usize = 1000;

/// How long a batch is waited for: what a killed process loses.
const LINGER: Duration = Duration::from_millis(100);

/// How often what is too old is looked for.
const RETAIN_EVERY: Duration = Duration::from_secs(60);

/// Least time between two lines about the same trouble.
const SILENCE: Duration = Duration::from_secs(10);

enum Order {
    Event(Box<Event>),
    Outcome(String, Box<Outcome>),
    /// Answers when all that came before is written.
    Sync(SyncSender<()>),
}

/// What became of events and outcomes.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub stored: AtomicU64,
    pub outcomes: AtomicU64,
    /// Outcomes of messages that are not known here.
    pub orphans: AtomicU64,
    /// For want of room in the queue.
    pub dropped: AtomicU64,
    /// For an error of the disk or the file.
    pub failed: AtomicU64,
    pub damaged_files: AtomicU64,
    pub files: AtomicU64,
    pub bytes: AtomicU64,
}

/// The way into the store. Dropped, it waits until all is written.
#[derive(Debug)]
pub struct Writer {
    queue: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
    directory: PathBuf,
}

impl Writer {
    /// # Errors
    /// If there can be no thread.
    pub fn start(store: Store) -> std::io::Result<Self> {
        let (queue, orders) = sync_channel(QUEUE);
        let directory = store.directory().to_owned();
        let counts = Arc::new(Counts::default());
        let work = Work { store, counts: counts.clone(), said: None, failing: false };
        let thread = thread::Builder::new().name("events".into()).spawn(move || work.run(&orders))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), counts, directory })
    }

    /// Never waits: where the queue is full the event is dropped, and counted.
    pub fn event(&self, event: Event) {
        self.send(Order::Event(Box::new(event.bounded())));
    }

    /// What became of a message at its destination.
    pub fn outcome(&self, id: &str, outcome: Outcome) {
        self.send(Order::Outcome(id.to_owned(), Box::new(outcome.bounded())));
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until all that came before is written. Blocks.
    pub fn sync(&self) {
        let (done, wait) = sync_channel(1);
        if let Some(queue) = &self.queue
            && queue.send(Order::Sync(done)).is_ok()
        {
            let _ = wait.recv();
        }
    }

    pub fn status(&self) -> Value {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        json!({
            "directory": self.directory,
            "stored": of(&counts.stored),
            "outcomes": of(&counts.outcomes),
            "outcomes_of_unknown_messages": of(&counts.orphans),
            "dropped": of(&counts.dropped),
            "failed": of(&counts.failed),
            "damaged_files": of(&counts.damaged_files),
            "files": of(&counts.files),
            "bytes": of(&counts.bytes),
        })
    }

    fn send(&self, order: Order) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(order) {
            let before = self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            // The first, and then each thousandth: the disk is slow enough.
            if before.is_multiple_of(1000) {
                warn!(dropped = before + 1, "events dropped: they come faster than they can be written");
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the writer of events failed: a defect of weir-filter");
        }
    }
}

/// What the thread has.
struct Work {
    store: Store,
    counts: Arc<Counts>,
    /// When trouble was last spoken of.
    said: Option<Instant>,
    failing: bool,
}

#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    outcomes: Vec<(String, Outcome)>,
    waiting: Vec<SyncSender<()>>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.events.len() + self.outcomes.len() >= BATCH
    }
}

impl Work {
    fn run(mut self, orders: &Receiver<Order>) {
        self.retain();
        let (mut retained, mut linger) = (Instant::now(), LINGER);
        loop {
            match orders.recv_timeout(RETAIN_EVERY) {
                Ok(first) => {
                    let batch = gather(first, orders, linger);
                    linger = if batch.is_full() { Duration::ZERO } else { LINGER };
                    self.write(batch);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if retained.elapsed() >= RETAIN_EVERY || self.store.is_over() {
                retained = Instant::now();
                self.retain();
            }
        }
    }

    fn write(&mut self, batch: Batch) {
        let (events, outcomes) = (batch.events.len() as u64, batch.outcomes.len() as u64);
        let written = if events + outcomes == 0 {
            Ok(super::store::Lost::default())
        } else {
            self.store.write(&batch.events, &batch.outcomes, time::now())
        };
        let count = |counter: &AtomicU64, by: u64| counter.fetch_add(by, Ordering::Relaxed);
        match written {
            Ok(lost) => {
                count(&self.counts.stored, events);
                count(&self.counts.outcomes, outcomes - lost.outcomes as u64);
                count(&self.counts.orphans, lost.outcomes as u64);
                if std::mem::take(&mut self.failing) {
                    warn!("events are stored again");
                }
            }
            Err(error) => {
                count(&self.counts.failed, events + outcomes);
                self.say(&error);
            }
        }
        self.counts.damaged_files.store(self.store.damaged, Ordering::Relaxed);
        for done in batch.waiting {
            let _ = done.send(());
        }
    }

    fn say(&mut self, error: &rusqlite::Error) {
        self.failing = true;
        if self.said.is_none_or(|said| said.elapsed() >= SILENCE) {
            self.said = Some(Instant::now());
            let directory = self.store.directory().display();
            error!(%directory, cause = %error, "events cannot be stored; messages are judged all the same");
        }
    }

    fn retain(&mut self) {
        self.store.retain(time::now());
        let usage = self.store.usage();
        self.counts.files.store(usage.files as u64, Ordering::Relaxed);
        self.counts.bytes.store(usage.bytes, Ordering::Relaxed);
    }
}

/// The first, and what comes in the time of a batch. That time is slept through, so that who has an event wakes nobody.
fn gather(first: Order, orders: &Receiver<Order>, linger: Duration) -> Batch {
    if !matches!(first, Order::Sync(_)) {
        thread::sleep(linger);
    }
    let mut batch = Batch::default();
    let mut next = Some(first);
    while let Some(order) = next {
        match order {
            Order::Event(event) => batch.events.push(*event),
            Order::Outcome(id, outcome) => batch.outcomes.push((id, *outcome)),
            Order::Sync(done) => {
                batch.waiting.push(done);
                break;
            }
        }
        if batch.is_full() {
            break;
        }
        next = orders.try_recv().ok();
    }
    batch
}
