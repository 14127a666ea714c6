//! Off the hot path: one thread writes what samples come, and removes those whose time or room is over.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use age::x25519::Recipient;
use bytes::Bytes;
use tracing::{error, info};

use super::store::{self, Label};

/// Samples that wait, at most.
const LINE: usize = 8;

/// How often it is looked whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What encrypting adds: a header, and 16 octets for each 64 KiB.
const OVERHEAD: u64 = 32 * 1024;

#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    pub(super) keep: Duration,
    /// Bytes.
    pub(super) room: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// In line, and not written yet.
    pub(super) waiting: AtomicU64,
    pub(super) stored: AtomicU64,
    /// The same message again, from an agent that had lost its node.
    pub(super) repeated: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) samples: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// The way in. Dropped, it waits until all is written.
#[derive(Debug)]
pub(super) struct Writer {
    line: Option<SyncSender<(Label, Bytes)>>,
    thread: Option<JoinHandle<()>>,
    pub(super) counts: Arc<Counts>,
}

/// The directory is one process's.
#[derive(Debug)]
pub(super) struct Claim(#[expect(dead_code, reason = "held as long as it is open")] fs::File);

impl Claim {
    /// None: another has it.
    pub(super) fn take(directory: &Path) -> std::io::Result<Option<Self>> {
        let file = fs::File::create(directory.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(cause)) => Err(cause),
        }
    }
}

impl Writer {
    /// `to`: none where nothing is to be written any more, and what is there only has its time.
    pub(super) fn start(place: Place, to: Option<Recipient>, claim: Claim) -> std::io::Result<Self> {
        let (line, orders) = sync_channel(LINE);
        let counts = Arc::new(Counts::default());
        let work = Work { place, to, counts: counts.clone(), _claim: claim };
        let thread = thread::Builder::new().name("quarantine".into()).spawn(move || work.run(&orders))?;
        Ok(Self { line: Some(line), thread: Some(thread), counts })
    }

    /// Never waits. False: too many are waiting.
    pub(super) fn write(&self, label: Label, message: Bytes) -> bool {
        // Before it is sent, so that it is never below what is waiting.
        self.counts.waiting.fetch_add(1, Ordering::Relaxed);
        let sent = self.line.as_ref().is_some_and(|line| line.try_send((label, message)).is_ok());
        if !sent {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.line = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the writer of samples failed: a defect of weir-filter");
        }
    }
}

struct Work {
    place: Place,
    to: Option<Recipient>,
    counts: Arc<Counts>,
    _claim: Claim,
}

impl Work {
    fn run(self, orders: &Receiver<(Label, Bytes)>) {
        let directory = &self.place.directory;
        if let Err(cause) = store::remove_unfinished(directory) {
            error!(directory = %directory.display(), %cause, "quarantine: what was not finished cannot be removed");
        }
        self.sweep(self.place.room);
        loop {
            match orders.recv_timeout(SWEEP_EVERY) {
                Ok((label, message)) => {
                    self.write(&label, &message);
                    self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.sweep(self.place.room);
        }
    }

    fn write(&self, label: &Label, message: &[u8]) {
        let Some(to) = &self.to else { return };
        self.sweep(self.place.room.saturating_sub(message.len() as u64 + OVERHEAD));
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        match store::write(&self.place.directory, to, label, message) {
            Ok(true) => {
                count(&self.counts.stored);
                info!(id = label.id, identity = label.customer, rule = label.rule, "sample stored");
            }
            Ok(false) => {
                count(&self.counts.repeated);
            }
            Err(cause) => {
                count(&self.counts.failed);
                let directory = self.place.directory.display();
                error!(id = label.id, %directory, %cause, "sample not stored; the message goes on all the same");
            }
        }
    }

    fn sweep(&self, room: u64) {
        match store::sweep(&self.place.directory, self.place.keep, room) {
            Ok(usage) => {
                self.counts.samples.store(usage.samples, Ordering::Relaxed);
                self.counts.bytes.store(usage.bytes, Ordering::Relaxed);
            }
            Err(cause) => {
                let directory = self.place.directory.display();
                error!(%directory, %cause, "quarantine: samples whose time is over cannot be removed");
            }
        }
    }
}
