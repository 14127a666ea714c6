use std::net::IpAddr;

use serde_json::{Value, json};

use super::model::Rules;
use super::{iptables, judge};
use crate::config::{Backend, WhenAgentDies};
use crate::doctor::Samples;
use crate::doctor::finding::{Finding, State};
use crate::prefixes::Prefixes;
use crate::steer::{Plan, Tables};

fn plan() -> Plan {
    let prefixes = ["10.1.0.0/16", "fd01::/32"].map(|prefix| prefix.parse().unwrap());
    Plan {
        backend: Backend::Ebpf,
        customer_interfaces: vec!["cust0".to_owned()],
        internet_interfaces: vec!["inet0".to_owned()],
        listen_port: 2525,
        when_agent_dies: WhenAgentDies::Open,
        mark: 0x4d58_0000,
        table: 100,
        tables: Tables { prefixes: Prefixes::new(&prefixes), ..Tables::default() },
        families: Vec::new(),
        max_sources: 1,
        pin_directory: "/sys/fs/bpf/weir".into(),
    }
}

fn findings(rules: &Rules) -> Vec<Finding> {
    let customers = ["10.1.0.9", "fd01::9"].map(|address| address.parse::<IpAddr>().unwrap()).to_vec();
    judge(rules, &plan(), &Samples { customers }, &[])
}

/// What is not ok, as `check: command`.
fn commands(rules: &Rules) -> Vec<String> {
    let all = findings(rules);
    all.iter()
        .filter(|finding| finding.state != State::Ok)
        .map(|finding| format!("{:?} {}", finding.state, finding.command.clone().unwrap_or_default()))
        .collect()
}

fn matches(left: &Value, right: &Value) -> Value {
    json!({ "match": { "op": "==", "left": left, "right": right } })
}

fn dport(right: &Value) -> Value {
    matches(&json!({ "payload": { "protocol": "tcp", "field": "dport" } }), right)
}

fn nft(hook: &str, policy: &str, rules: &[Value]) -> Rules {
    let mut objects = vec![
        json!({ "chain": { "family": "inet", "table": "f", "name": "c", "hook": hook, "policy": policy } }),
        json!({ "chain": { "family": "inet", "table": "f", "name": "own" } }),
    ];
    for (handle, expressions) in rules.iter().enumerate() {
        objects.push(json!({ "rule": {
            "family": "inet", "table": "f", "chain": "c", "handle": handle, "expr": expressions } }));
    }
    objects.push(json!({ "rule": { "family": "inet", "table": "f", "chain": "own", "handle": 99,
        "expr": [{ "tproxy": { "port": 2526 } }] } }));
    Rules::from_nft(&objects)
}

#[test]
fn a_host_without_rules_is_well() {
    assert_eq!(commands(&Rules::default()), [""; 0]);
    assert_eq!(findings(&Rules::default()).len(), 3);
}

#[test]
fn another_proxy_is_found_through_jumps_and_sets() {
    let jump = json!({ "jump": { "target": "own" } });
    let ports = json!({ "set": [587, { "range": [20, 30] }] });
    let rules = nft("prerouting", "accept", &[json!([dport(&ports), jump])]);
    assert_eq!(commands(&rules), ["Problem nft delete rule inet f own handle 99"]);
    let other = matches(&json!({ "meta": { "key": "iifname" } }), &json!("eth7"));
    for elsewhere in [dport(&json!(587)), other] {
        assert_eq!(commands(&nft("prerouting", "accept", &[json!([elsewhere, jump])])), [""; 0]);
    }
    let odd = matches(&json!({ "meta": { "key": "skuid" } }), &json!(0));
    let rules = nft("prerouting", "accept", &[json!([odd, { "accept": null }]), json!([jump])]);
    assert_eq!(commands(&rules), ["Warning nft delete rule inet f own handle 99"]);
}

#[test]
fn an_input_policy_drops_what_has_our_mark_unless_it_is_let_in() {
    let drop = nft("input", "drop", &[]);
    let accept = "nft insert rule inet f c 'meta mark and 0xffff0000 == 0x4d580000 accept'";
    let discovery = "nft insert rule inet f c 'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept'";
    assert_eq!(commands(&drop), [format!("Problem {accept}"), format!("Problem {discovery}")]);
    let state = json!({ "vmap": { "key": { "ct": { "key": "state" } },
        "data": { "set": [["invalid", { "drop": null }], ["established", { "accept": null }]] } } });
    let mark = matches(
        &json!({ "meta": { "key": "mark" } }),
        &json!({ "prefix": { "addr": 0x4d58_0000_u32, "len": 16 } }),
    );
    let icmp = matches(&json!({ "meta": { "key": "l4proto" } }), &json!("ipv6-icmp"));
    let accept = json!({ "accept": null });
    let rules = [json!([state]), json!([mark, { "counter": null }, accept]), json!([icmp, accept])];
    assert_eq!(commands(&nft("input", "drop", &rules)), [""; 0]);
}

#[test]
fn masquerade_on_the_way_out_is_found() {
    let out = matches(&json!({ "meta": { "key": "oifname" } }), &json!("inet0"));
    let rules = nft("postrouting", "accept", &[json!([out, { "masquerade": null }])]);
    let command = "Problem nft insert rule inet f c 'ip saddr { 10.1.0.0/16 } tcp dport 25 accept'";
    assert_eq!(commands(&rules), [command]);
}

#[test]
fn the_rules_of_iptables_are_understood_as_well() {
    let saved = "*nat\n:POSTROUTING ACCEPT [0:0]\n\
        -A POSTROUTING -s 10.1.0.0/16 ! -d 10.0.0.0/8 -o inet+ -j MASQUERADE\nCOMMIT\n\
        *mangle\n:PREROUTING ACCEPT [0:0]\n:SMTP - [0:0]\n\
        -A PREROUTING -i cust0 -p tcp -m tcp --dport 25 -j SMTP\n\
        -A SMTP -p tcp -j TPROXY --on-port 2526 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff\nCOMMIT\n\
        *filter\n:INPUT DROP [0:0]\n\
        -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n";
    let mut rules = Rules::default();
    iptables::add(&mut rules, saved, false);
    assert_eq!(
        commands(&rules),
        [
            "Problem iptables -t mangle -D SMTP -p tcp -j TPROXY --on-port 2526 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff",
            "Problem iptables -t filter -I INPUT -m mark --mark 0x4d580000/0xffff0000 -j ACCEPT",
            "Problem iptables -t nat -I POSTROUTING -p tcp --dport 25 -s 10.1.0.0/16 -j ACCEPT",
        ]
    );
    let mut rules = Rules::default();
    let let_in = saved.replace("INPUT DROP", "INPUT ACCEPT").replace("--dport 25", "--dport 587");
    iptables::add(&mut rules, &let_in.replace("-o inet+", "-o wg0"), false);
    assert_eq!(commands(&rules), [""; 0]);
}
