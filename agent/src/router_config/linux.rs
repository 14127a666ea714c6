//! A Linux router: policy rules, and a look at the agents every second.

use std::fmt::Write as _;

use super::beside::Beside;
use super::{Facts, Family, health, of_family};
use crate::config::WhenAgentDies;

/// On the router, not the agent's.
const TABLE: u32 = 25;
const PREFERENCE: u32 = 2500;

pub(super) fn script(facts: &Facts<'_>, beside: &Beside, undo: bool) -> String {
    let families: Vec<Family> = facts.families().collect();
    let mut text = format!("table={TABLE} preference={PREFERENCE}\n\nclear() {{\n");
    for family in &families {
        let _ = writeln!(
            text,
            "    while ip {} rule del preference \"$1\" 2>/dev/null; do :; done",
            family.flag()
        );
    }
    text += "}\n\n";
    if undo {
        text += "clear $preference\n";
        for family in &families {
            let _ = writeln!(text, "ip {} route flush table $table 2>/dev/null || true", family.flag());
        }
        return text;
    }
    text += "# Customers' mail, and the answers to it. Not what comes from the agents.\nrules() {\n";
    for family in &families {
        text += &rules(facts, beside, *family);
    }
    text += "}\n\nroute_of_mail() {\n    echo \"default table $table\"\n}\n";
    text += &health::check(facts, beside, &families);
    let closed = facts.config.steering.when_agent_dies == WhenAgentDies::Closed;
    text += if closed {
        "\n# Without an agent's host no mail goes: when_agent_dies = \"closed\".\n"
    } else {
        "\n# What `closed` had put there.\n"
    };
    for flag in families.iter().map(|family| family.flag()) {
        let route = "unreachable default table $table metric 4000";
        let _ = if closed {
            writeln!(text, "ip {flag} route replace {route}")
        } else {
            writeln!(text, "ip {flag} route del {route} 2>/dev/null || true")
        };
    }
    text += "\ncheck\n\
             # Those that are there are never missed: new ones are put behind them first.\n\
             clear $((preference + 1))\nrules $((preference + 1))\nclear $preference\nrules $preference\n\
             clear $((preference + 1))\n\n\
             ";
    text + &health::watch("check")
}

fn rules(facts: &Facts<'_>, beside: &Beside, family: Family) -> String {
    let mut text = String::new();
    for prefix in of_family(&facts.config.customers.prefixes, family) {
        let add = format!("    ip {} rule add preference \"$1\"", family.flag());
        for interface in &beside.customers {
            let _ = writeln!(text, "{add} iif {interface} from {prefix} ipproto tcp dport 25 table $table");
        }
        for interface in &beside.internet {
            let _ = writeln!(text, "{add} iif {interface} to {prefix} ipproto tcp sport 25 table $table");
        }
    }
    text
}
