//! Reads messages for whoever asks, within one bound on the memory of all of them.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use super::{Content, Found, Limits, Trouble, work_on};
use crate::body::Body;

/// Memory is given out in units of this many octets.
const UNIT: u64 = 64 * 1024;

/// A message that has been read. Its memory is given back when it is dropped.
#[derive(Debug, Default)]
pub struct Opened {
    content: Content,
    _room: Option<OwnedSemaphorePermit>,
}

impl Deref for Opened {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.content
    }
}

#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    time: Duration,
    room: Arc<Semaphore>,
    units: u32,
    read: AtomicU64,
    unread: AtomicU64,
}

/// Messages so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub read: u64,
    /// For want of memory or time, or because the spool failed.
    pub unread: u64,
}

impl Reader {
    /// `memory`: octets for all messages that are read at a time.
    pub fn new(limits: Limits, memory: u64, time: Duration) -> Self {
        let units = u32::try_from(memory.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, 1 << 28);
        let room = Arc::new(Semaphore::new(units as usize));
        Self { limits, time, room, units, read: AtomicU64::new(0), unread: AtomicU64::new(0) }
    }

    pub fn counts(&self) -> Counts {
        Counts { read: self.read.load(Ordering::Relaxed), unread: self.unread.load(Ordering::Relaxed) }
    }

    /// Reads the message `id` of `size` octets. One that cannot be read has no parts, and says why.
    pub async fn read(&self, id: &str, body: &Body, size: u64) -> Arc<Opened> {
        let begun = Instant::now();
        let result = tokio::time::timeout(self.time, self.room_for(size)).await;
        let result = match result {
            Ok(room) => self.open(body, room, self.time.saturating_sub(begun.elapsed())).await,
            Err(_) => Err(anyhow::anyhow!("no memory free within {:?}", self.time)),
        };
        let counter = if result.is_ok() { &self.read } else { &self.unread };
        counter.fetch_add(1, Ordering::Relaxed);
        Arc::new(result.unwrap_or_else(|cause| {
            warn!(id, %cause, "message not read");
            Opened { content: Content::unread(), _room: None }
        }))
    }

    /// As it came and decoded, a message takes twice its size.
    async fn room_for(&self, size: u64) -> Option<OwnedSemaphorePermit> {
        let octets = size.min(self.limits.octets as u64).saturating_mul(2);
        let units = u32::try_from(octets.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units);
        Arc::clone(&self.room).acquire_many_owned(units).await.ok()
    }

    async fn open(
        &self,
        body: &Body,
        room: Option<OwnedSemaphorePermit>,
        left: Duration,
    ) -> anyhow::Result<Opened> {
        // One more than is looked at, so that it is seen that there is more.
        let message = body.head(self.limits.octets as u64 + 1).await?;
        let (limits, octets) = (self.limits, message.len());
        // The room goes along, so that it is taken for as long as the work goes on, whoever waits for it.
        let work = move |watch: &super::Watch| Opened {
            content: Content::read(&message, limits, watch),
            _room: room,
        };
        Ok(work_on(octets, left, work).await?)
    }
}

impl Content {
    fn unread() -> Self {
        let troubles = vec![Found { trouble: Trouble::OutOfTime, part: String::new() }];
        Self { troubles, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::Reader;
    use crate::body::Body;
    use crate::content::{Limits, Trouble};

    fn reader(memory: u64, octets: usize) -> Reader {
        Reader::new(Limits { octets, ..Limits::default() }, memory, Duration::from_millis(200))
    }

    #[tokio::test]
    async fn messages_share_their_memory() {
        let reader = reader(4 * 64 * 1024, 1024 * 1024);
        let message = format!("Subject: x\r\n\r\n{}", "text ".repeat(20_000));
        let size = message.len() as u64;
        let body = Body::Memory(Bytes::from(message));
        let first = reader.read("1", &body, size).await;
        assert_eq!((first.headers().subject().as_deref(), first.parts().len()), (Some("x"), 1));
        let second = reader.read("2", &body, size).await;
        assert!(second.has(Trouble::OutOfTime) && second.parts().is_empty());
        drop(first);
        assert!(!reader.read("3", &body, size).await.has(Trouble::OutOfTime));
        assert_eq!((reader.counts().read, reader.counts().unread), (2, 1));
    }

    #[tokio::test]
    async fn a_message_that_is_larger_than_all_memory_waits_for_all_of_it_and_is_cut() {
        let reader = reader(1, 100);
        let body = Body::Memory(Bytes::from(format!("Subject: x\r\n\r\n{}", "text ".repeat(20_000))));
        let read = reader.read("1", &body, 100_000).await;
        assert!(read.has(Trouble::TooBig));
        assert_eq!(read.parts()[0].data.len(), 86);
    }
}
