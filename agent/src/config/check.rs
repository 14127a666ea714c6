//! What the types of the configuration cannot say.

use std::collections::HashSet;
use std::hash::Hash;

use ipnet::IpNet;
use weir_daemon::config::{Check, Problems};

use crate::interfaces::is_pattern;

use super::{
    Backend, Config, Filter, Mirror, Node, Place, Relay, Spool, Steering, WhenTlsWanted, channel, customers,
};

/// Linux's IFNAMSIZ, without the NUL.
const MAX_INTERFACE_NAME: usize = 15;

/// More than any node needs: they are to be ready, not to be many.
const MAX_WARM: usize = 100;

/// A day. Longer is a mistake in the unit.
const MAX_SECONDS: u64 = 86_400;

impl Check for Config {
    fn check(&self, problems: &mut Problems) {
        check_steering(&self.steering, problems);
        customers::check(self, problems);
        check_filter(&self.filter, problems);
        if let Some(channel) = &self.filter.channel {
            channel::check(channel, problems);
        }
        check_relay(&self.relay, problems);
        check_spool(&self.spool, problems);
        if self.relay.wanted_tls == WhenTlsWanted::Exempt && self.steering.backend == Backend::External {
            problems.add(
                "relay.wanted_tls",
                "must be \"report\" where steering.backend is \"external\": weir cannot change rules of your own",
            );
        }
        if let Some(metrics) = &self.metrics {
            metrics.check(problems);
        }
        if !self.state.directory.is_absolute() {
            problems.add("state.directory", "must be an absolute path");
        }
    }
}

fn check_steering(steering: &Steering, problems: &mut Problems) {
    let lists = [
        ("steering.customer_interfaces", &steering.customer_interfaces),
        ("steering.internet_interfaces", &steering.internet_interfaces),
    ];
    for (key, names) in lists {
        if names.is_empty() && steering.backend != Backend::External {
            problems.add(key, "is empty: packets must come from somewhere");
        }
        for (index, name) in names.iter().enumerate() {
            check_interface(&format!("{key}[{index}]"), name, steering.backend, problems);
        }
        unique(key, names, problems);
    }
    if matches!(steering.listen_port, 0 | 25) {
        problems.add("steering.listen_port", "must not be 0 or 25: a port of the agent's own is needed");
    }
    if steering.mark & 0xffff_0000 == 0 || steering.mark & 0xffff != 0 {
        problems.add(
            "steering.mark",
            "must have bits in its upper 16 (0x00010000 to 0xffff0000) and none in its lower 16",
        );
    }
    if matches!(steering.table, 0 | 253..=255) {
        problems.add("steering.table", "must not be 0, 253, 254 or 255: these tables are the system's");
    }
    let [first, last] = steering.upstream_ports;
    if first < 1024 || first > last {
        problems.add("steering.upstream_ports", "must be [first, last] with 1024 <= first <= last");
    } else if steering.upstream_port_range().contains(&steering.listen_port) {
        problems.add("steering.upstream_ports", "must not contain steering.listen_port");
    }
    if !steering.pin_directory.is_absolute() {
        problems.add("steering.pin_directory", "must be an absolute path");
    }
}

fn check_interface(key: &str, name: &str, backend: Backend, problems: &mut Problems) {
    let plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    // Each `*` may stand for nothing.
    let shortest = name.chars().filter(|c| *c != '*').count();
    if name.is_empty() || shortest > MAX_INTERFACE_NAME || !name.chars().all(plain) {
        problems.add(
            key,
            format!("{name:?} is no interface name: 1 to {MAX_INTERFACE_NAME} characters expected"),
        );
    } else if is_pattern(name) && backend != Backend::Ebpf {
        let words =
            "is a pattern, and patterns are for steering.backend = \"ebpf\" only: name each interface";
        problems.add(key, format!("{name} {words}"));
    }
}

fn check_filter(filter: &Filter, problems: &mut Problems) {
    if filter.nodes.is_empty() {
        problems.add("filter.nodes", "is empty: nobody could judge");
    }
    check_nodes("filter.nodes", &filter.nodes, problems);
    if let Some(mirror) = &filter.mirror {
        check_mirror(mirror, &filter.nodes, problems);
    }
    if filter.warm_connections > MAX_WARM {
        problems.add(
            "filter.warm_connections",
            format!("must be {MAX_WARM} at most: they take places of the nodes'"),
        );
    }
    check_overrides(filter, problems);
    seconds("filter.verdict_budget", filter.verdict_budget, problems);
    seconds("filter.resolve_interval", filter.resolve_interval, problems);
    seconds("filter.max_wait", filter.max_wait, problems);
    seconds("filter.connect_timeout", filter.connect_timeout, problems);
    seconds("filter.reply_timeout", filter.reply_timeout, problems);
    seconds("filter.probe_interval", filter.probe_interval, problems);
}

fn check_nodes(key: &str, nodes: &[Node], problems: &mut Problems) {
    for (index, node) in nodes.iter().enumerate() {
        let Place::Address(address) = node.place else { continue };
        if address.port() == 0 || address.ip().is_unspecified() {
            problems.add(&format!("{key}[{index}]"), format!("{address} cannot be connected to"));
        }
    }
    let places: Vec<_> = nodes.iter().map(|node| &node.place).collect();
    unique(key, &places, problems);
}

fn check_mirror(mirror: &Mirror, judges: &[Node], problems: &mut Problems) {
    const NODES: &str = "filter.mirror.nodes";
    if mirror.nodes.is_empty() {
        problems.add(NODES, "is empty: who is to be asked?");
    }
    check_nodes(NODES, &mirror.nodes, problems);
    for (index, node) in mirror.nodes.iter().enumerate() {
        if judges.iter().any(|judge| judge.place == node.place) {
            let twice = format!("{} is in filter.nodes: it would count each message twice", node.place);
            problems.add(&format!("{NODES}[{index}]"), twice);
        }
    }
    // Not a number neither.
    if !(mirror.share > 0.0 && mirror.share <= 1.0) {
        problems.add("filter.mirror.share", "must be more than 0 and at most 1");
    }
    if mirror.max_in_flight == 0 {
        problems.add("filter.mirror.max_in_flight", "must be 1 or more");
    }
}

fn check_overrides(filter: &Filter, problems: &mut Problems) {
    let mut all = Vec::new();
    for (index, entry) in filter.overrides.iter().enumerate() {
        let key = format!("filter.overrides[{index}]");
        if entry.mode.is_none() && entry.when_unavailable.is_none() {
            problems.add(&key, "says nothing: mode or when_unavailable expected");
        }
        if entry.prefixes.is_empty() {
            problems.add(&format!("{key}.prefixes"), "is empty: for whom is it?");
        }
        for (number, prefix) in entry.prefixes.iter().enumerate() {
            let key = format!("{key}.prefixes[{number}]");
            check_prefix(&key, *prefix, problems);
            if all.contains(prefix) {
                problems.add(&key, format!("{prefix} is in another override, too"));
            }
            all.push(*prefix);
        }
    }
}

pub(super) fn check_prefix(key: &str, prefix: IpNet, problems: &mut Problems) {
    if prefix.trunc() != prefix {
        let meant = prefix.trunc();
        problems.add(key, format!("{prefix} has bits behind its length; {meant} is meant?"));
    }
}

fn check_relay(relay: &Relay, problems: &mut Problems) {
    let counts = [
        ("relay.max_sessions", relay.max_sessions as u64),
        ("relay.max_buffered", relay.max_buffered as u64),
        ("relay.max_message_size", relay.max_message_size),
        ("relay.max_line_length", relay.max_line_length),
        ("relay.max_recipients", relay.max_recipients as u64),
        ("relay.max_errors", u64::from(relay.max_errors)),
        ("relay.max_messages", u64::from(relay.max_messages)),
    ];
    for (key, count) in counts {
        if count == 0 {
            problems.add(key, "must be 1 or more");
        }
    }
    seconds("relay.connect_timeout", relay.connect_timeout, problems);
    seconds("relay.reply_timeout", relay.reply_timeout, problems);
    seconds("relay.end_of_data_timeout", relay.end_of_data_timeout, problems);
    seconds("relay.idle_timeout", relay.idle_timeout, problems);
    seconds("relay.session_timeout", relay.session_timeout, problems);
    seconds("relay.shutdown_timeout", relay.shutdown_timeout, problems);
    seconds("relay.drain_timeout", relay.drain_timeout, problems);
}

fn check_spool(spool: &Spool, problems: &mut Problems) {
    if !spool.directory.is_dir() {
        problems.add("spool.directory", format!("{} is not a directory", spool.directory.display()));
    }
}

fn seconds(key: &str, value: u64, problems: &mut Problems) {
    if !(1..=MAX_SECONDS).contains(&value) {
        problems.add(key, format!("must be 1 to {MAX_SECONDS} seconds"));
    }
}

pub(super) fn unique<T: Eq + Hash>(key: &str, items: &[T], problems: &mut Problems) {
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        if !seen.insert(item) {
            problems.add(&format!("{key}[{index}]"), "is there twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_daemon::config::parse;
    use weir_daemon::reference;

    use crate::config::Config;

    const MINIMAL: &str = r#"
[steering]
backend = "ebpf"
customer_interfaces = ["cust0"]
internet_interfaces = ["inet0"]
[customers]
prefixes = ["10.1.0.0/16", "fd01::/32"]
[filter]
nodes = ["10.3.0.11:10025", "10.3.0.12:10025"]
"#;

    fn problems(text: &str) -> String {
        parse::<Config>("agent.toml", text).map(|_| ()).expect_err("a problem").to_string()
    }

    #[test]
    fn the_minimal_file_is_enough() {
        parse::<Config>("agent.toml", MINIMAL).unwrap();
    }

    #[test]
    fn every_problem_is_said_with_line_and_key() {
        let text = MINIMAL
            .replace("10.1.0.0/16", "10.1.0.5/16")
            .replace("[filter]", "[filter]\nverdict_bugdet = 1\nreply_timeout = 0")
            .replace("\"ebpf\"", "\"epbf\"");
        let problems = problems(&text);
        for part in [
            "agent.toml:3: steering.backend",
            "agent.toml:7: customers.prefixes[0]: 10.1.0.5/16 has bits",
            "agent.toml:9: filter.verdict_bugdet",
            "verdict_budget",
            "agent.toml:10: filter.reply_timeout: must be 1",
        ] {
            assert!(problems.contains(part), "{part:?} not in:\n{problems}");
        }
    }

    #[test]
    fn mirrors_are_checked() {
        let with = |lines: &str| format!("{MINIMAL}[filter.mirror]\n{lines}");
        let text = with("nodes = [\"10.3.0.21:10025\", \"lab.example:25 weight=2\"]\nshare = 1");
        let mirror = parse::<Config>("agent.toml", &text).unwrap().filter.mirror.unwrap();
        assert_eq!((mirror.nodes.len(), mirror.max_in_flight), (2, 50));
        for (lines, problem) in [
            ("nodes = []\nshare = 0.5", "agent.toml:11: filter.mirror.nodes: is empty"),
            ("nodes = [\"x:1\"]\nshare = 0.0", "agent.toml:12: filter.mirror.share: must be more than 0"),
            ("nodes = [\"x:1\"]\nshare = 1.01", "agent.toml:12: filter.mirror.share: must be more than 0"),
            ("nodes = [\"x:1\"]\nshare = nan", "agent.toml:12: filter.mirror.share: must be more than 0"),
            ("nodes = [\"x:1\"]", "agent.toml:10: filter.mirror.share: required key is missing"),
            (
                "nodes = [\"x:1\"]\nshare = 1\nmax_in_flight = 0",
                "agent.toml:13: filter.mirror.max_in_flight: must be 1",
            ),
            (
                "nodes = [\"0.0.0.0:1\"]\nshare = 1",
                "agent.toml:11: filter.mirror.nodes[0]: 0.0.0.0:1 cannot be",
            ),
            (
                "nodes = [\"x:1\", \"x:1\"]\nshare = 1",
                "agent.toml:11: filter.mirror.nodes[1]: is there twice",
            ),
            (
                "nodes = [\"10.3.0.11:10025 weight=2\"]\nshare = 1",
                "agent.toml:11: filter.mirror.nodes[0]: 10.3.0.11:10025 is in filter.nodes",
            ),
        ] {
            let problems = problems(&with(lines));
            assert!(problems.contains(problem), "{problem:?} not in:\n{problems}");
        }
    }

    #[test]
    fn what_would_harm_the_host_is_refused() {
        for (line, key) in [
            ("listen_port = 25", "steering.listen_port"),
            ("mark = 1", "steering.mark"),
            ("table = 254", "steering.table"),
            ("upstream_ports = [20, 10]", "steering.upstream_ports"),
            ("upstream_ports = [2000, 3000]", "steering.upstream_ports"),
            ("pin_directory = \"here\"", "steering.pin_directory"),
            ("[state]\ndirectory = \"here\"", "state.directory"),
        ] {
            let problems = problems(&MINIMAL.replace("[customers]", &format!("{line}\n[customers]")));
            assert!(problems.contains(key), "{line}: {problems}");
        }
    }

    #[test]
    fn patterns_are_for_the_kernel_program() {
        let with = |pattern: &str| MINIMAL.replace("\"cust0\"", &format!("\"cust0\", {pattern}"));
        let config = parse::<Config>("agent.toml", &with("\"tap*\", \"*\"")).unwrap();
        assert_eq!(config.steering.customer_interfaces, ["cust0", "tap*", "*"]);
        // The longest name there is, anywhere.
        parse::<Config>("agent.toml", &with("\"*a23456789012345*\"")).unwrap();
        assert!(problems(&with("\"a234567890123456*\"")).contains("is no interface name"));
        assert!(problems(&with("\"tap*\", \"tap*\"")).contains("customer_interfaces[2]: is there twice"));
        for other in ["tproxy", "external"] {
            let problems = problems(&with("\"tap*\"").replace("ebpf", other));
            let words = "agent.toml:4: steering.customer_interfaces[1]: tap* is a pattern, and patterns are for \
                         steering.backend = \"ebpf\" only";
            assert!(problems.contains(words), "{problems}");
        }
    }

    #[test]
    fn what_contradicts_itself_in_prefixes_and_limits_is_refused() {
        let text = MINIMAL
            .replace(
                "[filter]",
                "exempt = [\"10.1.7.0/24\", \"10.2.0.0/24\", \"fd01::/32\"]\n\
                 exempt_destinations = [\"0.0.0.0/0\", \"192.0.2.1/24\"]\n\
                 [limits]\nconnections = 101\nburst = 0\n\
                 [[limits.overrides]]\nprefixes = [\"10.1.7.128/25\", \"10.3.0.0/24\", \"10.1.8.0/24\"]\nburst = 7\n\
                 [[limits.overrides]]\nprefixes = [\"10.1.8.0/24\"]\n[filter]",
            )
            .replace("\"ebpf\"", "\"tproxy\"");
        let problems = problems(&text);
        for part in [
            "agent.toml:7: customers.prefixes[1]: fd01::/32 is within customers.exempt",
            "agent.toml:8: customers.exempt[1]: 10.2.0.0/24 is not within customers.prefixes",
            "agent.toml:9: customers.exempt_destinations[0]: 0.0.0.0/0 is everybody",
            "agent.toml:9: customers.exempt_destinations[1]: 192.0.2.1/24 has bits",
            "agent.toml:11: limits.connections: is for steering.backend = \"ebpf\" only",
            "agent.toml:11: limits.connections: is 101, but relay.max_sessions_per_customer is 100",
            "agent.toml:12: limits.burst: must be 1 to",
            "limits.overrides: is for steering.backend = \"ebpf\" only",
            "agent.toml:12: limits.burst: is for steering.backend = \"ebpf\" only",
            "agent.toml:14: limits.overrides[0].prefixes[0]: 10.1.7.128/25 is within customers.exempt",
            "agent.toml:14: limits.overrides[0].prefixes[1]: 10.3.0.0/24 is not within customers.prefixes",
            "agent.toml:17: limits.overrides[1].prefixes[0]: 10.1.8.0/24 is in an override already",
            "limits.overrides[1]: says nothing",
        ] {
            assert!(problems.contains(part), "{part:?} not in:\n{problems}");
        }
        let misspelt = MINIMAL.replace("[filter]", "[limits]\nconections = 1\n[filter]");
        assert!(self::problems(&misspelt).contains("agent.toml:9: limits.conections"), "{misspelt}");
    }

    #[test]
    fn the_example_and_the_reference_are_up_to_date() {
        let crate_directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let example = reference::example::<Config>();
        reference::check_generated(&crate_directory.join("agent.example.toml"), &example).unwrap();
        parse::<Config>("agent.example.toml", &example).unwrap();
        let markdown = format!("# agent.toml\n\n{}", reference::markdown::<Config>());
        reference::check_generated(&crate_directory.join("../docs/agent.toml.md"), &markdown).unwrap();
    }
}
