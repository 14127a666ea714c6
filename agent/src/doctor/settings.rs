//! Settings of the kernel (sysctl) that steering and a busy relay depend on.

use std::fs;

use super::Host;
use super::finding::Finding;
use crate::config::{Backend, WhenAgentDies};
use crate::steer::{Plan, forwarding_off, rules_on_bridges};

const FORWARDING: &str = "forwarding";
const REVERSE_PATH: &str = "reverse_path";
const SYN_COOKIES: &str = "syn_cookies";
const CONNTRACK: &str = "conntrack";
const BACKLOG: &str = "accept_queue";
const PORTS: &str = "upstream_ports";
const EARLY_DEMUX: &str = "early_demux";
const JIT: &str = "bpf_jit";
const BRIDGES: &str = "bridge_rules";

/// What the listener asks for.
const WANTED_BACKLOG: u64 = 4096;

/// All of them.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    let plan = &host.plan;
    let local_ports = read("net.ipv4.ip_local_port_range");
    let range = local_ports.as_deref().and_then(pair);
    let reverse_path =
        |name: &String| Some((name.clone(), number(&format!("net.ipv4.conf.{name}.rp_filter"))?));
    let all = plan.customer_interfaces.iter().chain(&plan.internet_interfaces);
    vec![
        forwarding(plan, forwarding_off(plan)),
        reverse_path_filter(
            plan.backend,
            number("net.ipv4.conf.all.rp_filter").unwrap_or(0),
            &all.filter_map(reverse_path).collect::<Vec<_>>(),
            number("net.ipv4.conf.all.src_valid_mark") == Some(1),
        ),
        syn_cookies(plan.backend, number("net.ipv4.tcp_syncookies")),
        conntrack(number("net.netfilter.nf_conntrack_count"), number("net.netfilter.nf_conntrack_max")),
        backlog(number("net.core.somaxconn")),
        upstream_ports(host.config.steering.upstream_ports, range),
        early_demux([number("net.ipv4.ip_early_demux"), number("net.ipv4.tcp_early_demux")]),
        jit(plan.backend, number("net.core.bpf_jit_enable")),
        bridges(rules_on_bridges(plan)),
    ]
}

fn read(name: &str) -> Option<String> {
    // An interface's name may have dots in it.
    let path = match name
        .split_once(".conf.")
        .and_then(|(family, rest)| Some((family, rest.rsplit_once('.')?)))
    {
        Some((family, (interface, key))) => format!("{}/conf/{interface}/{key}", family.replace('.', "/")),
        None => name.replace('.', "/"),
    };
    let value = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    Some(value.trim().to_owned())
}

fn number(name: &str) -> Option<u64> {
    read(name)?.parse().ok()
}

fn pair(text: &str) -> Option<[u16; 2]> {
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??])
}

fn forwarding(plan: &Plan, off: Option<String>) -> Finding {
    let Some(setting) = off else {
        return Finding::ok(FORWARDING, "this host forwards customers' packets, in each of their families");
    };
    let command = match setting.as_str() {
        "net.ipv6.conf.all.forwarding" => "sysctl -w net.ipv6.conf.all.forwarding=1".to_owned(),
        // Switched off as a whole, as a rule; the one of the interface follows it.
        _ if setting.starts_with("net.ipv4.") && number("net.ipv4.ip_forward") == Some(0) => {
            "sysctl -w net.ipv4.ip_forward=1".to_owned()
        }
        // sysctl(8) takes dots in an interface's name for its own.
        _ => format!("sysctl -w {}=1", slashed(&setting)),
    };
    let words = match (plan.when_agent_dies, plan.backend) {
        (WhenAgentDies::Open, _) => {
            format!(
                "{setting} is 0: mail will not flow straight when the agent is dead, so it does not start"
            )
        }
        (WhenAgentDies::Closed, Backend::Ebpf) => {
            format!("{setting} is 0: customers' mail to this host's own port 25 is intercepted as well")
        }
        (WhenAgentDies::Closed, _) => {
            format!("{setting} is 0: nothing of customers but their mail gets through")
        }
    };
    let finding = match plan.when_agent_dies {
        WhenAgentDies::Open => Finding::problem(FORWARDING, words),
        WhenAgentDies::Closed => Finding::warning(FORWARDING, words),
    };
    finding.mended_by(command)
}

fn slashed(setting: &str) -> String {
    let parts =
        setting.split_once(".conf.").and_then(|(family, rest)| Some((family, rest.rsplit_once('.')?)));
    match parts {
        Some((family, (interface, key))) => format!("{}/conf/{interface}/{key}", family.replace('.', "/")),
        None => setting.to_owned(),
    }
}

/// The kernel takes the larger of the interface's value and that of `all`.
fn reverse_path_filter(backend: Backend, all: u64, each: &[(String, u64)], mark_is_valid: bool) -> Finding {
    let strict: Vec<&str> =
        each.iter().filter(|(_, value)| all.max(*value) == 1).map(|(name, _)| name.as_str()).collect();
    if mark_is_valid && backend == Backend::External {
        let words = "net.ipv4.conf.all.src_valid_mark is 1: source addresses are looked up with the mark, so each ip \
                     rule of your own for the mark needs `iif INTERFACE`, or IPv4 packets are dropped";
        return Finding::warning(REVERSE_PATH, words);
    }
    if strict.is_empty() {
        return Finding::ok(REVERSE_PATH, "off or loose (rp_filter 0 or 2): asymmetric routes are no harm");
    }
    let words = format!(
        "strict on {} (rp_filter 1): fine as long as packets leave where their answers come in",
        strict.join(", ")
    );
    Finding::ok(REVERSE_PATH, words)
}

fn syn_cookies(backend: Backend, value: Option<u64>) -> Finding {
    let command = "sysctl -w net.ipv4.tcp_syncookies=1";
    match (value, backend) {
        (Some(2), Backend::Tproxy) => Finding::problem(
            SYN_COOKIES,
            "net.ipv4.tcp_syncookies is 2: with tproxy every connection of customers is reset",
        )
        .mended_by(command),
        (Some(0), _) => Finding::warning(
            SYN_COOKIES,
            "net.ipv4.tcp_syncookies is 0: a flood of SYNs from one customer keeps the others out",
        )
        .mended_by(command),
        (Some(_), _) => Finding::ok(SYN_COOKIES, "as they should be (net.ipv4.tcp_syncookies)"),
        (None, _) => Finding::unknown(SYN_COOKIES, "net.ipv4.tcp_syncookies cannot be read"),
    }
}

fn conntrack(count: Option<u64>, max: Option<u64>) -> Finding {
    let (Some(count), Some(max)) = (count, max) else {
        return Finding::skipped(CONNTRACK, "connections are not tracked on this host");
    };
    let words = format!("{count} of {max} connections are tracked (net.netfilter.nf_conntrack_max)");
    let command = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(2));
    // An intercepted connection has two entries.
    let percent = count.saturating_mul(100).checked_div(max).unwrap_or(100);
    match percent {
        95.. => Finding::problem(CONNTRACK, format!("{words}: new ones are dropped when it is full"))
            .mended_by(command),
        80.. => Finding::warning(CONNTRACK, format!("{words}: new ones are dropped when it is full"))
            .mended_by(command),
        _ => Finding::ok(CONNTRACK, words),
    }
}

fn backlog(somaxconn: Option<u64>) -> Finding {
    match somaxconn {
        Some(value) if value < WANTED_BACKLOG => Finding::warning(
            BACKLOG,
            format!(
                "net.core.somaxconn is {value}: so many connections wait to be accepted, no matter that the agent asks \
                 for {WANTED_BACKLOG}; more at a time are delayed by a second or more (restart the agent after the change)"
            ),
        )
        .mended_by(format!("sysctl -w net.core.somaxconn={WANTED_BACKLOG}")),
        Some(value) => Finding::ok(BACKLOG, format!("net.core.somaxconn is {value}")),
        None => Finding::unknown(BACKLOG, "net.core.somaxconn cannot be read"),
    }
}

fn upstream_ports([first, last]: [u16; 2], local: Option<[u16; 2]>) -> Finding {
    let mine = format!("steering.upstream_ports, {first} to {last}");
    match local {
        Some([low, high]) if first <= high && low <= last => Finding::warning(
            PORTS,
            format!(
                "{mine}, overlap net.ipv4.ip_local_port_range, {low} to {high}, which customers' systems are likely to \
                 have too: connection tracking may take the agent's connection for the customer's; move either"
            ),
        )
        .mended_by(if (first, last) == (16_384, 32_767) {
            "sysctl -w net.ipv4.ip_local_port_range='32768 60999'".to_owned()
        } else {
            format!("sysctl -w net.ipv4.ip_local_port_range='{} 65535'", last.saturating_add(1).min(65_000))
        }),
        _ => Finding::ok(PORTS, format!("{mine}, are apart from those that customers usually have")),
    }
}

/// Before a packet is routed, the kernel looks whether a socket of its own has these addresses and ports. What is to be forwarded
/// then is dropped (`ip_forward`). The agent's sockets have customers' and destinations' addresses, for a minute after their end too.
fn early_demux(values: [Option<u64>; 2]) -> Finding {
    if values.contains(&Some(0)) {
        return Finding::ok(EARLY_DEMUX, "off: what goes straight is taken for no connection of before");
    }
    if values == [None, None] {
        return Finding::unknown(EARLY_DEMUX, "net.ipv4.tcp_early_demux cannot be read");
    }
    Finding::warning(
        EARLY_DEMUX,
        "net.ipv4.tcp_early_demux is 1: when the agent has ended and connections go straight, one from the port that the same customer had to the \
         same destination within the last minute waits until that minute is over",
    )
    .mended_by("sysctl -w net.ipv4.tcp_early_demux=0")
}

fn jit(backend: Backend, value: Option<u64>) -> Finding {
    match value {
        Some(0) if backend == Backend::Ebpf => Finding::warning(
            JIT,
            "net.core.bpf_jit_enable is 0: the steering program is interpreted, several times slower per packet",
        )
        .mended_by("sysctl -w net.core.bpf_jit_enable=1"),
        Some(_) => Finding::ok(JIT, "the kernel compiles programs (net.core.bpf_jit_enable)"),
        // Other network namespaces than the first do not have it.
        None => Finding::skipped(JIT, "net.core.bpf_jit_enable is not shown here"),
    }
}

fn bridges(setting: Option<String>) -> Finding {
    let Some(setting) = setting else {
        return Finding::ok(BRIDGES, "no rules for packets on ports of a bridge are in tproxy's way");
    };
    let words = format!("{setting} is 1: with tproxy, connections that come in by a bridge are not answered");
    Finding::problem(BRIDGES, words).mended_by(format!("sysctl -w {setting}=0"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn syn_cookies_matter_to_tproxy() {
        assert_eq!(syn_cookies(Backend::Tproxy, Some(2)).state, State::Problem);
        assert_eq!(syn_cookies(Backend::Ebpf, Some(2)).state, State::Ok);
        assert_eq!(syn_cookies(Backend::Ebpf, Some(0)).state, State::Warning);
    }

    #[test]
    fn tracked_connections_are_counted_against_their_limit() {
        let state = |count, max| conntrack(Some(count), Some(max)).state;
        assert_eq!(
            [state(79, 100), state(80, 100), state(95, 100), state(1, 0)],
            [State::Ok, State::Warning, State::Problem, State::Problem]
        );
        assert_eq!(conntrack(None, Some(1)).state, State::Skipped);
    }

    #[test]
    fn ports_are_apart_or_not() {
        assert_eq!(upstream_ports([16_384, 32_767], Some([32_768, 60_999])).state, State::Ok);
        let wide = upstream_ports([16_384, 32_767], Some([1024, 65_535]));
        assert_eq!(wide.state, State::Warning);
        assert_eq!(wide.command.unwrap(), "sysctl -w net.ipv4.ip_local_port_range='32768 60999'");
    }

    #[test]
    fn one_of_two_settings_is_enough_to_have_early_demux_off() {
        let values = [[Some(1), Some(1)], [Some(1), Some(0)], [Some(0), None], [None, Some(1)], [None, None]];
        assert_eq!(
            values.map(|values| early_demux(values).state),
            [State::Warning, State::Ok, State::Ok, State::Warning, State::Unknown]
        );
    }

    #[test]
    fn strictness_is_the_larger_of_two() {
        let each = [("cust0".to_owned(), 1), ("inet0".to_owned(), 0)];
        let words = |all| reverse_path_filter(Backend::Ebpf, all, &each, false).words;
        assert!(words(0).contains("strict on cust0 ("));
        assert!(words(1).contains("strict on cust0, inet0"));
        assert!(words(2).contains("loose"));
        assert_eq!(reverse_path_filter(Backend::External, 0, &each, true).state, State::Warning);
    }

    #[test]
    fn a_setting_of_an_interface_with_a_dot_is_one_name() {
        assert_eq!(slashed("net.ipv4.conf.eth0.100.forwarding"), "net/ipv4/conf/eth0.100/forwarding");
    }
}
