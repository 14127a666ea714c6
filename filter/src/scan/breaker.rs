//! Whether a scanner is asked at all: one that failed several times in a row is left alone for a while, so that messages
//! do not each find out anew how long it takes to hear nothing. Then a single message tries it.

use std::time::{Duration, Instant};

/// When a scanner is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Failures in a row.
    pub failures: u32,
    pub pause: Duration,
}

/// No clock: whoever asks says what time it is.
#[derive(Debug)]
pub(super) struct Breaker {
    rule: Rule,
    failures: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Messages go to the scanner.
    Closed,
    /// None does before then.
    Open(Instant),
    /// One message tries it, the others wait for what comes of that.
    Trial,
}

/// A message that may go to the scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    Granted,
    /// It is the one that tries.
    Trial,
}

/// What changed with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Opened,
    Closed,
}

impl Breaker {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, failures: 0, state: State::Closed }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Whether a message would be sent away now. Takes nothing.
    pub(super) fn is_shut(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => false,
            State::Open(until) => now < until,
            State::Trial => true,
        }
    }

    /// None: the scanner is not asked. Each leave has to be given back: [`Self::answered`], [`Self::failed`] or
    /// [`Self::given_up`].
    pub(super) fn enter(&mut self, now: Instant) -> Option<Leave> {
        if self.is_shut(now) {
            return None;
        }
        if self.state == State::Closed {
            return Some(Leave::Granted);
        }
        self.state = State::Trial;
        Some(Leave::Trial)
    }

    /// The scanner lives, whoever it was that asked.
    pub(super) fn answered(&mut self) -> Change {
        self.failures = 0;
        let change = if self.state == State::Closed { Change::None } else { Change::Closed };
        self.state = State::Closed;
        change
    }

    pub(super) fn failed(&mut self, leave: Leave, now: Instant) -> Change {
        self.failures = self.failures.saturating_add(1);
        let opens = match (leave, self.state) {
            (Leave::Trial, State::Trial) => true,
            (_, State::Closed) => self.failures >= self.rule.failures,
            // One that was asked before says nothing new.
            (Leave::Granted | Leave::Trial, State::Open(_) | State::Trial) => false,
        };
        if !opens {
            return Change::None;
        }
        self.state = State::Open(now + self.rule.pause);
        Change::Opened
    }

    /// The message went away before there was an answer: another may try.
    pub(super) fn given_up(&mut self, leave: Leave, now: Instant) {
        if leave == Leave::Trial && self.state == State::Trial {
            self.state = State::Open(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Rule = Rule { failures: 3, pause: Duration::from_secs(10) };

    #[test]
    fn failures_in_a_row_open_it_and_one_message_tries() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(RULE);
        let granted = Leave::Granted;
        assert_eq!(breaker.failed(granted, at(0)), Change::None);
        assert_eq!(breaker.failed(granted, at(0)), Change::None);
        assert_eq!(breaker.answered(), Change::None);
        assert_eq!(breaker.failed(granted, at(1)), Change::None);
        assert_eq!(breaker.failed(granted, at(1)), Change::None);
        assert_eq!(breaker.enter(at(1)), Some(granted));
        assert_eq!(breaker.failed(granted, at(1)), Change::Opened);
        assert_eq!((breaker.enter(at(2)), breaker.enter(at(10))), (None, None));
        // Asked before it opened.
        assert_eq!(breaker.failed(granted, at(5)), Change::None);
        assert_eq!(breaker.enter(at(11)), Some(Leave::Trial));
        assert_eq!(breaker.enter(at(100)), None);
        assert_eq!(breaker.failed(Leave::Trial, at(101)), Change::Opened);
        assert!(breaker.is_shut(at(110)) && !breaker.is_shut(at(111)));
        assert_eq!(breaker.enter(at(111)), Some(Leave::Trial));
        breaker.given_up(Leave::Trial, at(112));
        assert_eq!(breaker.enter(at(112)), Some(Leave::Trial));
        assert_eq!(breaker.answered(), Change::Closed);
        assert_eq!(breaker.enter(at(112)), Some(granted));
    }

    proptest! {
        /// Whatever happens: shut only after so many failures in a row, one trial at a time, never shut for good.
        #[test]
        fn never_two_trials_and_never_shut_for_good(steps in prop::collection::vec((0u8..4, 0u64..15), 0..200)) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(RULE);
            let (mut out, mut row) = (Vec::new(), 0u32);
            for (step, seconds) in steps {
                now += Duration::from_secs(seconds);
                match (step, out.pop()) {
                    (0, last) => {
                        out.extend(last);
                        if let Some(leave) = breaker.enter(now) {
                            out.push(leave);
                        } else {
                            prop_assert!(row >= RULE.failures);
                        }
                    }
                    (1, Some(_)) => {
                        breaker.answered();
                        row = 0;
                    }
                    (2, Some(leave)) => {
                        breaker.failed(leave, now);
                        row += 1;
                    }
                    (_, Some(leave)) => breaker.given_up(leave, now),
                    (_, None) => {}
                }
                // A trial that another's answer has overtaken is a message like others.
                if breaker.state() == State::Trial {
                    prop_assert!(out.contains(&Leave::Trial));
                }
            }
            for leave in out {
                breaker.given_up(leave, now);
            }
            prop_assert!(breaker.enter(now + RULE.pause).is_some());
        }
    }
}
