//! A message's body while it waits for its verdict: in memory up to a limit, then in a file without a
//! name, which is gone with the process. What the process keeps in memory is bounded too.

use std::fs::File;
use std::io;
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

/// One body. Octets are appended, and read as often as nodes are tried.
#[derive(Debug)]
pub struct Spool {
    budget: Arc<Budget>,
    /// The first octets, each piece with its offset.
    memory: Vec<(u64, Bytes)>,
    in_memory: usize,
    /// All that follow.
    file: Option<Arc<File>>,
    len: u64,
}

impl Spool {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, memory: Vec::new(), in_memory: 0, file: None, len: 0 }
    }

    /// # Errors
    /// If the file cannot be made or written, for instance because the disk is full.
    pub async fn append(&mut self, octets: Bytes) -> io::Result<()> {
        let size = octets.len();
        let fits = self.file.is_none() && self.in_memory + size <= self.budget.memory_per_message;
        if fits && self.budget.take(size) {
            self.memory.push((self.len, octets));
            self.in_memory += size;
        } else {
            self.write(octets).await?;
        }
        self.len += size as u64;
        Ok(())
    }

    /// At least one octet from the front of a range that is not empty and was appended before.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        if range.start >= self.in_memory as u64 {
            return self.read_file(range).await;
        }
        let index = self.memory.partition_point(|(offset, _)| *offset <= range.start).saturating_sub(1);
        let (offset, piece) = &self.memory[index];
        let clamp = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX).min(piece.len());
        Ok(piece.slice(clamp(range.start)..clamp(range.end)))
    }

    async fn write(&mut self, octets: Bytes) -> io::Result<()> {
        let (file, directory) = (self.file.clone(), self.budget.directory.clone());
        let at = self.len - self.in_memory as u64;
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

    async fn read_file(&self, range: Range<u64>) -> io::Result<Bytes> {
        let file = self.file.clone().ok_or(io::ErrorKind::UnexpectedEof)?;
        let at = range.start - self.in_memory as u64;
        let size = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        blocking(move || {
            let mut octets = vec![0; size];
            file.read_exact_at(&mut octets, at)?;
            Ok(Bytes::from(octets))
        })
        .await
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.in_memory, Ordering::Relaxed);
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
        for (per_message, total) in [(1000, 1000), (0, 1000), (10, 1000), (1000, 10), (13, 13)] {
            let budget = budget(per_message, total);
            let mut spool = Spool::new(budget.clone());
            let mut whole = Vec::new();
            for size in [1usize, 7, 5, 40, 1, 3] {
                let piece: Vec<u8> = (0..size).map(|i| u8::try_from(i + whole.len()).unwrap()).collect();
                whole.extend_from_slice(&piece);
                spool.append(piece.into()).await.unwrap();
            }
            assert!(budget.used() <= total.min(per_message));
            for start in 0..whole.len() {
                for end in start..=whole.len() {
                    let read = read_all(&spool, start as u64..end as u64).await;
                    assert_eq!(read, whole[start..end], "{per_message} {total} {start}..{end}");
                }
            }
            drop(spool);
            assert_eq!(budget.used(), 0);
        }
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_an_error() {
        let directory = PathBuf::from("/nonexistent/spool");
        let config = crate::config::Spool { memory_per_message: 0, memory_total: 0, directory };
        let mut spool = Spool::new(Arc::new(Budget::new(&config)));
        assert!(spool.append(Bytes::from_static(b"x")).await.is_err());
    }
}
