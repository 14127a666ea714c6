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
    text += "}\n";
    text += &health(facts, beside, &families);
    if facts.config.steering.when_agent_dies == WhenAgentDies::Closed {
        text += "\n# Without an agent's host no mail goes: when_agent_dies = \"closed\".\n";
        for family in &families {
            let flag = family.flag();
            let _ = writeln!(text, "ip {flag} route replace unreachable default table $table metric 4000");
        }
    }
    text += "\ncheck\n\
             # Those that are there are never missed: new ones are put behind them first.\n\
             clear $((preference + 1))\nrules $((preference + 1))\nclear $preference\nrules $preference\n\
             clear $((preference + 1))\n\n\
             # With the argument `watch` for ever: that is for a service.\n\
             while [ \"${1:-}\" = watch ]; do\n    sleep 1\n    check\ndone\n";
    text
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

/// One agent at a time, and the same as long as it is well: sessions are known to the agent that has them. Where none says
/// that it is well, one whose host is there: what becomes of mail without an agent is decided there.
fn health(facts: &Facts<'_>, beside: &Beside, families: &[Family]) -> String {
    let well = |family, host| match metrics_port(facts.config, family) {
        Some(port) => format!("url=\"http://{host}:{port}/metrics\" ;;"),
        None => "is_there \"$1\"; return ;;".to_owned(),
    };
    let mut text =
        HEALTH.replacen("{v6}", &well(Family::V6, "[$1]"), 1).replacen("{v4}", &well(Family::V4, "$1"), 1);
    text += "\ncheck() {\n";
    for family in families {
        let agents: Vec<String> = beside.agents(*family).iter().map(IpAddr::to_string).collect();
        let _ = writeln!(text, "    choose {} {}", family.flag(), agents.join(" "));
    }
    text + "}\n"
}

const HEALTH: &str = r#"
is_there() {
    ping -c 1 -W 1 "$1" >/dev/null 2>&1
}

# Not, if it is silent three times in a row: one that is being taken over from is silent for a second.
is_well() {
    case $1 in
    *:*) {v6}
    *) {v4}
    esac
    for pause in 1 1 0; do
        curl --silent --fail --max-time 1 --output /dev/null "$url" && return
        sleep $pause
    done
    return 1
}

# By way of the first of these that is as it should be.
by() {
    test=$1 family=$2
    shift 2
    for agent; do
        if "$test" "$agent"; then
            ip "$family" route replace default via "$agent" table $table metric 1 || true
            return
        fi
    done
    return 1
}

# The same agent as long as it is well, for it knows its sessions; then another; then one whose host is there, where it is
# decided what becomes of mail without an agent.
choose() {
    family=$1
    shift
    current=$(ip "$family" route show default table $table 2>/dev/null | sed -n 's/^default via \([^ ]*\).*/\1/p')
    by is_well "$family" $current "$@" || by is_there "$family" $current "$@" ||
        ip "$family" route del default table $table metric 1 2>/dev/null || true
}
"#;
