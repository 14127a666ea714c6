//! A message's body: in memory while it is short, in an unlinked file when it is long. Nothing is
//! left on disk, whatever happens to the process.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::sync::Mutex;
use weir_daemon::memory::{Lease, Pool};

use crate::config;

/// Octets of memory that are taken at a time.
const BLOCK: usize = 16 * 1024;

/// Where bodies are kept.
#[derive(Debug)]
pub struct Spool {
    memory: Arc<Pool>,
    directory: PathBuf,
}

impl Spool {
    pub fn new(config: &config::Spool) -> Self {
        let config::Spool { memory_per_message, memory_total, directory } = config;
        Self { memory: Arc::new(Pool::new(*memory_per_message, *memory_total)), directory: directory.clone() }
    }
}

/// Octets in memory, with room for as many as are leased. The lease is given back with the last who has a part of them.
#[derive(Debug)]
struct Memory {
    octets: Vec<u8>,
    lease: Lease,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl Memory {
    fn new(pool: &Arc<Pool>) -> Self {
        Self { octets: Vec::new(), lease: Lease::new(Arc::clone(pool)) }
    }

    /// Whether there is room for so many more, or can be.
    fn has_room(&mut self, more: usize) -> bool {
        let (used, leased) = (self.octets.len(), self.lease.octets());
        if used + more <= leased {
            return true;
        }
        let wanted = (used + more).next_multiple_of(BLOCK);
        // Twice as much, so that what is there is copied seldom; if that is too much, what it takes.
        let sizes = [wanted.max(2 * leased), wanted];
        let Some(size) = sizes.into_iter().find(|size| self.lease.grow(size - leased)) else { return false };
        self.octets.reserve_exact(size - used);
        true
    }
}

/// A body that is being received.
#[derive(Debug)]
pub struct Receiving {
    spool: Arc<Spool>,
    memory: Memory,
    file: Option<File>,
    failed: Option<io::Error>,
}

/// A body that is complete.
#[derive(Debug)]
pub enum Body {
    Memory(Bytes),
    File { file: Mutex<File>, size: u64 },
}

impl Receiving {
    pub fn new(spool: Arc<Spool>) -> Self {
        let memory = Memory::new(&spool.memory);
        Self { spool, memory, file: None, failed: None }
    }

    /// Appends. An error is kept for [`Self::finish`], since the rest of the message has to be read
    /// before it can be answered.
    pub async fn append(&mut self, octets: &[u8]) {
        if self.failed.is_none()
            && let Err(cause) = self.try_append(octets).await
        {
            self.memory = Memory::new(&self.spool.memory);
            self.file = None;
            self.failed = Some(cause);
        }
    }

    async fn try_append(&mut self, octets: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            return file.write_all(octets).await;
        }
        if self.memory.has_room(octets.len()) {
            self.memory.octets.extend_from_slice(octets);
            return Ok(());
        }
        let before = std::mem::replace(&mut self.memory, Memory::new(&self.spool.memory));
        let mut file = unlinked(&self.spool.directory).await?;
        file.write_all(&before.octets).await?;
        file.write_all(octets).await?;
        self.file = Some(file);
        Ok(())
    }

    /// # Errors
    /// The first one met while the body was written.
    pub async fn finish(self) -> io::Result<Body> {
        match (self.failed, self.file) {
            (Some(cause), _) => Err(cause),
            (None, None) => Ok(Body::Memory(Bytes::from_owner(self.memory))),
            (None, Some(mut file)) => {
                file.flush().await?;
                let size = file.metadata().await?.len();
                Ok(Body::File { file: Mutex::new(file), size })
            }
        }
    }
}

impl Body {
    /// Its octets.
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(octets) => octets.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// The body, or its first `limit` octets.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn head(&self, limit: u64) -> io::Result<Bytes> {
        self.piece(0, usize::try_from(limit).unwrap_or(usize::MAX)).await
    }

    /// The octets from `offset` on, `limit` at most; none beyond the end.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub async fn piece(&self, offset: u64, limit: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(octets) => {
                let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(octets.len());
                let end = begin.saturating_add(limit).min(octets.len());
                Ok(octets.slice(begin..end))
            }
            Self::File { file, .. } => {
                let mut file = file.lock().await;
                file.seek(SeekFrom::Start(offset)).await?;
                let mut octets = Vec::new();
                (&mut *file).take(limit as u64).read_to_end(&mut octets).await?;
                Ok(octets.into())
            }
        }
    }
}

/// A file without a name. O_TMPFILE would do it in one step, but not on every file system.
async fn unlinked(directory: &Path) -> io::Result<File> {
    let name = format!("weir-filter.{:016x}", rand::random::<u64>());
    let path = directory.join(name);
    let explain = |cause: io::Error| io::Error::new(cause.kind(), format!("{}: {cause}", path.display()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&path).await.map_err(explain)?;
    tokio::fs::remove_file(&path).await.map_err(explain)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::{BLOCK, Body, Receiving, Spool};
    use crate::config;

    fn spool(directory: PathBuf) -> Arc<Spool> {
        let sizes = config::Spool { memory_per_message: BLOCK, ..config::Spool::default() };
        Arc::new(Spool::new(&config::Spool { directory, ..sizes }))
    }

    #[tokio::test]
    async fn a_short_body_stays_in_memory_and_a_long_one_has_a_file_without_name() {
        let directory = std::env::temp_dir().join(format!("weir-body-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut short = Receiving::new(spool(directory.clone()));
        short.append(b"0123456789").await;
        let short = short.finish().await.unwrap();
        assert!(matches!(short, Body::Memory(_)));
        assert_eq!(short.head(4).await.unwrap().as_ref(), b"0123");

        let room = spool(directory.clone());
        let mut long = Receiving::new(room.clone());
        long.append(b"01234567").await;
        assert_eq!(room.memory.used(), BLOCK);
        long.append(&[b'-'; BLOCK]).await;
        long.append(b"cd").await;
        assert_eq!(room.memory.used(), 0);
        let long = long.finish().await.unwrap();
        assert!(matches!(long, Body::File { size, .. } if size == BLOCK as u64 + 10));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        let whole = [&b"01234567"[..], &[b'-'; BLOCK], b"cd"].concat();
        assert_eq!(long.head(1 << 20).await.unwrap(), whole);
        assert_eq!(long.head(3).await.unwrap().as_ref(), b"012");
        for (body, expected) in [(&short, b"89"), (&long, b"--")] {
            assert_eq!(body.piece(8, 2).await.unwrap().as_ref(), expected);
            assert_eq!(body.piece(body.size(), 2).await.unwrap().as_ref(), b"");
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn what_is_leased_is_what_is_taken() {
        let sizes = config::Spool { memory_per_message: 5 * BLOCK, ..config::Spool::default() };
        let room = Arc::new(Spool::new(&sizes));
        let mut body = Receiving::new(room.clone());
        for blocks in [1, 2, 4, 4, 5] {
            body.append(&[b'-'; BLOCK]).await;
            assert_eq!((body.memory.octets.capacity(), room.memory.used()), (blocks * BLOCK, blocks * BLOCK));
        }
        assert_eq!(body.finish().await.unwrap().size(), 5 * BLOCK as u64);
    }

    #[tokio::test]
    async fn memory_is_given_back_with_the_last_part_of_a_body() {
        let room = spool("/nonexistent".into());
        let mut body = Receiving::new(room.clone());
        body.append(b"0123456789").await;
        let body = body.finish().await.unwrap();
        let part = body.piece(2, 3).await.unwrap();
        drop(body);
        assert_eq!((part.as_ref(), room.memory.used()), (&b"234"[..], BLOCK));
        drop(part);
        assert_eq!(room.memory.used(), 0);
    }

    #[tokio::test]
    async fn a_missing_directory_is_an_error_at_the_end() {
        let mut body = Receiving::new(spool("/nonexistent".into()));
        body.append(&[0; BLOCK + 1]).await;
        body.append(b"more").await;
        let cause = body.finish().await.unwrap_err().to_string();
        assert!(cause.contains("/nonexistent/weir-filter."), "{cause}");
    }
}
