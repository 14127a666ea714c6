//! A message's body while it waits for its verdict: in memory up to a limit, then in a file without a
//! name, which is gone with the process. What the process keeps in memory is bounded too.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Limits of all spools, and what they use.
#[derive(Debug)]
pub struct Budget {
    pub memory_per_message: usize,
    pub memory_total: usize,
    pub directory: PathBuf,
    used: AtomicUsize,
}

impl Budget {
    pub fn new(config: &crate::config::Spool) -> Self {
        Self {
            memory_per_message: config.memory_per_message,
            memory_total: config.memory_total,
            directory: config.directory.clone(),
            used: AtomicUsize::new(0),
        }
    }

    /// Octets in memory now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, octets: usize) -> bool {
        let within = |used: usize| Some(used + octets).filter(|used| *used <= self.memory_total);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
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
    in_memory: usize,
    /// All that follow.
    file: Option<Arc<File>>,
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
        Self { budget, blocks: Vec::new(), in_memory: 0, file: None, file_len: 0 }
    }

    /// # Errors
    /// If the file cannot be made or written, for instance because the disk is full.
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
        let within = usize::try_from(range.start).ok().filter(|start| *start < self.in_memory);
        let Some(start) = within else { return self.read_file(range).await.map(Piece::File) };
        let block = &self.blocks[start / BLOCK][start % BLOCK..];
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        Ok(Piece::Memory(&block[..wanted.min(block.len())]))
    }

    /// Keeps what fits in memory, and says how much that is. Once a file is there, all goes to it.
    fn keep(&mut self, octets: &[u8]) -> usize {
        let mut kept = 0;
        while kept < octets.len() && self.file.is_none() {
            let room = BLOCK * self.blocks.len() - self.in_memory;
            if room == 0 {
                let allowed = BLOCK * (self.blocks.len() + 1) <= self.budget.memory_per_message;
                if !allowed || !self.budget.take(BLOCK) {
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

    async fn write(&mut self, octets: Bytes) -> io::Result<()> {
        let (file, directory) = (self.file.clone(), self.budget.directory.clone());
        let at = self.file_len;
        self.file_len += octets.len() as u64;
        let file = blocking(move || {
            let file = match file {
                Some(file) => file,
                None => Arc::new(tempfile::tempfile_in(directory)?),
            };
            file.write_all_at(&octets, at)?;
            Ok(file)
        })
        .await?;
        self.file = Some(file);
        Ok(())
    }

    async fn read_file(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let file = self.file.clone().ok_or(io::ErrorKind::UnexpectedEof)?;
        let at = range.start - self.in_memory as u64;
        let size = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        blocking(move || {
            let mut octets = vec![0; size];
            file.read_exact_at(&mut octets, at)?;
            Ok(octets)
        })
        .await
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(BLOCK * self.blocks.len(), Ordering::Relaxed);
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
        Arc::new(Budget::new(&crate::config::Spool { memory_per_message, memory_total, directory }))
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
        let limits = [(4 * BLOCK, 4 * BLOCK), (0, BLOCK), (BLOCK, 4 * BLOCK), (4 * BLOCK, BLOCK), (100, 100)];
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
            assert!(budget.used() <= total.min(per_message));
            let near = |at: usize| at.saturating_sub(2)..(at + 3).min(whole.len() + 1);
            for start in near(0).chain(near(BLOCK)).chain(near(2 * BLOCK)).chain(near(whole.len())) {
                for end in near(start).chain(near(BLOCK)).chain(near(whole.len())).filter(|end| *end >= start)
                {
                    let read = read_all(&spool, start as u64..end as u64).await;
                    assert!(read == whole[start..end], "{per_message} {total} {start}..{end}");
                }
            }
            drop(spool);
            assert_eq!(budget.used(), 0);
        }
    }

    #[tokio::test]
    async fn small_pieces_use_no_more_than_large_ones() {
        let budget = budget(4 * BLOCK, 4 * BLOCK);
        let mut spool = Spool::new(budget.clone());
        for _ in 0..BLOCK + 1 {
            spool.append(Bytes::from_static(b"x")).await.unwrap();
        }
        assert_eq!(budget.used(), 2 * BLOCK);
        assert_eq!(spool.blocks.iter().map(Vec::capacity).sum::<usize>(), 2 * BLOCK);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_an_error() {
        let directory = PathBuf::from("/nonexistent/spool");
        let config = crate::config::Spool { memory_per_message: 0, memory_total: 0, directory };
        let mut spool = Spool::new(Arc::new(Budget::new(&config)));
        assert!(spool.append(Bytes::from_static(b"x")).await.is_err());
    }
}
