//! Metrics for Prometheus: <https://prometheus.io/docs/instrumenting/exposition_formats/>, text format 0.0.4, over HTTP.
//!
//! What is counted anyway is put into families when somebody asks; only what cannot be read off later, histograms, is
//! kept in this form.

mod server;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Error, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::Problems;

pub use prometheus::{Histogram, HistogramVec as Histograms};
pub use server::serve;

/// Metrics for Prometheus, over HTTP: `GET /metrics`. Without this section there are none. They name no customer and no
/// mail address, unless a script's `stat()` does; whoever can connect can read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Addresses to listen on, `address:port`; each daemon of a host has ports of its own. One that is in use is tried again every
    /// second: mail does not wait for it.
    #[schemars(example = ["127.0.0.1:9125"])]
    pub listen: Vec<SocketAddr>,
}

impl Metrics {
    pub fn check(&self, problems: &mut Problems) {
        if self.listen.is_empty() {
            problems.add("metrics.listen", "names no address to listen on");
        }
        for (index, address) in self.listen.iter().enumerate() {
            if self.listen[..index].contains(address) {
                problems.add(&format!("metrics.listen[{index}]"), "is named twice");
            }
        }
    }
}

/// As it is now.
pub fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A gauge's value: exact up to 2^53.
#[expect(clippy::cast_precision_loss)]
pub fn number(value: impl TryInto<u64>) -> f64 {
    value.try_into().unwrap_or(u64::MAX) as f64
}

/// Bounds of times: from where a filter node's answers begin to the longest that SMTP waits.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

/// Of seconds; `name` is whole.
///
/// # Errors
/// If the name is none.
pub fn histogram(name: &str, help: &str) -> Result<Histogram, Error> {
    Histogram::with_opts(seconds(name, help))
}

/// One for each value of the label.
///
/// # Errors
/// If the name or the label is none.
pub fn histograms(name: &str, help: &str, label: &str) -> Result<Histograms, Error> {
    HistogramVec::new(seconds(name, help), &[label])
}

fn seconds(name: &str, help: &str) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(SECONDS.to_vec())
}

/// What one answer says.
#[derive(Debug)]
pub struct Families {
    prefix: &'static str,
    registry: Registry,
    mistake: Result<(), Error>,
}

impl Families {
    /// Each family's name begins with `prefix` and an underscore; beside them stands what is said of any process.
    pub fn new(prefix: &'static str) -> Self {
        let mut families = Self { prefix, registry: Registry::new(), mistake: Ok(()) };
        families.register(ProcessCollector::for_self());
        let version = env!("CARGO_PKG_VERSION");
        families.gauges("build_info", "The running version.", &["version"], [([version], 1.0)]);
        families
    }

    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, &[], [([], value)]);
    }

    /// A row for each combination of labels.
    pub fn counters<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str; LABELS],
        rows: impl IntoIterator<Item = ([&'a str; LABELS], u64)>,
    ) {
        let family = IntCounterVec::new(self.options(name, help), labels);
        self.fill(family, |family| {
            rows.into_iter().for_each(|(labels, value)| family.with_label_values(&labels).inc_by(value));
        });
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, &[], [([], value)]);
    }

    pub fn gauges<'a, const LABELS: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str; LABELS],
        rows: impl IntoIterator<Item = ([&'a str; LABELS], f64)>,
    ) {
        let family = GaugeVec::new(self.options(name, help), labels);
        self.fill(family, |family| {
            rows.into_iter().for_each(|(labels, value)| family.with_label_values(&labels).set(value));
        });
    }

    /// One histogram, or those of a label.
    pub fn timing(&mut self, timing: &(impl Collector + Clone + 'static)) {
        self.register(timing.clone());
    }

    /// # Errors
    /// If a family has a name that is none, or that another one has.
    pub fn text(self) -> Result<String, Error> {
        self.mistake?;
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn options(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}_{name}", self.prefix), help)
    }

    fn fill<T: Collector + 'static>(&mut self, family: Result<T, Error>, fill: impl FnOnce(&T)) {
        match family {
            Ok(family) => {
                fill(&family);
                self.register(family);
            }
            Err(error) => self.mistake = Err(error),
        }
    }

    fn register(&mut self, family: impl Collector + 'static) {
        if let Err(error) = self.registry.register(Box::new(family)) {
            self.mistake = Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_with_their_labels() {
        let mut families = Families::new("weir_test");
        families.counter("connections_total", "Connections.", 3);
        families.counters("verdicts_total", "Verdicts.", &["verdict"], [(["accept"], 2), (["defer"], 0)]);
        families.gauge("sessions", "Sessions now.", 1.0);
        let seconds = histogram("weir_test_verdict_seconds", "Seconds.").unwrap();
        seconds.observe(0.002);
        families.timing(&seconds);
        let text = families.text().unwrap();
        for line in [
            "# HELP weir_test_connections_total Connections.",
            "# TYPE weir_test_connections_total counter",
            "weir_test_connections_total 3",
            "weir_test_verdicts_total{verdict=\"defer\"} 0",
            "weir_test_sessions 1",
            "weir_test_verdict_seconds_bucket{le=\"0.0025\"} 1",
            "weir_test_verdict_seconds_bucket{le=\"0.001\"} 0",
            concat!("weir_test_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }

    #[test]
    fn a_family_is_there_once_and_has_a_name() {
        for names in [["sessions", "sessions"], ["sessions", "no name"]] {
            let mut families = Families::new("weir_test");
            names.into_iter().for_each(|name| families.gauge(name, "Sessions.", 1.0));
            assert!(families.text().is_err(), "{names:?}");
        }
    }
}
