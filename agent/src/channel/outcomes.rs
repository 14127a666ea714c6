//! What destinations answered, on its way to the nodes that judged the messages. Reports may be lost, which is counted.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use weir_daemon::channel::{MAX_OUTCOMES, MAX_TEXT, Outcome, Outcomes as Report, one_line};
use weir_daemon::time;
use weir_smtp::Reply;

use crate::relay::record::{Outcome as Fate, Record, Verdict};

/// Reports that wait for one node, about 400 bytes each.
const CAPACITY: usize = 10_000;

/// Where reports go.
#[derive(Debug, Default)]
pub struct Outcomes {
    queues: Vec<(Option<IpAddr>, Arc<Queue>)>,
}

/// Reports for one node, oldest first.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<VecDeque<Outcome>>,
    lost: AtomicU64,
    /// Of those, how many the node was not told of.
    untold: AtomicU64,
    sent: AtomicU64,
    pub(super) news: Notify,
}

impl Outcomes {
    /// Each queue with the address of its node, if it has one.
    pub fn new(queues: Vec<(Option<IpAddr>, Arc<Queue>)>) -> Self {
        Self { queues }
    }

    /// What became of a message goes to the node that judged it; where it is not clear which that is on the channel, to all: those
    /// that do not know the message leave it alone.
    pub fn note(
        &self,
        customer: IpAddr,
        destination: SocketAddr,
        judged_by: Option<SocketAddr>,
        record: &Record,
    ) {
        let Some(judged_by) = judged_by.filter(|_| record.verdict == Verdict::Accept) else { return };
        let Some(outcome) = outcome(customer, destination, record) else { return };
        let node = judged_by.ip().to_canonical();
        let own = |(address, _): &&(Option<IpAddr>, _)| *address == Some(node);
        let some = self.queues.iter().any(|queue| own(&queue));
        for (_, queue) in self.queues.iter().filter(|queue| !some || own(queue)) {
            queue.push(outcome.clone());
        }
    }
}

/// None for a message that the destination was not given.
fn outcome(customer: IpAddr, destination: SocketAddr, record: &Record) -> Option<Outcome> {
    let reply = match record.outcome {
        Fate::Delivered | Fate::Refused | Fate::Unreported => record.reply.as_ref(),
        Fate::Unknown => None,
        Fate::Withheld | Fate::Abandoned => return None,
    };
    Some(Outcome {
        id: record.id.to_string(),
        customer: customer.to_canonical(),
        destination,
        outcome: record.outcome.name().to_owned(),
        code: reply.map(Reply::code),
        text: reply.map(|reply| one_line(&reply.to_string(), MAX_TEXT)).unwrap_or_default(),
        time: time::now(),
    })
}

impl Queue {
    pub(super) fn push(&self, outcome: Outcome) {
        let mut waiting = self.lock();
        if waiting.len() >= CAPACITY {
            waiting.pop_front();
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(outcome);
        drop(waiting);
        self.news.notify_one();
    }

    /// The oldest ones, which stay until they are [`Self::sent`].
    pub(super) fn report(&self) -> Option<Report> {
        let waiting = self.lock();
        if waiting.is_empty() {
            return None;
        }
        let outcomes = waiting.iter().take(MAX_OUTCOMES).cloned().collect();
        Some(Report { lost: self.untold.load(Ordering::Relaxed), outcomes })
    }

    pub(super) fn sent(&self, report: &Report) {
        let mut waiting = self.lock();
        let last = report.outcomes.last().map(|outcome| outcome.id.as_str());
        let at = waiting.iter().position(|outcome| Some(outcome.id.as_str()) == last);
        let left = at.map_or(0, |at| at + 1);
        waiting.drain(..left);
        // Some may have had to go meanwhile: they were sent none the less.
        let found = report.outcomes.len().saturating_sub(left) as u64;
        self.lost.fetch_sub(found, Ordering::Relaxed);
        self.untold.fetch_sub(report.lost + found, Ordering::Relaxed);
        self.sent.fetch_add(report.outcomes.len() as u64, Ordering::Relaxed);
    }

    /// A node that does not understand a report will not understand it the next time.
    pub(super) fn give_up(&self, report: &Report) {
        self.sent(report);
        let count = report.outcomes.len() as u64;
        self.sent.fetch_sub(count, Ordering::Relaxed);
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.untold.fetch_add(count + report.lost, Ordering::Relaxed);
    }

    /// Waiting, sent and lost.
    pub(super) fn counts(&self) -> (usize, u64, u64) {
        (self.lock().len(), self.sent.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Outcome>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
