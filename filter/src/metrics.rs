//! What Prometheus is told.

use std::time::Duration;

use weir_daemon::metrics::{self, Families, Histogram, Histograms, number, of};

use crate::policy::script::Keeper;
use crate::scan::Counts;
use crate::serve::Node;

/// How long things take.
#[derive(Debug)]
pub struct Timings {
    verdict: Histogram,
    scan: Histograms,
}

impl Timings {
    /// # Errors
    /// If a name is none.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            verdict: metrics::histogram(
                "weir_filter_verdict_seconds",
                "From the end of a message to its verdict.",
            )?,
            scan: metrics::histograms(
                "weir_filter_scan_seconds",
                "What a look at a message took, its turn waited for: of a scanner, or of content.",
                "scanner",
            )?,
        })
    }

    pub fn judged(&self, took: Duration) {
        self.verdict.observe(took.as_secs_f64());
    }

    pub fn scanned(&self, scanner: &str, took: Duration) {
        self.scan.with_label_values(&[scanner]).observe(took.as_secs_f64());
    }
}

/// All of it.
pub fn families(node: &Node) -> Families {
    let mut families = Families::new("weir_filter");
    mail(&mut families, node);
    scanners(&mut families, node);
    counters(&mut families, node);
    stored(&mut families, node);
    if let Some(scripts) = &node.scripts {
        script(&mut families, scripts);
    }
    families
}

fn mail(families: &mut Families, node: &Node) {
    let counts = &node.counters;
    families.gauge("sessions", "Sessions that are open.", number(node.counters.sessions_open()));
    families.counter("connections_total", "Connections of agents.", of(&counts.sessions));
    families.counter(
        "connections_refused_total",
        "Connections of strangers, or beyond smtp.max_sessions.",
        of(&counts.refused_connections),
    );
    families.counters(
        "tls_handshakes_total",
        "Handshakes with agents.",
        &["result"],
        [(["done"], of(&counts.handshakes)), (["failed"], of(&counts.failed_handshakes))],
    );
    families.counters(
        "messages_total",
        "Messages by their verdict.",
        &["verdict"],
        [
            (["accept"], of(&counts.accepted)),
            (["defer"], of(&counts.deferred)),
            (["reject"], of(&counts.rejected)),
        ],
    );
    families.counter(
        "messages_unscanned_total",
        "Messages of which a scanner that was to look did not see all.",
        of(&counts.unscanned),
    );
    families.counter(
        "refused_early_total",
        "Senders and recipients that were refused before there was a message.",
        of(&counts.refused_early),
    );
    families.counter("messages_incomplete_total", "Messages that broke off.", of(&counts.incomplete));
    families.timing(&node.timings.verdict);
}

fn scanners(families: &mut Families, node: &Node) {
    let scanners: Vec<(&str, Counts)> = node.scanners.counts().collect();
    let results = scanners.iter().flat_map(|(name, counts)| {
        let Counts { scanned, heads, too_big, busy, timed_out, failed, breaker_open, .. } = *counts;
        [
            ([*name, "scanned"], scanned),
            ([*name, "head"], heads),
            ([*name, "too_big"], too_big),
            ([*name, "busy"], busy),
            ([*name, "timed_out"], timed_out),
            ([*name, "failed"], failed),
            ([*name, "left_alone"], breaker_open),
        ]
    });
    families.counters(
        "scans_total",
        "Messages that a scanner was to see, by what came of it.",
        &["scanner", "result"],
        results,
    );
    let gauges = |of: fn(&Counts) -> f64| -> Vec<_> {
        scanners.iter().map(|(name, counts)| ([*name], of(counts))).collect()
    };
    let label = &["scanner"];
    families.gauges("scans_waiting", "Messages that wait for it.", label, gauges(|of| number(of.waiting)));
    families.gauges("scans_running", "Messages that it has.", label, gauges(|of| number(of.running)));
    families.gauges(
        "scanner_up",
        "Whether it is asked: not while it is left alone after failures.",
        label,
        gauges(|of| f64::from(of.breaker == "closed")),
    );
    families.timing(&node.timings.scan);
}

fn counters(families: &mut Families, node: &Node) {
    let usage = node.policy.counters().memory().usage();
    let counts = &node.counters;
    families.gauge("counters", "Keys that are counted.", number(usage.keys));
    families.counter(
        "counters_evicted_total",
        "Keys forgotten before their time, for want of room.",
        usage.evicted,
    );
    families.counters(
        "counters_savings_total",
        "Times that counts were written to their file.",
        &["result"],
        [(["done"], of(&counts.savings)), (["failed"], of(&counts.failed_savings))],
    );
    families.gauge("blocks", "Customers and prefixes that are blocked.", number(node.blocks.len()));
    if let Some(engine) = node.inside.outbreaks() {
        let usage = engine.store().memory().usage();
        families.gauge(
            "outbreak_messages",
            "Different messages that are remembered.",
            number(usage.messages),
        );
        families.counter("outbreak_evicted_total", "Messages forgotten for want of room.", usage.evicted);
    }
}

fn stored(families: &mut Families, node: &Node) {
    let Some(records) = &node.records else { return };
    let counts = records.writer.counts();
    families.counters(
        "events_total",
        "Events of messages, by what came of writing them.",
        &["result"],
        [
            (["stored"], of(&counts.stored)),
            (["dropped"], of(&counts.dropped)),
            (["failed"], of(&counts.failed)),
        ],
    );
    families.gauge("events_bytes", "Octets of their files.", number(of(&counts.bytes)));
    families.gauge("events_files", "Files.", number(of(&counts.files)));
}

fn script(families: &mut Families, scripts: &Keeper) {
    let [(calls, errors), candidate] = scripts.calls();
    families.counters(
        "script_calls_total",
        "Calls of the policy's script, and of its candidate.",
        &["script", "result"],
        [
            (["active", "done"], calls.saturating_sub(errors)),
            (["active", "error"], errors),
            (["candidate", "done"], candidate.0.saturating_sub(candidate.1)),
            (["candidate", "error"], candidate.1),
        ],
    );
    let stats = scripts.stats();
    families.counters(
        "script_stat_total",
        "What the script counts with stat().",
        &["name"],
        stats.iter().map(|(name, count)| ([name.as_str()], *count)),
    );
}
