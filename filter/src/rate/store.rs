//! Where a node counts: in its own memory, and where there are several nodes in the store that they share.

use std::sync::Arc;

use super::shown;
use super::{Answer, Ask, Away, Counters, Memory, Moment, Shared, Shown};
use crate::config::WhenStoreAway;

/// Counts as configured.
#[derive(Debug)]
pub struct Store {
    memory: Memory,
    shared: Option<(Arc<Shared>, WhenStoreAway)>,
}

impl Store {
    pub fn new(memory: Memory, shared: Option<(Arc<Shared>, WhenStoreAway)>) -> Self {
        Self { memory, shared }
    }

    /// The keys with most in the longest window of their namespace, most first; of one namespace or of all. Of those that this
    /// node has counted for, with what all nodes have.
    ///
    /// # Errors
    /// Where nothing may be counted while the shared store is away, and it is.
    pub async fn top(&self, namespace: Option<&str>, most: usize, now: Moment) -> Result<Vec<Shown>, Away> {
        let Some((shared, when_away)) = &self.shared else {
            return Ok(self.memory.top(namespace, most, now));
        };
        let mut top = Vec::new();
        // Who is first here may be second in sum.
        for one in self.memory.top(namespace, most.saturating_mul(2), now) {
            match shared.counted(one, None).await {
                Ok(counted) => top.extend(counted),
                Err(away) => {
                    return self.instead(*when_away, away, |memory| memory.top(namespace, most, now));
                }
            }
        }
        shown::keep_most(&mut top, most);
        Ok(top)
    }

    /// What is counted for these keys and what is beneath them, in every namespace and window.
    ///
    /// # Errors
    /// As [`Self::top`].
    pub async fn show(&self, keys: &[String], most: usize, now: Moment) -> Result<Vec<Shown>, Away> {
        let Some((shared, when_away)) = &self.shared else { return Ok(self.memory.show(keys, now)) };
        match shared.show(keys, most, None).await {
            Ok(shown) => Ok(shown),
            Err(away) => self.instead(*when_away, away, |memory| memory.show(keys, now)),
        }
    }

    /// What this node knows by itself, where that is what holds while the store is away.
    fn instead<T>(
        &self,
        when_away: WhenStoreAway,
        away: Away,
        ask: impl FnOnce(&Memory) -> T,
    ) -> Result<T, Away> {
        match when_away {
            WhenStoreAway::Local => Ok(ask(&self.memory)),
            WhenStoreAway::Defer => Err(away),
        }
    }

    /// What this node knows by itself: all there is, or what it counted into the shared store.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.as_ref().map(|(shared, _)| shared)
    }

    /// Forgets what was counted for this key. To be called within a runtime.
    pub fn forget(&self, key: &str) {
        self.memory.forget(key);
        self.forget_shared(None, key);
    }

    /// Forgets these at an operator's wish, on this node with what is beneath them; how many keys of this node's that were.
    /// To be called within a runtime.
    pub fn clear(&self, namespace: Option<&str>, keys: &[String]) -> usize {
        keys.iter().for_each(|key| self.forget_shared(namespace, key));
        self.memory.clear(namespace, keys)
    }

    /// A shared store is asked in its own time.
    fn forget_shared(&self, namespace: Option<&str>, key: &str) {
        let Some((shared, _)) = self.shared.clone() else { return };
        let (namespace, key) = (namespace.map(str::to_owned), key.to_owned());
        tokio::spawn(async move {
            if shared.forget(namespace.as_deref(), &key).await.is_err() {
                tracing::warn!(key, "the counters' store is away, and keeps what it knows of this key");
            }
        });
    }
}

impl Counters for Store {
    async fn rate(&self, ask: Ask<'_>, now: Moment) -> Result<Answer, Away> {
        let Some((shared, when_away)) = &self.shared else { return Ok(self.memory.ask(ask, now)) };
        match shared.rate(ask, None).await {
            Ok(answer) => {
                if answer.within {
                    // Without it, a node would begin anew when the store is away.
                    self.memory.ask(Ask { limit: u64::MAX, ..ask }, now);
                }
                Ok(answer)
            }
            Err(away) => self.instead(*when_away, away, |memory| memory.ask(ask, now)),
        }
    }
}
