//! Juniper: filter-based forwarding into an instance whose routes are the agents. As `set` commands, or to undo it
//! `delete` commands.

use std::fmt::Write as _;

use super::beside::Beside;
use super::{Facts, Family, of_family};
use crate::config::WhenAgentDies;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Series {
    /// Routes packet by packet.
    Mx,
    /// Keeps sessions of what passes: mail must not become one.
    Srx,
}

const INSTANCE: &str = "weir";

/// Names that differ by family.
struct Words {
    /// As Junos calls the family.
    family: &'static str,
    /// The main table.
    table: &'static str,
    /// How a filter names TCP.
    tcp: &'static str,
    /// Everything, in one route and in two.
    all: &'static str,
    halves: [&'static str; 2],
    suffix: &'static str,
}

const V4: Words = Words {
    family: "inet",
    table: "inet.0",
    tcp: "protocol tcp",
    all: "0.0.0.0/0",
    halves: ["0.0.0.0/1", "128.0.0.0/1"],
    suffix: "v4",
};

const V6: Words = Words {
    family: "inet6",
    table: "inet6.0",
    // Behind extension headers too, where `next-header` is the first of them.
    tcp: "payload-protocol tcp",
    all: "::/0",
    halves: ["::/1", "8000::/1"],
    suffix: "v6",
};

fn words(family: Family) -> &'static Words {
    match family {
        Family::V4 => &V4,
        Family::V6 => &V6,
    }
}

pub(super) fn commands(series: Series, facts: &Facts<'_>, beside: &Beside, undo: bool) -> String {
    let families: Vec<Family> = facts.families().collect();
    let mut text = String::new();
    for family in families {
        text += &if undo { undone(series, beside, family) } else { done(series, facts, beside, family) };
    }
    if undo {
        let _ = writeln!(text, "delete routing-instances {INSTANCE}");
    } else {
        let _ = writeln!(text, "set routing-instances {INSTANCE} instance-type forwarding");
    }
    text
}

fn done(series: Series, facts: &Facts<'_>, beside: &Beside, family: Family) -> String {
    let mut text = String::new();
    let Words { family: inet, table, all, halves, suffix, .. } = words(family);
    for prefix in of_family(&facts.config.customers.prefixes, family) {
        let _ = writeln!(text, "set policy-options prefix-list weir-customers-{suffix} {prefix}");
    }
    text += &filters(series, words(family));
    // What the agents are behind has to be known in the instance, and nothing else: customers' own networks would be
    // nearer than the agents.
    let group = format!("weir-{suffix}");
    let policy = format!("set policy-options policy-statement weir-agents-{suffix}");
    for interface in &beside.agents_interface {
        let (name, unit) = split(interface);
        let _ = writeln!(text, "{policy} term agents from interface {name}.{unit}");
    }
    let _ = writeln!(text, "{policy} term agents then accept");
    let _ = writeln!(text, "{policy} term rest then reject");
    let _ = writeln!(text, "set routing-options rib-groups {group} import-policy weir-agents-{suffix}");
    for rib in [(*table).to_owned(), format!("{INSTANCE}.{table}")] {
        let _ = writeln!(text, "set routing-options rib-groups {group} import-rib {rib}");
    }
    let _ = writeln!(text, "set routing-options interface-routes rib-group {inet} {group}");
    let rib = match family {
        Family::V4 => format!("set routing-instances {INSTANCE} routing-options static route"),
        Family::V6 => {
            format!("set routing-instances {INSTANCE} routing-options rib {INSTANCE}.{table} static route")
        }
    };
    for half in halves {
        for (number, agent) in beside.agents(family).iter().enumerate() {
            let hop = format!("{rib} {half} qualified-next-hop {agent}");
            let _ = writeln!(text, "{hop} preference {}", number + 1);
            let _ = writeln!(text, "{hop} bfd-liveness-detection minimum-interval 300");
            let _ = writeln!(text, "{hop} bfd-liveness-detection multiplier 3");
        }
    }
    let without = match facts.config.steering.when_agent_dies {
        WhenAgentDies::Open => format!("next-table {table}"),
        WhenAgentDies::Closed => "discard".to_owned(),
    };
    let _ = writeln!(text, "{rib} {all} {without}");
    for (interfaces, filter) in places(series, beside) {
        for interface in interfaces {
            let _ = writeln!(text, "set {} filter input {filter}-{suffix}", unit(interface, inet));
        }
    }
    text
}

/// Which filter is put where.
fn places(series: Series, beside: &Beside) -> Vec<(&[String], &'static str)> {
    let mut places =
        vec![(&beside.customers[..], "weir-from-customers"), (&beside.internet[..], "weir-from-internet")];
    if series == Series::Srx {
        places.push((&beside.agents_interface[..], "weir-from-agents"));
    }
    places
}

fn filters(series: Series, words: &Words) -> String {
    let Words { family, tcp, suffix, .. } = words;
    let mut text = String::new();
    let customers = format!("prefix-list weir-customers-{suffix}");
    for (filter, side, port, steered) in [
        ("weir-from-customers", "source", "destination-port 25", true),
        ("weir-from-internet", "destination", "source-port 25", true),
    ] {
        let filter = format!("set firewall family {family} filter {filter}-{suffix}");
        text += &term(&filter, "mail", tcp, &format!("{side}-{customers}"), port, series, steered);
        let _ = writeln!(text, "{filter} term rest then accept");
    }
    if series == Series::Srx {
        let filter = format!("set firewall family {family} filter weir-from-agents-{suffix}");
        text +=
            &term(&filter, "mail", tcp, &format!("source-{customers}"), "destination-port 25", series, false);
        text += &term(
            &filter,
            "answers",
            tcp,
            &format!("destination-{customers}"),
            "source-port 25",
            series,
            false,
        );
        let _ = writeln!(text, "{filter} term rest then accept");
    }
    text
}

fn term(
    filter: &str,
    name: &str,
    tcp: &str,
    customers: &str,
    port: &str,
    series: Series,
    steered: bool,
) -> String {
    let term = format!("{filter} term {name}");
    let mut text = format!("{term} from {customers}\n{term} from {tcp}\n{term} from {port}\n");
    let _ = writeln!(text, "{term} then count weir-{name}");
    if series == Series::Srx {
        let _ = writeln!(text, "{term} then packet-mode");
    }
    let _ = if steered {
        writeln!(text, "{term} then routing-instance {INSTANCE}")
    } else {
        writeln!(text, "{term} then accept")
    };
    text
}

fn undone(series: Series, beside: &Beside, family: Family) -> String {
    let mut text = String::new();
    let Words { family: inet, suffix, .. } = words(family);
    // First what names the rest.
    for (interfaces, filter) in places(series, beside) {
        for interface in interfaces {
            let _ = writeln!(text, "delete {} filter input {filter}-{suffix}", unit(interface, inet));
        }
        let _ = writeln!(text, "delete firewall family {inet} filter {filter}-{suffix}");
    }
    let _ = writeln!(text, "delete policy-options prefix-list weir-customers-{suffix}");
    let _ = writeln!(text, "delete routing-options interface-routes rib-group {inet}");
    let _ = writeln!(text, "delete routing-options rib-groups weir-{suffix}");
    let _ = writeln!(text, "delete policy-options policy-statement weir-agents-{suffix}");
    text
}

fn split(interface: &str) -> (&str, &str) {
    interface.rsplit_once('.').unwrap_or((interface, "0"))
}

/// `ge-0/0/1.100`, or the interface's unit 0.
fn unit(interface: &str, family: &str) -> String {
    let (name, unit) = split(interface);
    format!("interfaces {name} unit {unit} family {family}")
}
