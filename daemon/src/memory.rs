//! Memory that many share: how much there is of it, and who has how much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Who has this part of what is free has enough.
const SHARE: usize = 8;

/// Octets for all. What is one's own is a [`Lease`].
#[derive(Debug)]
pub struct Pool {
    each: usize,
    total: usize,
    used: AtomicUsize,
}

impl Pool {
    /// `total` octets, of which one may have `each` at most.
    pub fn new(each: usize, total: usize) -> Self {
        Self { each, total, used: AtomicUsize::new(0) }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    /// Octets that are lent now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// What one has of it. Given back when dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    octets: usize,
}

impl Lease {
    /// Nothing yet.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { pool, octets: 0 }
    }

    pub fn octets(&self) -> usize {
        self.octets
    }

    /// Takes so many more, if they are there. The fuller the pool, the less a single one gets, so that there is always
    /// something for who has little (the dynamic threshold of switches' shared buffers).
    pub fn grow(&mut self, more: usize) -> bool {
        let Pool { each, total, used } = &*self.pool;
        let wanted = self.octets.saturating_add(more);
        let within = |used: usize| {
            let after = used.checked_add(more)?;
            (self.octets <= total.checked_sub(after)? / SHARE).then_some(after)
        };
        let taken =
            wanted <= *each && used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
        if taken {
            self.octets = wanted;
        }
        taken
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.octets, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Lease, Pool};

    /// As much as it gets, octet by octet.
    fn greedy(pool: &Arc<Pool>) -> (Lease, usize) {
        let mut lease = Lease::new(Arc::clone(pool));
        let got = (0..).take_while(|_| lease.grow(1)).count();
        (lease, got)
    }

    #[test]
    fn who_wants_all_leaves_room_for_the_others() {
        let pool = Arc::new(Pool::new(1000, 1000));
        let greedy: Vec<_> = (0..20).map(|_| greedy(&pool)).collect();
        assert!((1000 / 10..1000 / 8).contains(&greedy[0].1), "{}", greedy[0].1);
        assert!(greedy.is_sorted_by(|(_, one), (_, next)| one >= next));
        assert!(Lease::new(Arc::clone(&pool)).grow(1));
        assert_eq!(pool.used(), greedy.iter().map(|(_, got)| got).sum::<usize>());
        drop(greedy);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn nobody_has_more_than_is_for_each_or_than_there_is() {
        let mut lease = Lease::new(Arc::new(Pool::new(10, 1000)));
        assert!(lease.grow(10) && !lease.grow(1) && !lease.grow(usize::MAX));
        let mut lease = Lease::new(Arc::new(Pool::new(1000, 10)));
        assert!(!lease.grow(11) && lease.grow(10) && !lease.grow(1));
    }
}
