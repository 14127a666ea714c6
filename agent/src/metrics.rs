//! What Prometheus is told.

use serde_json::{Value, json};
use weir_daemon::metrics::{self, Families, Histogram, number, of};

use crate::counters::Counters;
use crate::nodes::NodeStatus;
use crate::relay::record::Record;
use crate::serve::Agent;
use crate::shared::Shared;
use crate::steer::RuleKind;

/// How long things take, on each leg.
#[derive(Debug)]
pub struct Timings {
    /// To a destination, TCP only.
    pub connect: Histogram,
    /// From the end of a message, at the node, to the node's verdict.
    pub verdict: Histogram,
    answer: Histogram,
    message: Histogram,
}

impl Timings {
    pub fn new() -> anyhow::Result<Self> {
        let of = |leg: &str, help| metrics::histogram(&format!("weir_agent_{leg}_seconds"), help);
        Ok(Self {
            connect: of(
                "connect",
                "From a connection's beginning to its being open, to destinations that were reached.",
            )?,
            verdict: of(
                "verdict",
                "From the end of a message, given to a filter node, to the node's verdict.",
            )?,
            answer: of(
                "answer",
                "From the end of a message, given to its destination, to the destination's answer.",
            )?,
            message: of(
                "message",
                "From DATA or the first BDAT of a message to the answer that the customer gets.",
            )?,
        })
    }

    /// How many of each there were, and what they took in all.
    pub fn status(&self) -> Value {
        let of =
            |one: &Histogram| json!({ "count": one.get_sample_count(), "seconds": one.get_sample_sum() });
        json!({
            "connect": of(&self.connect),
            "verdict": of(&self.verdict),
            "answer": of(&self.answer),
            "message": of(&self.message),
        })
    }

    pub fn count(&self, record: &Record) {
        self.message.observe(record.duration.as_secs_f64());
        if let Some(took) = record.answered_after {
            self.answer.observe(took.as_secs_f64());
        }
    }
}

/// All of it. Blocks while steering is asked.
pub(crate) fn families(agent: &Agent) -> Families {
    let mut families = Families::new("weir_agent");
    let shared = &*agent.shared;
    connections(&mut families, &shared.counters);
    messages(&mut families, shared);
    room(&mut families, shared);
    nodes(&mut families, shared);
    steering(&mut families, agent);
    families
}

fn connections(families: &mut Families, counters: &Counters) {
    let Counters { overload, overload_customer, overload_buffered, blocked_told, blocked_untold, .. } =
        counters;
    families.counter(
        "connections_total",
        "Connections of customers that were taken.",
        of(&counters.sessions),
    );
    families.gauge("sessions", "Sessions that are open.", number(of(&counters.sessions_now)));
    families.counters(
        "connections_refused_total",
        "Connections that were answered 421 or 554 at once, by the limit that was reached.",
        &["limit"],
        [
            (["max_sessions"], of(overload)),
            (["max_sessions_per_customer"], of(overload_customer)),
            (["max_buffered"], of(overload_buffered)),
            (["blocked"], of(blocked_told) + of(blocked_untold)),
        ],
    );
    families.counter(
        "sessions_cut_total",
        "Sessions that were open when their customer was blocked.",
        of(&counters.blocked_ended),
    );
    families.counters(
        "sessions_noticed_total",
        "What was noticed of sessions.",
        &["notice"],
        [
            (["early_talker"], of(&counters.early_talkers)),
            (["wanted_tls"], of(&counters.wanted_tls)),
            (["not_smtp"], of(&counters.not_smtp)),
            (["masked_banner"], of(&counters.masked_banners)),
        ],
    );
}

fn messages(families: &mut Families, shared: &Shared) {
    let counters = &shared.counters;
    families.counters(
        "verdicts_total",
        "Messages by their verdict; none: the customer left before there was one.",
        &["verdict"],
        [
            (["accept"], of(&counters.accepted)),
            (["defer"], of(&counters.deferred)),
            (["reject"], of(&counters.rejected)),
            (["none"], of(&counters.abandoned)),
        ],
    );
    families.counters(
        "messages_total",
        "Messages by what became of them.",
        &["outcome"],
        [
            (["delivered"], of(&counters.delivered)),
            (["refused"], of(&counters.refused_by_destination)),
            (["unreported"], of(&counters.unreported)),
            (["unknown"], of(&counters.unknown)),
            (["withheld"], of(&counters.withheld)),
            (["abandoned"], of(&counters.left)),
        ],
    );
    families.counter("message_bytes_total", "Octets of messages' bodies.", of(&counters.octets));
    families.counters(
        "messages_without_verdict_total",
        "Messages that passed without a node's word, or against it.",
        &["cause"],
        [
            (["unjudged"], of(&counters.unjudged)),
            (["bypass"], of(&counters.bypassed)),
            (["shadow"], of(&counters.passed_in_shadow)),
        ],
    );
    families.counter(
        "messages_suspect_total",
        "Messages deferred because nodes failed on them.",
        of(&counters.suspect),
    );
    families.counter("spool_refusals_total", "Messages refused for want of room.", of(&counters.spool_full));
    families.counters(
        "messages_bare_line_ends_total",
        "Messages with line ends that are none.",
        &["octet"],
        [(["lf"], of(&counters.with_bare_lf)), (["cr"], of(&counters.with_bare_cr))],
    );
    let timings = &shared.timings;
    for histogram in [&timings.connect, &timings.verdict, &timings.answer, &timings.message] {
        families.timing(histogram);
    }
}

fn room(families: &mut Families, shared: &Shared) {
    let budget = &shared.budget;
    let (buffered, memory, disk) = (shared.buffers.held(), budget.in_memory(), budget.on_disk());
    families.gauge(
        "buffered_bytes",
        "Octets that sessions hold in memory, outside the spool.",
        number(buffered),
    );
    families.gauge("spool_memory_bytes", "Octets of messages in memory.", number(memory));
    families.gauge("spool_disk_bytes", "Octets of messages in files.", number(disk));
    families.gauges(
        "limit_bytes",
        "What of these there may be.",
        &["of"],
        [
            (["buffered"], number(shared.buffers.limit())),
            (["spool_memory"], number(budget.memory_total())),
            (["spool_disk"], number(budget.disk_total)),
        ],
    );
}

fn nodes(families: &mut Families, shared: &Shared) {
    let nodes = shared.pool.status();
    let names: Vec<String> = nodes.iter().map(|node| node.address.to_string()).collect();
    let rows = |of: fn(&NodeStatus) -> f64| -> Vec<_> {
        names.iter().zip(&nodes).map(|(name, node)| ([name.as_str()], of(node))).collect()
    };
    let counts = |of: fn(&NodeStatus) -> u64| -> Vec<_> {
        names.iter().zip(&nodes).map(|(name, node)| ([name.as_str()], of(node))).collect()
    };
    let label = &["node"];
    families.gauges("node_up", "Whether the node works.", label, rows(|node| f64::from(node.healthy)));
    families.gauges(
        "node_draining",
        "Whether an operator drains it.",
        label,
        rows(|node| f64::from(node.draining)),
    );
    families.gauges("node_in_flight", "Messages that it has.", label, rows(|node| number(node.in_flight)));
    families.counters("node_verdicts_total", "Verdicts of the node.", label, counts(|node| node.verdicts));
    families.counters("node_failures_total", "Failures of the node.", label, counts(|node| node.failures));
    families.gauge("messages_waiting", "Messages that wait for a node.", number(shared.pool.waiting()));
    families.gauge("node_connections_ready", "Connections that are kept ready.", number(shared.warm.ready()));
    families.gauge(
        "suspect_customers",
        "Customers whose messages nodes have failed on.",
        number(shared.suspects.count()),
    );
}

fn steering(families: &mut Families, agent: &Agent) {
    let steered = agent.steered.ask(&agent.steering);
    let counts = steered.counters.unwrap_or_default();
    families.counters(
        "steering_packets_total",
        "Packets by what the kernel program, or the rules, made of them.",
        &["verdict"],
        counts.iter().map(|(name, count)| ([name.as_str()], *count)),
    );
    families.gauge("steering_problems", "What is wrong with steering now.", number(agent.problems().len()));
    families.gauges(
        "policy_entries",
        "Who is exempt or blocked by an operator's word.",
        &["kind"],
        [
            (["exempt_pair"], number(agent.policy.count())),
            (["exempt_customer"], number(agent.policy.count_rules(RuleKind::ExemptCustomer))),
            (["exempt_destination"], number(agent.policy.count_rules(RuleKind::ExemptDestination))),
            (["blocked"], number(agent.policy.count_rules(RuleKind::Blocked))),
        ],
    );
    families.gauge(
        "released",
        "Whether all customers' connections go straight, by an operator's word.",
        f64::from(agent.release.until().is_some()),
    );
}
