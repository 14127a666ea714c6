//! Work that can be long: off the threads that serve connections, within its time, and given up when nobody waits for
//! it any more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Asked by the work between its steps.
#[derive(Debug, Clone)]
pub struct Watch {
    until: Option<Instant>,
    given_up: Arc<AtomicBool>,
}

/// Why there is no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The work did not look at its watch in time.
    #[error("not ready in time")]
    OutOfTime,
    #[error("failed; see the log")]
    Failed,
}

/// After its time, work has this long to see its watch and to hand over what it has.
const GRACE: Duration = Duration::from_secs(1);

impl Watch {
    pub fn new(limit: Duration) -> Self {
        Self { until: Instant::now().checked_add(limit), given_up: Arc::default() }
    }

    /// The time is over, or nobody waits.
    pub fn is_over(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Tells the work when whoever waits for it is gone: his future is dropped.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reading so many octets takes less time than to hand them to another thread and to wake again with the result.
pub const SHORT: usize = 16 * 1024;

/// Does `work`, `limit` at most. What is about few `octets` is done at once.
///
/// # Errors
/// As of [`off_thread`].
pub async fn work_on<T: Send + 'static>(
    octets: usize,
    limit: Duration,
    work: impl FnOnce(&Watch) -> T + Send + 'static,
) -> Result<T, Stopped> {
    if octets > SHORT {
        return off_thread(limit, work).await;
    }
    // A panic is caught there as well, and what it leaves is dropped with it.
    catch_unwind(AssertUnwindSafe(|| work(&Watch::new(limit)))).map_err(|_| Stopped::Failed)
}

/// Does `work` on a thread where it may take its time, `limit` at most.
///
/// # Errors
/// If it neither ended nor looked at its watch, or panicked.
async fn off_thread<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce(&Watch) -> T + Send + 'static,
) -> Result<T, Stopped> {
    let watch = Watch::new(limit);
    let _give_up = GiveUp(Arc::clone(&watch.given_up));
    let task = tokio::task::spawn_blocking(move || work(&watch));
    match tokio::time::timeout(limit.saturating_add(GRACE), task).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) => Err(Stopped::Failed),
        Err(_) => Err(Stopped::OutOfTime),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::{SHORT, Stopped, off_thread, work_on};

    #[tokio::test]
    async fn work_ends_with_its_time_and_hands_over_what_it_has() {
        let work = |watch: &super::Watch| {
            let mut steps = 0_u64;
            while !watch.is_over() {
                steps += 1;
            }
            steps
        };
        let begun = Instant::now();
        assert!(off_thread(Duration::from_millis(50), work).await.unwrap() > 0);
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_given_up() {
        let (ended, end) = mpsc::channel();
        let work = move |watch: &super::Watch| {
            while !watch.is_over() {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
        };
        let waiting = off_thread(Duration::from_secs(3600), work);
        assert!(tokio::time::timeout(Duration::from_millis(20), waiting).await.is_err());
        tokio::task::spawn_blocking(move || end.recv_timeout(Duration::from_secs(10)).unwrap())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let work = |_: &super::Watch| -> () { panic!("as this test wants") };
        for octets in [SHORT, SHORT + 1] {
            assert_eq!(work_on(octets, Duration::from_secs(10), work).await, Err(Stopped::Failed));
        }
    }

    #[tokio::test]
    async fn only_short_work_is_done_on_the_thread_that_wants_it() {
        for (octets, here) in [(SHORT, true), (SHORT + 1, false)] {
            let thread = work_on(octets, Duration::from_secs(10), |_| std::thread::current().id()).await;
            assert_eq!(thread == Ok(std::thread::current().id()), here);
        }
    }
}
