//! A Linux router: policy rules, and a look at the agents every second.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::beside::{Beside, metrics_port};
use super::{Facts, Family, of_family};
use crate::config::WhenAgentDies;

/// On the router, not the agent's.
const TABLE: u32 = 25;
const PREFERENCE: u32 = 2500;

pub(super) fn script(facts: &Facts<'_>, beside: &Beside, undo: bool) -> String {
    let families: Vec<Family> = facts.families().collect();
    let mut text = format!("table={TABLE} preference={PREFERENCE}\n\n");
    for family in &families {
        let flag = family.flag();
        let _ = writeln!(text, "while ip {flag} rule del preference $preference 2>/dev/null; do :; done");
        if undo {
            let _ = writeln!(text, "ip {flag} route flush table $table 2>/dev/null || true");
        }
    }
    if undo {
        return text;
    }
    text += "\n# Customers' mail, and the answers to it. Not what comes from the agents.\n";
    for family in &families {
        text += &rules(facts, beside, *family);
    }
    if facts.config.steering.when_agent_dies == WhenAgentDies::Closed {
        text += "\n# Without an agent no mail goes: when_agent_dies = \"closed\".\n";
        for family in &families {
            let _ = writeln!(
                text,
                "ip {} route replace unreachable default table $table metric 4000",
                family.flag()
            );
        }
    }
    text += &health(facts, beside, &families);
    text
}

fn rules(facts: &Facts<'_>, beside: &Beside, family: Family) -> String {
    let mut text = String::new();
    for prefix in of_family(&facts.config.customers.prefixes, family) {
        let add = format!("ip {} rule add preference $preference", family.flag());
        for interface in &beside.customers {
            let _ = writeln!(text, "{add} iif {interface} from {prefix} ipproto tcp dport 25 table $table");
        }
        for interface in &beside.internet {
            let _ = writeln!(text, "{add} iif {interface} to {prefix} ipproto tcp sport 25 table $table");
        }
    }
    text
}

/// One agent at a time, and the same as long as it is well: sessions are known to the agent that has them.
fn health(facts: &Facts<'_>, beside: &Beside, families: &[Family]) -> String {
    let well = match metrics_port(facts.config) {
        Some(port) => {
            format!(
                "case $1 in *:*) host=\"[$1]\" ;; *) host=$1 ;; esac\n    \
                 curl --silent --fail --max-time 1 --output /dev/null \"http://$host:{port}/metrics\""
            )
        }
        None => "ping -c 1 -W 1 \"$1\" >/dev/null 2>&1".to_owned(),
    };
    let mut text = format!(
        "\nwell() {{\n    {well}\n}}\n\n\
         # One agent at a time, and the same one as long as it is well: it knows its sessions.\n\
         choose() {{\n    \
             family=$1\n    \
             shift\n    \
             current=$(ip \"$family\" route show default table $table 2>/dev/null | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')\n    \
             for agent in $current \"$@\"; do\n        \
                 if well \"$agent\"; then\n            \
                     ip \"$family\" route replace default via \"$agent\" table $table metric 1\n            \
                     return\n        \
                 fi\n    \
             done\n    \
             ip \"$family\" route del default table $table metric 1 2>/dev/null || true\n\
         }}\n\n\
         check() {{\n"
    );
    for family in families {
        let agents: Vec<String> = beside.agents(*family).iter().map(IpAddr::to_string).collect();
        let _ = writeln!(text, "    choose {} {}", family.flag(), agents.join(" "));
    }
    text += "}\n\n# Once, or with the argument `watch` every second: that is for a service.\ncheck\n\
             while [ \"${1:-}\" = watch ]; do\n    sleep 1\n    check\ndone\n";
    text
}
