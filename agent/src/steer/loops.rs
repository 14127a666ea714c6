//! Our own SYNs that a router sends back.

use std::time::{Duration, Instant};

/// A loop is said to be there for so long after the last packet of it.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How often to look, where that is not for nothing.
const INTERVAL: Duration = Duration::from_secs(5);

/// How many came back, as it is looked at now and then.
#[derive(Debug, Default)]
pub(super) struct Loops {
    count: u64,
    looked: Option<Instant>,
    last: Option<Instant>,
}

impl Loops {
    /// Whether it is time to look again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now.duration_since(looked) >= INTERVAL)
    }

    /// How many were dropped so far. Counters may have been another agent's before, and begin anew with a new table.
    pub(super) fn count(&mut self, count: u64, now: Instant) {
        if self.looked.is_some() && count > self.count {
            self.last = Some(now);
        }
        (self.count, self.looked) = (count, Some(now));
    }

    /// What is wrong, in words.
    pub(super) fn problem(&self, now: Instant) -> Option<String> {
        let is_lately = self.last.is_some_and(|last| now.duration_since(last) < REMEMBERED);
        is_lately.then(|| {
            "the agent's own connections to destinations are sent back to this gateway, and dropped: a router on their way \
             redirects port 25 to it, which must leave out what comes from the gateway"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_said_for_a_minute_after_its_last_packet() {
        let (mut loops, start) = (Loops::default(), Instant::now());
        let mut is_said = |count, seconds| {
            let now = start + Duration::from_secs(seconds);
            loops.count(count, now);
            loops.problem(now).is_some()
        };
        assert!(!is_said(7, 0), "of an agent before");
        assert!(is_said(8, 1));
        assert!(is_said(8, 60));
        assert!(!is_said(8, 61));
        assert!(is_said(9, 62));
        assert!(!is_said(0, 122), "a new table");
        assert!(is_said(1, 123));
    }

    #[test]
    fn it_is_looked_at_now_and_then() {
        let (mut loops, start) = (Loops::default(), Instant::now());
        assert!(loops.is_due(start));
        loops.count(0, start);
        assert!(!loops.is_due(start + Duration::from_secs(4)));
        assert!(loops.is_due(start + Duration::from_secs(5)));
    }
}
