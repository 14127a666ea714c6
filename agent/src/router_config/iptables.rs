//! A chain of its own in the table `mangle`, filled anew.

use std::fmt::Write as _;

use super::{Facts, Family, of_family};

const CHAIN: &str = "WEIR";

pub(super) fn script(facts: &Facts<'_>, undo: bool) -> String {
    let mut text = String::new();
    for family in facts.families() {
        let program = match family {
            Family::V4 => "iptables -w -t mangle",
            Family::V6 => "ip6tables -w -t mangle",
        };
        if undo {
            let _ = write!(
                text,
                "{program} -D PREROUTING -j {CHAIN}\n{program} -F {CHAIN}\n{program} -X {CHAIN}\n"
            );
        } else {
            text += &rules(facts, family, program);
        }
    }
    text
}

fn rules(facts: &Facts<'_>, family: Family, program: &str) -> String {
    let mark = facts.mark();
    let mut text = format!(
        "{program} -N {CHAIN} 2>/dev/null || {program} -F {CHAIN}\n\
         {program} -C PREROUTING -j {CHAIN} 2>/dev/null || {program} -A PREROUTING -j {CHAIN}\n\
         # The agent's connections, and ICMP errors about them, without which path MTU discovery fails.\n"
    );
    let mut add = |rule: String| {
        let _ = writeln!(text, "{program} -A {CHAIN} {rule}");
    };
    let errors = match family {
        Family::V4 => "icmp",
        Family::V6 => "ipv6-icmp",
    };
    for interface in facts.interfaces() {
        for protocol in ["tcp", errors] {
            add(format!("-i {interface} -p {protocol} -m socket --transparent -j MARK --set-xmark {mark}"));
            add(format!("-i {interface} -p {protocol} -m socket --transparent -j ACCEPT"));
        }
    }
    // Mail to this host itself is its own.
    add("-m addrtype --dst-type LOCAL -j RETURN".into());
    let port = facts.config.steering.listen_port;
    for interface in facts.customer_interfaces() {
        for prefix in of_family(&facts.config.customers.prefixes, family) {
            let syn = format!("-i {interface} -s {prefix} -p tcp --dport 25 --tcp-flags SYN,ACK,RST SYN");
            add(format!("{syn} -j TPROXY --on-port {port} --tproxy-mark {mark}"));
        }
    }
    text
}
