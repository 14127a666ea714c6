//! Whether a node is trusted with messages: it is ejected when it fails, tried again with one message after a pause
//! that doubles, and then given a share of its load that grows (what Envoy calls outlier ejection and slow
//! start).

use std::time::{Duration, Instant};

/// The pause after a first failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A node that was well for so long starts with the first pause again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(120);

/// From its return a node's share grows for so long, and begins with this part.
const SLOW_START: Duration = Duration::from_secs(10);
const FIRST_SHARE: f64 = 0.1;

/// What a failure says about how the node may be known to be well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Not reached, or XCLIENT refused: a probe sees when that is over.
    Reach,
    /// It had a message and failed: only another message can tell.
    Message,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// `since` its return; `None`: from the beginning.
    Well {
        since: Option<Instant>,
    },
    Ejected {
        until: Instant,
        severity: Severity,
        on_trial: bool,
    },
}

#[derive(Debug, Clone, Copy)]
pub struct Standing {
    state: State,
    /// Ejections, each not long after the one before.
    ejections: u32,
}

impl Default for Standing {
    fn default() -> Self {
        Self { state: State::Well { since: None }, ejections: 0 }
    }
}

impl Standing {
    pub fn is_well(&self) -> bool {
        matches!(self.state, State::Well { .. })
    }

    /// What part of its load it is given.
    pub fn share(&self, now: Instant) -> f64 {
        match self.state {
            State::Ejected { .. } => 0.0,
            State::Well { since: None } => 1.0,
            State::Well { since: Some(since) } => {
                let passed = now.saturating_duration_since(since).as_secs_f64() / SLOW_START.as_secs_f64();
                (FIRST_SHARE + passed * (1.0 - FIRST_SHARE)).min(1.0)
            }
        }
    }

    /// When it may have its trial; it has none now.
    pub fn trial_at(&self) -> Option<Instant> {
        match self.state {
            State::Ejected { until, on_trial: false, .. } => Some(until),
            State::Ejected { .. } | State::Well { .. } => None,
        }
    }

    pub fn begin_trial(&mut self) {
        if let State::Ejected { on_trial, .. } = &mut self.state {
            *on_trial = true;
        }
    }

    /// The trial's message needed no verdict: another may be it.
    pub fn end_trial(&mut self) {
        if let State::Ejected { on_trial, .. } = &mut self.state {
            *on_trial = false;
        }
    }

    /// A message or a probe failed that began at `began`. `true`: that is news.
    pub fn failed(&mut self, severity: Severity, began: Instant, was_trial: bool, now: Instant) -> bool {
        match self.state {
            // What began before it came back says nothing about how it is since.
            State::Well { since: Some(since) } if began < since => return false,
            State::Well { since } => {
                let forgiven =
                    since.is_none_or(|since| now.saturating_duration_since(since) >= FORGIVEN_AFTER);
                self.ejections = if forgiven { 1 } else { self.ejections.saturating_add(1) };
            }
            // Those that were under way with it when it was ejected fail too: once is enough.
            State::Ejected { .. } if !was_trial => return false,
            State::Ejected { .. } => self.ejections = self.ejections.saturating_add(1),
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.ejections.saturating_sub(1).min(16));
        let until = now + pause.min(LONGEST_PAUSE);
        let was_well = self.is_well();
        self.state = State::Ejected { until, severity, on_trial: false };
        was_well
    }

    /// A probe failed that began at `began`. `true`: that is news.
    pub fn probe_failed(&mut self, began: Instant, now: Instant) -> bool {
        // Messages need not find out again what the next probe will see.
        let as_trial = matches!(self.state, State::Ejected { on_trial: false, .. });
        self.failed(Severity::Reach, began, as_trial, now)
    }

    /// A message got its verdict. `true`: that is news.
    pub fn succeeded(&mut self, was_trial: bool, now: Instant) -> bool {
        was_trial && self.come_back(now)
    }

    /// A probe found nothing wrong. `true`: that is news.
    pub fn probed_well(&mut self, now: Instant) -> bool {
        let cured = matches!(self.state, State::Ejected { severity: Severity::Reach, .. });
        cured && self.come_back(now)
    }

    fn come_back(&mut self, now: Instant) -> bool {
        let news = !self.is_well();
        if news {
            self.state = State::Well { since: Some(now) };
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Severity = Severity::Message;

    #[test]
    fn the_pause_doubles_with_every_trial_that_fails() {
        let (mut standing, mut now) = (Standing::default(), Instant::now());
        let mut pauses = Vec::new();
        standing.failed(MESSAGE, now, false, now);
        for _ in 0..9 {
            let until = standing.trial_at().unwrap();
            pauses.push((until - now).as_secs());
            now = until;
            standing.begin_trial();
            assert_eq!(standing.trial_at(), None, "one trial at a time");
            standing.failed(MESSAGE, now, true, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        standing.begin_trial();
        assert!(standing.succeeded(true, now) && standing.is_well());
        standing.failed(MESSAGE, now, false, now);
        assert_eq!(standing.trial_at(), Some(now + LONGEST_PAUSE), "not forgiven at once");
        standing.begin_trial();
        standing.succeeded(true, now);
        now += FORGIVEN_AFTER;
        standing.failed(MESSAGE, now, false, now);
        assert_eq!(standing.trial_at(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn what_was_under_way_at_the_ejection_counts_once() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        assert!(standing.failed(MESSAGE, now, false, now));
        for _ in 0..50 {
            assert!(!standing.failed(MESSAGE, now, false, now));
        }
        assert_eq!(standing.trial_at(), Some(now + FIRST_PAUSE));
        assert!(!standing.succeeded(false, now), "it began before");
        let back = now + Duration::from_secs(5);
        standing.begin_trial();
        standing.succeeded(true, back);
        assert!(!standing.failed(MESSAGE, now, false, back), "it began before the return");
        assert!(standing.is_well());
    }

    #[test]
    fn a_probe_cures_what_a_probe_can_see() {
        let now = Instant::now();
        let mut unreachable = Standing::default();
        unreachable.failed(Severity::Reach, now, false, now);
        assert!(unreachable.probed_well(now) && unreachable.is_well());
        let mut failing = Standing::default();
        failing.failed(MESSAGE, now, false, now);
        assert!(!failing.probed_well(now) && !failing.is_well());
    }

    #[test]
    fn while_probes_fail_no_message_has_to() {
        let (mut standing, mut now) = (Standing::default(), Instant::now());
        standing.failed(MESSAGE, now, false, now);
        for _ in 0..9 {
            now += Duration::from_secs(10);
            standing.probe_failed(now, now);
        }
        assert!(
            standing.trial_at().is_some_and(|at| at > now + Duration::from_secs(10)),
            "the next probe is first"
        );
        assert!(standing.probed_well(now), "it was away since it failed");
    }

    #[test]
    fn a_share_grows_from_a_tenth_to_all() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        assert!((standing.share(now) - 1.0).abs() < 1e-9);
        standing.failed(Severity::Reach, now, false, now);
        assert!(standing.share(now).abs() < 1e-9);
        standing.probed_well(now);
        let shares = [0, 5, 10, 99].map(|seconds| standing.share(now + Duration::from_secs(seconds)));
        let expected = [0.1, 0.55, 1.0, 1.0];
        assert!(shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 1e-9));
    }
}
