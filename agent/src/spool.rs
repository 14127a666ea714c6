//! A message's body while it waits for its verdict: in memory up to a limit, then in a file without a
//! name, which is gone with the process. What all bodies together take of memory and disk is bounded too.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tracing::warn;
use weir_daemon::memory::{Lease, Pool};

/// Who has something lent gives it back long before: a customer waits no longer for who does not.
const RECALLED_WITHIN: Duration = Duration::from_secs(2);

/// Limits of all spools, and what they use.
#[derive(Debug)]
pub struct Budget {
    memory: Arc<Pool>,
    pub disk_total: u64,
    pub directory: PathBuf,
    on_disk: AtomicU64,
    /// Counts how often what was lent was wanted back.
    recalls: watch::Sender<u64>,
    /// Those who wait for what was lent: until they have it, nothing more is.
    recalling: AtomicUsize,
}

/// Counted among those who wait, however the waiting ends.
struct Recalling<'a>(&'a AtomicUsize);

impl Drop for Recalling<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A spool that no customer waits for any more may be kept as long as this is not recalled. Drop the spool first.
#[derive(Debug)]
pub struct Loan(watch::Receiver<u64>);

impl Loan {
    /// Until the room is needed.
    pub async fn recalled(&mut self) {
        // An error means that the budget is gone: nobody needs room.
        let _ = self.0.changed().await;
    }
}

impl Budget {
    pub fn new(config: &crate::config::Spool) -> Self {
        Self {
            memory: Arc::new(Pool::new(config.memory_per_message, config.memory_total)),
            disk_total: config.disk_total,
            directory: config.directory.clone(),
            on_disk: AtomicU64::new(0),
            recalls: watch::Sender::default(),
            recalling: AtomicUsize::new(0),
        }
    }

    /// `None`: more than half is used, of memory or of disk, or somebody waits for room.
    pub fn lend(&self) -> Option<Loan> {
        let half_used = self.in_memory() > self.memory.total() / 2 || self.on_disk() > self.disk_total / 2;
        let loan = (!half_used).then(|| Loan(self.recalls.subscribe()))?;
        // Looked at only now: a recall that begins later finds this loan.
        (self.recalling.load(Ordering::SeqCst) == 0).then_some(loan)
    }

    fn has_lent(&self) -> bool {
        self.recalls.receiver_count() > 0
    }

    /// Has everything that was lent given back. Waits for it, but not for long.
    pub async fn recall(&self) {
        self.recalling.fetch_add(1, Ordering::SeqCst);
        let _recalling = Recalling(&self.recalling);
        self.recalls.send_modify(|recalls| *recalls += 1);
        if self.has_lent() && tokio::time::timeout(RECALLED_WITHIN, self.recalls.closed()).await.is_err() {
            warn!("spools of mirrored messages are not given back in time");
        }
    }

    /// Octets in memory now.
    pub fn memory_total(&self) -> usize {
        self.memory.total()
    }

    pub fn in_memory(&self) -> usize {
        self.memory.used()
    }

    /// Octets in files now.
    pub fn on_disk(&self) -> u64 {
        self.on_disk.load(Ordering::Relaxed)
    }

    fn take_disk(self: &Arc<Self>, octets: u64) -> io::Result<Reserved> {
        let within = |used: u64| used.checked_add(octets).filter(|used| *used <= self.disk_total);
        match self.on_disk.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within) {
            Ok(_) => Ok(Reserved { budget: self.clone(), octets }),
            Err(used) => Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "spool.disk_total ({}) leaves no room for {octets} octets beside {used}",
                    self.disk_total
                ),
            )),
        }
    }
}

/// Octets of the disk that are spoken for. Given back when dropped, whatever the reason.
#[derive(Debug)]
struct Reserved {
    budget: Arc<Budget>,
    octets: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.on_disk.fetch_sub(self.octets, Ordering::Relaxed);
    }
}

/// A file and what is reserved for it. A write that outlives its session keeps both.
#[derive(Debug)]
struct Overflow {
    file: File,
    reserved: Mutex<Reserved>,
}

impl Overflow {
    fn create(directory: &Path, reserved: Reserved) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(directory)?, reserved: Mutex::new(reserved) })
    }

    fn reserve(&self, mut more: Reserved) {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        reserved.octets += std::mem::take(&mut more.octets);
    }
}

/// Octets of one block of memory. Bodies arrive in pieces of any size; blocks make what is counted what
/// is used.
const BLOCK: usize = 16 * 1024;

/// One body. Octets are appended, and read as often as nodes are tried.
#[derive(Debug)]
pub struct Spool {
    budget: Arc<Budget>,
    /// The first octets, in full blocks but for the last.
    blocks: Vec<Vec<u8>>,
    lease: Lease,
    in_memory: usize,
    /// All that follow.
    file: Option<Arc<Overflow>>,
    file_len: u64,
}

/// Octets read back.
pub enum Piece<'a> {
    Memory(&'a [u8]),
    File(Vec<u8>),
}

impl Deref for Piece<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Memory(octets) => octets,
            Self::File(octets) => octets,
        }
    }
}

impl Spool {
    pub fn new(budget: Arc<Budget>) -> Self {
        let lease = Lease::new(budget.memory.clone());
        Self { budget, blocks: Vec::new(), lease, in_memory: 0, file: None, file_len: 0 }
    }

    #[cfg(test)]
    pub async fn append(&mut self, octets: Bytes) -> io::Result<()> {
        let in_memory = self.keep(&octets);
        if in_memory < octets.len() {
            self.write(octets.slice(in_memory..)).await?;
        }
        Ok(())
    }

    /// At least one octet from the front of a range that is not empty and was appended before.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn read(&self, range: Range<u64>) -> io::Result<Piece<'_>> {
        match self.in_memory(&range) {
            Some(octets) => Ok(Piece::Memory(octets)),
            None => self.read_file(range).await.map(Piece::File),
        }
    }

    /// As [`Self::read`], if the range begins in memory.
    pub fn in_memory(&self, range: &Range<u64>) -> Option<&[u8]> {
        let start = usize::try_from(range.start).ok().filter(|start| *start < self.in_memory)?;
        let block = &self.blocks[start / BLOCK][start % BLOCK..];
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        Some(&block[..wanted.min(block.len())])
    }

    /// Appends what fits in memory, and says how much that is: the rest is for [`Self::write`]. Once a file is there, all goes to it.
    pub fn keep(&mut self, octets: &[u8]) -> usize {
        let mut kept = 0;
        while kept < octets.len() && self.file.is_none() {
            let room = BLOCK * self.blocks.len() - self.in_memory;
            if room == 0 {
                if !self.lease.grow(BLOCK) {
                    break;
                }
                self.blocks.push(Vec::with_capacity(BLOCK));
                continue;
            }
            let piece = &octets[kept..octets.len().min(kept + room)];
            if let Some(block) = self.blocks.last_mut() {
                block.extend_from_slice(piece);
            }
            self.in_memory += piece.len();
            kept += piece.len();
        }
        kept
    }

    /// Appends to the file.
    ///
    /// # Errors
    /// If the file cannot be made or written, for instance because the disk is full.
    pub async fn write(&mut self, octets: Bytes) -> io::Result<()> {
        match self.try_to_write(octets.clone()).await {
            // Whatever is short, room, a quota or descriptors: no customer shall hear of it as long as there are
            // spools that no customer needs. What was written of it is written over, and nothing is reserved for it.
            Err(_) if self.budget.has_lent() => {
                self.budget.recall().await;
                self.try_to_write(octets).await
            }
            written => written,
        }
    }

    async fn try_to_write(&mut self, octets: Bytes) -> io::Result<()> {
        let (file, directory) = (self.file.clone(), self.budget.directory.clone());
        let (at, size) = (self.file_len, octets.len() as u64);
        let reserved = self.budget.take_disk(size)?;
        let file = blocking(move || {
            let file = match file {
                Some(file) => {
                    file.file.write_all_at(&octets, at)?;
                    file.reserve(reserved);
                    file
                }
                None => {
                    let file = Overflow::create(&directory, reserved)?;
                    file.file.write_all_at(&octets, at)?;
                    Arc::new(file)
                }
            };
            Ok(file)
        })
        .await?;
        self.file_len += size;
        self.file = Some(file);
        Ok(())
    }

    /// A range that begins in the file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn read_file(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let file = self.file.clone().ok_or(io::ErrorKind::UnexpectedEof)?;
        let at = range.start - self.in_memory as u64;
        let size = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        blocking(move || {
            let mut octets = vec![0; size];
            file.file.read_exact_at(&mut octets, at)?;
            Ok(octets)
        })
        .await
    }
}

/// Files are read and written apart from the threads that serve connections.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(memory_per_message: usize, memory_total: usize) -> Arc<Budget> {
        let directory = std::env::temp_dir();
        Arc::new(Budget::new(&crate::config::Spool {
            memory_per_message,
            memory_total,
            directory,
            ..Default::default()
        }))
    }

    async fn read_all(spool: &Spool, mut range: Range<u64>) -> Vec<u8> {
        let mut octets = Vec::new();
        while !range.is_empty() {
            let piece = spool.read(range.clone()).await.unwrap();
            assert!(!piece.is_empty());
            range.start += piece.len() as u64;
            octets.extend_from_slice(&piece);
        }
        octets
    }

    #[tokio::test]
    async fn every_range_reads_back_whether_in_memory_or_in_the_file() {
        let limits = [
            (4 * BLOCK, 64 * BLOCK),
            (4 * BLOCK, 12 * BLOCK),
            (0, BLOCK),
            (BLOCK, 4 * BLOCK),
            (4 * BLOCK, BLOCK),
            (100, 100),
        ];
        for (per_message, total) in limits {
            let budget = budget(per_message, total);
            let mut spool = Spool::new(budget.clone());
            let mut whole = Vec::new();
            for size in [1, 7, BLOCK - 9, 3, 2 * BLOCK, 1, 3] {
                let piece: Vec<u8> =
                    (0..size).map(|i| u8::try_from((i + whole.len()) % 251).unwrap()).collect();
                whole.extend_from_slice(&piece);
                spool.append(piece.into()).await.unwrap();
            }
            assert!(budget.in_memory() <= total.min(per_message));
            assert_eq!(budget.on_disk(), whole.len() as u64 - spool.in_memory as u64);
            let near = |at: usize| at.saturating_sub(2)..(at + 3).min(whole.len() + 1);
            for start in near(0).chain(near(BLOCK)).chain(near(2 * BLOCK)).chain(near(whole.len())) {
                for end in near(start).chain(near(BLOCK)).chain(near(whole.len())).filter(|end| *end >= start)
                {
                    let read = read_all(&spool, start as u64..end as u64).await;
                    assert!(read == whole[start..end], "{per_message} {total} {start}..{end}");
                }
            }
            drop(spool);
            assert_eq!((budget.in_memory(), budget.on_disk()), (0, 0));
        }
    }

    #[tokio::test]
    async fn small_pieces_use_no_more_than_large_ones() {
        let budget = budget(4 * BLOCK, 64 * BLOCK);
        let mut spool = Spool::new(budget.clone());
        for _ in 0..BLOCK + 1 {
            spool.append(Bytes::from_static(b"x")).await.unwrap();
        }
        assert_eq!(budget.in_memory(), 2 * BLOCK);
        assert_eq!(spool.blocks.iter().map(Vec::capacity).sum::<usize>(), 2 * BLOCK);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_an_error() {
        let directory = PathBuf::from("/nonexistent/spool");
        let config = crate::config::Spool { memory_per_message: 0, directory, ..Default::default() };
        let budget = Arc::new(Budget::new(&config));
        let mut spool = Spool::new(budget.clone());
        assert!(spool.append(Bytes::from_static(b"x")).await.is_err());
        assert_eq!(budget.on_disk(), 0);
    }

    #[tokio::test]
    async fn what_was_lent_is_given_back_before_a_customer_hears_of_it() {
        let config = crate::config::Spool {
            memory_per_message: 0,
            disk_total: 10,
            directory: std::env::temp_dir(),
            ..Default::default()
        };
        let budget = Arc::new(Budget::new(&config));
        let mut kept = Spool::new(budget.clone());
        kept.append(Bytes::from_static(b"12345")).await.unwrap();
        let mut loan = budget.lend().expect("half is not more than half");
        let keeper = tokio::spawn(async move {
            loan.recalled().await;
            drop((kept, loan));
        });
        let mut customer = Spool::new(budget.clone());
        customer.append(Bytes::from_static(b"12345")).await.unwrap();
        assert!(budget.lend().is_none(), "all is used");
        assert!(!keeper.is_finished());
        customer.append(Bytes::from_static(b"67890")).await.unwrap();
        keeper.await.unwrap();
        assert_eq!((read_all(&customer, 0..10).await, budget.on_disk()), (b"1234567890".to_vec(), 10));
        let full = customer.append(Bytes::from_static(b"1")).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull, "nothing is lent");
        budget.recall().await;
    }

    /// A quota or the descriptors may be short as well: any error is a reason to take back what was lent.
    #[tokio::test]
    async fn what_was_lent_is_given_back_whatever_the_error_is() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("spool");
        let config = crate::config::Spool {
            memory_per_message: 0,
            directory: directory.clone(),
            ..crate::config::Spool::default()
        };
        let budget = Arc::new(Budget::new(&config));
        let mut loan = budget.lend().expect("nothing is used");
        // Once it is given back, files can be made.
        let keeper = tokio::spawn(async move {
            loan.recalled().await;
            std::fs::create_dir(directory).unwrap();
            drop(loan);
        });
        let mut customer = Spool::new(budget.clone());
        customer.append(Bytes::from_static(b"12345")).await.unwrap();
        keeper.await.unwrap();
        assert_eq!((read_all(&customer, 0..5).await, budget.on_disk()), (b"12345".to_vec(), 5));
    }

    /// Who waits for room waits neither for ever nor behind those that borrow anew.
    #[tokio::test]
    async fn a_recall_ends_and_nothing_is_lent_meanwhile() {
        let budget = budget(0, 2 * BLOCK);
        let kept = budget.lend().expect("nothing is used");
        let recalling = tokio::spawn({
            let budget = budget.clone();
            async move { budget.recall().await }
        });
        tokio::task::yield_now().await;
        assert!(budget.lend().is_none(), "it is wanted back");
        tokio::time::timeout(RECALLED_WITHIN * 2, recalling).await.expect("an end").unwrap();
        drop(kept);
        assert!(budget.lend().is_some());
        // A session that ends while it waits.
        let kept = budget.lend();
        let recalling = tokio::spawn({
            let budget = budget.clone();
            async move { budget.recall().await }
        });
        tokio::task::yield_now().await;
        recalling.abort();
        assert!(recalling.await.unwrap_err().is_cancelled());
        drop(kept);
        assert!(budget.lend().is_some());
    }

    #[tokio::test]
    async fn no_body_goes_beyond_the_disks_share_and_all_is_given_back() {
        let config = crate::config::Spool {
            memory_per_message: 0,
            disk_total: 10,
            directory: std::env::temp_dir(),
            ..Default::default()
        };
        let budget = Arc::new(Budget::new(&config));
        let (mut first, mut second) = (Spool::new(budget.clone()), Spool::new(budget.clone()));
        first.append(Bytes::from_static(b"123456")).await.unwrap();
        second.append(Bytes::from_static(b"1234")).await.unwrap();
        let error = second.append(Bytes::from_static(b"5")).await.unwrap_err();
        assert!(error.to_string().contains("spool.disk_total (10)"), "{error}");
        assert_eq!(budget.on_disk(), 10);
        assert_eq!(read_all(&second, 0..4).await, b"1234");
        // A session that panics drops its spool like any other.
        let panicked = tokio::spawn(async move {
            let _spool = first;
            panic!("on purpose");
        });
        assert!(panicked.await.is_err());
        assert_eq!(budget.on_disk(), 4);
        second.append(Bytes::from_static(b"567890")).await.unwrap();
        // One that is cut off while it writes.
        let writing = tokio::spawn(async move { second.append(Bytes::from_static(b"1")).await });
        writing.abort();
        let _ = writing.await;
        assert_eq!(budget.on_disk(), 0);
    }
}
