//! Counting a message once: an agent whose node died before its verdict replays the message under
//! the same id, to another node or again to this one.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Answer, Ask, Away, Counters, Moment};

/// Counters that remember which messages they counted, the latest ones up to a bound.
#[derive(Debug)]
pub struct Once<C> {
    counters: C,
    capacity: usize,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl<C: Counters> Once<C> {
    pub fn new(counters: C, capacity: usize) -> Self {
        Self { counters, capacity: capacity.max(1), counted: Mutex::default() }
    }

    pub fn counters(&self) -> &C {
        &self.counters
    }

    /// As [`Counters::rate`], for the message `id`; one that was counted before is within the limit.
    ///
    /// # Errors
    /// If the store cannot be reached.
    pub async fn rate(&self, id: &str, ask: Ask<'_>, now: Moment) -> Result<Answer, Away> {
        let name: Arc<str> = format!("{}\0{}\0{id}", ask.namespace, ask.key).into();
        if self.with(|counted| counted.known.contains(&name)) {
            let sum = self.counters.rate(Ask { limit: 0, ..ask }, now).await?.sum;
            return Ok(Answer { within: true, sum });
        }
        let answer = self.counters.rate(Ask { message: Some(id), ..ask }, now).await?;
        if answer.within {
            self.with(|counted| counted.remember(name, self.capacity));
        }
        Ok(answer)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counted) -> T) -> T {
        work(&mut self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Counted {
    fn remember(&mut self, name: Arc<str>, capacity: usize) {
        if self.known.insert(name.clone()) {
            self.order.push_back(name);
        }
        while self.order.len() > capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
    }
}
