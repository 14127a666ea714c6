//! Looks at the files of messages for whoever asks: a few at a time, within their time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::warn;

use super::{Files, Limits, Patterns};
use crate::config::FileTypes;
use crate::content::{Content, Opened, SHORT, work_on};

#[derive(Debug)]
pub struct Inspector {
    limits: Limits,
    banned: Arc<Patterns>,
    time: Duration,
    turns: Arc<Semaphore>,
    looked: AtomicU64,
    failed: AtomicU64,
}

/// Messages so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub looked: u64,
    /// Not looked at, or not to the end, for want of time.
    pub failed: u64,
}

impl Inspector {
    pub fn new(section: &FileTypes) -> Self {
        let limits = Limits {
            depth: section.max_depth,
            members: section.max_members,
            unpacked: section.max_unpacked,
            ratio: section.max_ratio,
        };
        Self {
            limits,
            banned: Arc::new(Patterns::new(section.banned_names.iter().map(String::as_str))),
            time: Duration::from_secs(section.timeout),
            turns: Arc::new(Semaphore::new(section.concurrency.min(Semaphore::MAX_PERMITS))),
            looked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub fn counts(&self) -> Counts {
        Counts { looked: self.looked.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// The files of the message `id`, archives opened as the operator says.
    pub async fn look(&self, id: &str, content: Arc<Opened>) -> Files {
        self.look_within(id, content, self.limits).await
    }

    /// With another depth than the operator's: a script asks for its own.
    pub async fn look_to(&self, id: &str, content: Arc<Opened>, depth: usize) -> Files {
        self.look_within(id, content, Limits { depth, ..self.limits }).await
    }

    async fn look_within(&self, id: &str, content: Arc<Opened>, limits: Limits) -> Files {
        let begun = Instant::now();
        let turn = tokio::time::timeout(self.time, Arc::clone(&self.turns).acquire_owned()).await;
        let result = match turn {
            Ok(turn) => {
                let banned = Arc::clone(&self.banned);
                // What an archive unpacks to is as long as it likes.
                let octets = if is_text(&content) { content.octets() } else { usize::MAX };
                let work = move |watch: &crate::content::Watch| {
                    // Held for as long as the work goes on, whoever waits for it.
                    let _turn = turn;
                    Files::look(&content, limits, &banned, watch)
                };
                work_on(octets, self.time.saturating_sub(begun.elapsed()), work)
                    .await
                    .map_err(|cause| cause.to_string())
            }
            Err(_) => Err(format!("no turn within {:?}", self.time)),
        };
        let result = result.unwrap_or_else(|cause| {
            warn!(id, cause, "files not looked at");
            Files::unseen("not looked at")
        });
        let counter = if result.has("out-of-time") { &self.failed } else { &self.looked };
        counter.fetch_add(1, Ordering::Relaxed);
        result
    }
}

/// Nothing in it is long when unpacked: zip, gzip and 7z begin with control characters, which text has not, and a tar unpacks to
/// no more than it is.
fn is_text(content: &Content) -> bool {
    let is_text = |octet: &u8| *octet >= b' ' || matches!(octet, b'\t' | b'\r' | b'\n');
    content.octets() <= SHORT && content.parts().iter().all(|part| part.data.iter().all(is_text))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::Inspector;
    use crate::body::Body;
    use crate::config::FileTypes;
    use crate::content::{Limits, Reader};

    #[tokio::test]
    async fn the_files_of_a_message_are_looked_at_as_configured() {
        let reader = Reader::new(Limits::default(), 1 << 20, Duration::from_secs(10));
        let text = "Content-Type: application/x; name=\"price list.doc\"\r\n\r\n\x7fELF\x02\r\n";
        let body = Body::Memory(Bytes::from_static(text.as_bytes()));
        let content = reader.read("1", &body, text.len() as u64).await;
        let section = FileTypes { banned_names: vec!["PRICE*".into()], ..FileTypes::default() };
        let inspector = Inspector::new(&section);
        let files = inspector.look("1", Arc::clone(&content)).await;
        assert!(files.has("executable") && files.has("elf") && files.has("banned-name"), "{files:?}");
        assert_eq!((inspector.counts().looked, inspector.counts().failed), (1, 0));
        assert_eq!(inspector.look_to("1", content, 0).await, files);
    }
}
