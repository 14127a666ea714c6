//! Octets that all sessions together hold in memory outside the spool: those to be written and not gone, and
//! those read and not understood.
//!
//! Above a soft mark a session reads, and takes from the spool, only what fits in a small share of its own,
//! counted for each direction apart. What it holds in one direction never keeps it from working in the
//! other, so every session goes on, slowly, and gives its octets back: there is no deadlock. Above the
//! limit no new session begins. So at most the limit is held and the shares of the sessions that are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::orders::Bell;

/// Octets that a session may always hold in each direction.
pub const SHARE: usize = 16 * 1024;

/// What all sessions hold, and the limit.
#[derive(Debug)]
pub struct Buffers {
    limit: usize,
    held: AtomicUsize,
    /// Above the soft mark, and not yet well below it.
    tight: watch::Sender<bool>,
    /// Sessions look at it when this rings.
    bell: Bell,
}

impl Buffers {
    pub fn new(limit: usize, bell: Bell) -> Self {
        Self { limit, held: AtomicUsize::new(0), tight: watch::Sender::new(false), bell }
    }

    /// Octets held now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// No new session may begin.
    pub fn is_full(&self) -> bool {
        self.held() >= self.limit
    }

    /// How many more octets may be taken in a direction in which so many are held already.
    pub fn room(&self, held: usize) -> usize {
        if self.is_tight() { SHARE.saturating_sub(held) } else { usize::MAX }
    }

    pub fn is_tight(&self) -> bool {
        *self.tight.borrow()
    }

    /// Tells when room has changed for all.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.tight.subscribe()
    }

    fn change(&self, before: usize, after: usize) {
        if after > before {
            self.held.fetch_add(after - before, Ordering::SeqCst);
        } else {
            self.held.fetch_sub(before - after, Ordering::SeqCst);
        }
        if self.would_be_tight(self.is_tight()) != self.is_tight() {
            // Decided again where only one can decide: what another gave back meanwhile must not be missed.
            let changed = self.tight.send_if_modified(|tight| {
                let was = std::mem::replace(tight, self.would_be_tight(*tight));
                was != *tight
            });
            if changed {
                self.bell.ring();
            }
        }
    }

    /// The marks lie apart, so that sessions are not woken for every octet around one.
    fn would_be_tight(&self, tight: bool) -> bool {
        let soft = self.limit / 4 * 3;
        let mark = if tight { soft / 8 * 7 } else { soft };
        self.held.load(Ordering::SeqCst) >= mark.max(1)
    }
}

/// What one session, or a connection that is being closed, holds. Given back when dropped.
#[derive(Debug)]
pub struct Hold {
    buffers: Arc<Buffers>,
    octets: usize,
}

impl Hold {
    pub fn new(buffers: Arc<Buffers>, octets: usize) -> Self {
        buffers.change(0, octets);
        Self { buffers, octets }
    }

    pub fn set(&mut self, octets: usize) {
        if octets != self.octets {
            self.buffers.change(self.octets, octets);
            self.octets = octets;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_the_soft_mark_there_is_room_for_a_share_only() {
        let buffers = Arc::new(Buffers::new(800, Bell::default()));
        let mut hold = Hold::new(buffers.clone(), 599);
        assert_eq!((buffers.room(0), buffers.is_full()), (usize::MAX, false));
        hold.set(600);
        assert_eq!(buffers.room(0), SHARE);
        assert_eq!(buffers.room(SHARE - 1), 1);
        assert_eq!(buffers.room(SHARE + 1), 0);
        hold.set(800);
        assert!(buffers.is_full());
        hold.set(525);
        assert!(buffers.is_tight(), "the lower mark is 525");
        hold.set(524);
        assert!(!buffers.is_tight() && !buffers.is_full());
        drop(hold);
        assert_eq!(buffers.held(), 0);
    }

    #[test]
    fn many_threads_leave_nothing_behind() {
        let buffers = Arc::new(Buffers::new(64 * 1024, Bell::default()));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let buffers = buffers.clone();
                scope.spawn(move || {
                    let mut hold = Hold::new(buffers, 0);
                    (0..20_000).for_each(|step| hold.set((step * 37 + thread) % (16 * 1024)));
                });
            }
        });
        assert_eq!((buffers.held(), buffers.is_tight()), (0, false));
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_there_is_room_again() {
        let bell = Bell::default();
        let buffers = Arc::new(Buffers::new(1000, bell.clone()));
        let hold = Hold::new(buffers.clone(), 1000);
        let mut room = buffers.watch();
        let listener = bell.listen();
        let waiting = tokio::spawn(async move { room.changed().await });
        tokio::task::yield_now().await;
        drop(hold);
        waiting.await.unwrap().unwrap();
        listener.rung().await;
    }
}
