//! The session's deadline.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::Sleep;

/// A timer that is set anew as rarely as can be: a deadline moves with every octet, but nearly always to a later time,
/// and that is looked at when the timer rings.
pub(super) struct Alarm<'a> {
    timer: Pin<&'a mut Sleep>,
    /// When it rings.
    set: Option<Instant>,
}

impl<'a> Alarm<'a> {
    pub(super) fn new(timer: Pin<&'a mut Sleep>) -> Self {
        Self { timer, set: None }
    }

    /// Whether it is time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, until: Option<Instant>) -> Poll<()> {
        let Some(until) = until else { return Poll::Pending };
        if self.set.is_none_or(|set| until < set) {
            self.set(until);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.set.take().is_some_and(|set| set >= until) {
                return Poll::Ready(());
            }
            self.set(until);
        }
    }

    fn set(&mut self, until: Instant) {
        self.timer.as_mut().reset(until.into());
        self.set = Some(until);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_rings_at_the_deadline_however_often_that_moved() {
        let begin = Instant::now();
        let at = |millis: u64| Some(begin + Duration::from_millis(millis));
        let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        let mut alarm = Alarm::new(timer.as_mut());
        // Later, earlier, and later than it was set.
        for (moves, rings) in [(&[500_000, 3_000, 400_000][..], 30), (&[400_000][..], 60), (&[2_000][..], 90)]
        {
            for deadline in moves {
                // As it moves while something happens.
                let waits = poll_fn(|cx| Poll::Ready(alarm.poll(cx, at(*deadline)))).await;
                assert!(waits.is_pending());
            }
            poll_fn(|cx| alarm.poll(cx, at(rings))).await;
            assert!(Instant::now() >= begin + Duration::from_millis(rings), "too early");
        }
        assert!(poll_fn(|cx| Poll::Ready(alarm.poll(cx, None))).await.is_pending());
        // One that is over when it is first heard of.
        poll_fn(|cx| alarm.poll(cx, at(1))).await;
        assert!(begin.elapsed() < Duration::from_secs(300), "too late");
    }
}
