//! A Linux router with FRR: nftables marks mail, FRR's policy-based routing has the marked by way of an address that
//! nobody has, and the look at the agents sets where that is.
//!
//! FRR takes `match dst-port`, and 8.4 tells the kernel nothing of it: a rule for all of TCP comes of it. So the mark. And
//! it finds that address by the default route, where there is no nearer one: so there is always one, or nothing is marked.

use std::fmt::Write as _;

use super::beside::Beside;
use super::{Facts, Family, health, nftables, of_family};
use crate::config::WhenAgentDies;

/// Of mail on the router, whose only mark on it it is.
const MARK: u32 = 0x19;
const TABLE: &str = "inet weir_router";
/// Behind those of FRR, which begin with 300.
const PREFERENCE: u32 = 2500;
/// Of the route that is left when no agent's host is there.
const LAST: u32 = 4000;

/// Never on a wire: the dummy address (RFC 7600, section 4.8) and one of the discard prefix (RFC 6666).
fn next_hop(family: Family) -> &'static str {
    match family {
        Family::V4 => "192.0.0.8/32",
        Family::V6 => "100::25/128",
    }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}

fn sequence(family: Family) -> u32 {
    match family {
        Family::V4 => 10,
        Family::V6 => 20,
    }
}

pub(super) fn script(facts: &Facts<'_>, beside: &Beside, undo: bool) -> String {
    let families: Vec<Family> = facts.families().collect();
    let mut text = cases("route_of_mail", &families, |family| format!("echo {}", next_hop(family)));
    text += "\n";
    if undo {
        return text + &undoing(beside, &families);
    }
    text += &health::check(facts, beside, &families);
    let closed = facts.config.steering.when_agent_dies == WhenAgentDies::Closed;
    text += &wanted(&families, closed);
    text += &marks(facts, beside, &families);
    let _ = write!(
        text,
        "\npolicy() {{\n    vtysh -f /dev/stdin <<'END'\n{}END\n}}\n",
        routing(beside, &families)
    );
    text += FOLLOW;
    text += &last_resort(&families, closed);
    text += "\nmarked=none\ncheck\nfollow\n\n";
    text + &health::watch("check\n    follow || true")
}

/// A function that asks which family its argument is.
fn cases(function: &str, families: &[Family], what: impl Fn(Family) -> String) -> String {
    let mut text = format!("{function}() {{\n    case $1 in\n");
    for family in families {
        let _ = writeln!(text, "    {}) {} ;;", family.flag(), what(*family));
    }
    text + "    esac\n}\n"
}

fn flags(families: &[Family]) -> String {
    families.iter().map(|family| family.flag()).collect::<Vec<_>>().join(" ")
}

/// Whose mail is marked. In `open` nobody's whose agents' hosts are all away: it goes straight.
fn wanted(families: &[Family], closed: bool) -> String {
    let flags = flags(families);
    if closed {
        return format!("\nwanted() {{\n    echo {flags}\n}}\n");
    }
    format!(
        "\n# The families whose mail goes to an agent's host now; without one it goes straight.\nwanted() {{\n    \
         for family in {flags}; do\n        \
         if ip \"$family\" route show \"$(route_of_mail \"$family\")\" | grep -q ' via '; then echo \"$family\"; fi\n    done\n}}\n"
    )
}

/// Without an agent's host, or without FRR, no mail goes in `closed`.
fn last_resort(families: &[Family], closed: bool) -> String {
    let mut text = String::from(if closed {
        "\n# Without an agent's host, or without FRR, no mail goes: when_agent_dies = \"closed\".\n"
    } else {
        "\n# What `closed` had put there.\n"
    });
    for flag in families.iter().map(|family| family.flag()) {
        let route = format!("unreachable \"$(route_of_mail {flag})\" metric {LAST}");
        let (there, rule) = (format!("preference {PREFERENCE}"), format!("fwmark {MARK:#x} unreachable"));
        let _ = if closed {
            writeln!(
                text,
                "ip {flag} route replace {route}\nip {flag} rule show {there} | grep -q . || ip {flag} rule add {there} {rule}"
            )
        } else {
            writeln!(
                text,
                "ip {flag} route del {route} 2>/dev/null || true\nip {flag} rule del {there} 2>/dev/null || true"
            )
        };
    }
    text
}

/// Each part, whatever is left of the others.
fn undoing(beside: &Beside, families: &[Family]) -> String {
    let mut text = format!("nft delete table {TABLE} 2>/dev/null || true\n");
    for flag in families.iter().map(|family| family.flag()) {
        for route in ["metric 1".to_owned(), format!("metric {LAST}")] {
            let _ =
                writeln!(text, "ip {flag} route del \"$(route_of_mail {flag})\" {route} 2>/dev/null || true");
        }
        let _ = writeln!(text, "ip {flag} rule del preference {PREFERENCE} 2>/dev/null || true");
    }
    text += "vtysh -f /dev/stdin <<'END' || echo \"FRR did not take all of it: see above, and vtysh -c 'show running-config'\" >&2\n";
    text += &policies(beside, "no pbr-policy weir");
    text += "no pbr-map weir\n";
    for family in families {
        let _ = writeln!(text, "no nexthop-group weir-{}", name(*family));
    }
    text + "END\n"
}

/// As FRR's configuration has it.
fn routing(beside: &Beside, families: &[Family]) -> String {
    let mut text = String::new();
    for family in families {
        let address = next_hop(*family).split('/').next().unwrap_or_default();
        let _ = write!(
            text,
            "nexthop-group weir-{}\n no nexthop {address}\n nexthop {address}\nexit\n",
            name(*family)
        );
    }
    for family in families {
        let _ = write!(
            text,
            "pbr-map weir seq {}\n match mark {MARK}\n set nexthop-group weir-{}\nexit\n",
            sequence(*family),
            name(*family)
        );
    }
    text + &policies(beside, "pbr-policy weir")
}

fn policies(beside: &Beside, command: &str) -> String {
    beside
        .customers
        .iter()
        .chain(&beside.internet)
        .map(|interface| format!("interface {interface}\n {command}\nexit\n"))
        .collect()
}

/// The table without a rule, and each family's rules: customers' mail, and the answers to it. Not what comes from the agents.
fn marks(facts: &Facts<'_>, beside: &Beside, families: &[Family]) -> String {
    let mut text = format!("\ntable() {{\n    cat <<'END'\n{}", nftables::replaced(TABLE));
    for family in families {
        text += &nftables::set(*family, &of_family(&facts.config.customers.prefixes, *family));
    }
    text +=
        "\tchain prerouting { type filter hook prerouting priority mangle; policy accept; }\n}\nEND\n}\n\n";
    text + &cases("marks", families, |family| {
        let mut rules = String::from("cat <<'END'\n");
        let (ip, customers) = (nftables::ip(family), nftables::set_name(family));
        for (interfaces, of, port) in
            [(&beside.customers, "saddr", "dport"), (&beside.internet, "daddr", "sport")]
        {
            let _ = writeln!(
                rules,
                "add rule {TABLE} prerouting iifname {{ {} }} {ip} {of} @{customers} tcp {port} 25 meta mark set {MARK:#x}",
                nftables::names(interfaces)
            );
        }
        rules + "END\n   "
    })
}

const FOLLOW: &str = r#"
# What is marked follows what is wanted; and what others have taken away is put back: nftables that were reloaded, FRR that
# was started again.
follow() {
    now=$(wanted)
    if [ "$now" != "$marked" ] || ! nft list table inet weir_router >/dev/null 2>&1; then
        { table; for family in $now; do marks "$family"; done; } | nft -f - && marked=$now
    fi
    has_policy && return
    # A next hop that was named before FRR's daemons knew each other is never found: it is named anew.
    policy || return
    if ! vtysh -c 'show pbr map weir' 2>/dev/null | grep -q weir; then
        echo "FRR has no policy: do zebra and pbrd run (pbrd=yes in /etc/frr/daemons)?" >&2
        return 1
    fi
}

has_policy() {
    groups=$(vtysh -c 'show pbr nexthop-groups' 2>/dev/null)
    for family in $now; do
        echo "$groups" | grep -q "weir-v${family#-} .*Valid: 1" || return
    done
}
"#;
