//! How long a node takes, smoothed: a moving average in which an answer weighs the more the longer ago the last one
//! was (EWMA over time, as in Finagle's and linkerd's balancers). Those let peaks count whole; here they do not,
//! because verdicts differ more from message to message than from node to node, and a node that hangs shows by
//! what is in flight.

use std::time::{Duration, Instant};

/// An answer so long after the one before has two thirds of the weight.
const SMOOTHED_OVER: Duration = Duration::from_secs(10);

/// What is older fades as fast, so that a slow node that is asked no more is asked again some day.
const REMEMBERED: Duration = Duration::from_secs(20);

/// Nodes are not told apart by less.
const LEAST: Duration = Duration::from_millis(10);

#[derive(Debug, Default, Clone, Copy)]
pub struct Latency {
    /// Smoothed seconds, and when the last answer came.
    last: Option<(f64, Instant)>,
}

impl Latency {
    pub fn observe(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let smoothed = self.last.map_or(took, |(seconds, at)| {
            let weight = fading(now.saturating_duration_since(at).max(LEAST));
            seconds * weight + took * (1.0 - weight)
        });
        self.last = Some((smoothed, now));
    }

    pub fn get(&self, now: Instant) -> Duration {
        let Some((seconds, at)) = self.last else { return LEAST };
        let old = now.saturating_duration_since(at).saturating_sub(REMEMBERED);
        Duration::from_secs_f64(seconds * fading(old)).max(LEAST)
    }
}

fn fading(passed: Duration) -> f64 {
    (-passed.as_secs_f64() / SMOOTHED_OVER.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_smoothed_and_old_ones_fade() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        assert_eq!(latency.get(now), LEAST);
        latency.observe(Duration::from_millis(100), now);
        assert_eq!(latency.get(now), Duration::from_millis(100));
        for _ in 0..100 {
            now += Duration::from_millis(100);
            latency.observe(Duration::from_secs(2), now);
        }
        let smoothed = latency.get(now).as_secs_f64();
        assert!((1.2..1.4).contains(&smoothed), "{smoothed}");
        assert_eq!(latency.get(now + REMEMBERED), latency.get(now));
        assert_eq!(latency.get(now + Duration::from_secs(120)), LEAST);
    }
}
