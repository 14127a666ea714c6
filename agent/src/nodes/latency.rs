//! How long a node takes, smoothed: a moving average in which an answer weighs the more the longer ago the last one
//! was (EWMA over time, as in Finagle's and linkerd's balancers). Those let peaks count whole; here they do not,
//! because verdicts differ more from message to message than from node to node, and a node that hangs shows by
//! what is in flight.

use std::time::{Duration, Instant};

/// An answer so long after the one before has two thirds of the weight.
const SMOOTHED_OVER: Duration = Duration::from_secs(10);

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
            let passed = now.saturating_duration_since(at).max(LEAST);
            let weight = (-passed.as_secs_f64() / SMOOTHED_OVER.as_secs_f64()).exp();
            seconds * weight + took * (1.0 - weight)
        });
        self.last = Some((smoothed, now));
    }

    /// In seconds.
    pub fn get(&self) -> f64 {
        self.last.map_or(0.0, |(seconds, _)| seconds).max(LEAST.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_smoothed_over_time() {
        let (mut latency, mut now) = (Latency::default(), Instant::now());
        assert!((latency.get() - 0.01).abs() < 1e-9);
        latency.observe(Duration::from_millis(100), now);
        assert!((latency.get() - 0.1).abs() < 1e-9);
        for _ in 0..100 {
            now += Duration::from_millis(100);
            latency.observe(Duration::from_secs(2), now);
        }
        assert!((1.2..1.4).contains(&latency.get()), "{latency:?}");
        latency.observe(Duration::from_millis(100), now + Duration::from_secs(60));
        assert!(latency.get() < 0.12, "{latency:?}");
    }
}
