//! The rules of iptables, as iptables-save writes them, in the form that nft gives its own.

use serde_json::{Value, json};

use super::model::{Chain, Place, Rule, Rules};

/// Adds the rules to others.
pub(super) fn add(rules: &mut Rules, saved: &str, v6: bool) {
    let family = if v6 { "ip6" } else { "ip" };
    // A table of the same name may be nft's own.
    let mut table = String::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = format!("iptables {name}");
        } else if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let (Some(name), Some(policy)) = (words.next(), words.next()) else { continue };
            let base = (policy != "-").then(|| (name.to_lowercase(), policy.to_lowercase()));
            let place = Place {
                family: family.into(),
                table: table.clone(),
                chain: name.into(),
                iptables: Some(line.to_owned()),
                ..Place::default()
            };
            rules.push(Chain { place, base, rules: Vec::new() });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rest) = rule.split_once(' ').unwrap_or((rule, ""));
            let rule = Rule { handle: None, iptables: Some(line.to_owned()), expressions: expressions(rest) };
            let index = rules.chain(family, &table, chain);
            if let Some(chain) = index.and_then(|index| rules.chain_mut(index)) {
                chain.rules.push(rule);
            }
        }
    }
}

fn expressions(rule: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut words = rule.split_whitespace().peekable();
    let mut negated = false;
    while let Some(word) = words.next() {
        let argument = words.peek().copied().unwrap_or_default();
        let op = if std::mem::take(&mut negated) { "!=" } else { "==" };
        let mut matches = |left: Value, right: Value| {
            found.push(json!({ "match": { "op": op, "left": left, "right": right } }));
        };
        match word {
            "!" => negated = true,
            "-p" => matches(meta("l4proto"), json!(argument)),
            "-i" => matches(meta("iifname"), json!(interface(argument))),
            "-o" => matches(meta("oifname"), json!(interface(argument))),
            "-s" => matches(payload("ip", "saddr"), address(argument)),
            "-d" => matches(payload("ip", "daddr"), address(argument)),
            "--dport" | "--dports" => matches(payload("th", "dport"), ports(argument)),
            "--sport" | "--sports" => matches(payload("th", "sport"), ports(argument)),
            "--ctstate" | "--state" => {
                let states: Vec<String> = argument.split(',').map(str::to_lowercase).collect();
                matches(json!({ "ct": { "key": "state" } }), json!({ "set": states }));
            }
            "--mark" => matches(masked_mark(argument), mark(argument)),
            "--icmpv6-type" => matches(payload("icmpv6", "type"), json!(icmp_type(argument))),
            "--syn" => matches(payload("tcp", "flags"), json!("syn")),
            "-m" | "--comment" | "--tcp-flags" | "--on-port" | "--on-ip" | "--tproxy-mark" => {
                // Only a match with words of its own can be misunderstood.
                let plain = ["tcp", "conntrack", "state", "multiport", "mark", "comment", "icmp6"];
                if word == "--tcp-flags" || (word == "-m" && !plain.contains(&argument)) {
                    found.push(json!({ "match": { "op": "==", "left": null, "right": null } }));
                }
            }
            "-j" | "-g" => {
                found.push(target(argument, word == "-g"));
                break;
            }
            _ => continue,
        }
        if word != "!" && word != "--syn" {
            words.next();
        }
    }
    found
}

fn target(name: &str, goes: bool) -> Value {
    match name {
        "ACCEPT" => json!({ "accept": null }),
        "DROP" => json!({ "drop": null }),
        "REJECT" => json!({ "reject": null }),
        "RETURN" => json!({ "return": null }),
        "TPROXY" => json!({ "tproxy": null }),
        "REDIRECT" => json!({ "redirect": null }),
        "DNAT" => json!({ "dnat": null }),
        "SNAT" => json!({ "snat": null }),
        "MASQUERADE" => json!({ "masquerade": null }),
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "CT" | "NOTRACK" | "TCPMSS" | "CHECKSUM" => {
            json!({ "log": null })
        }
        chain => json!({ if goes { "goto" } else { "jump" }: { "target": chain } }),
    }
}

fn meta(key: &str) -> Value {
    json!({ "meta": { "key": key } })
}

fn payload(protocol: &str, field: &str) -> Value {
    json!({ "payload": { "protocol": protocol, "field": field } })
}

fn interface(name: &str) -> String {
    name.strip_suffix('+').map_or_else(|| name.to_owned(), |beginning| format!("{beginning}*"))
}

fn address(text: &str) -> Value {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    match length.parse::<u8>() {
        Ok(length) => json!({ "prefix": { "addr": address, "len": length } }),
        Err(_) => json!(address),
    }
}

fn ports(text: &str) -> Value {
    let one = |text: &str| match text.split_once(':') {
        Some((first, last)) => json!({ "range": [first.parse::<u16>().ok(), last.parse::<u16>().ok()] }),
        None => text.parse::<u16>().map_or(Value::Null, |port| json!(port)),
    };
    json!({ "set": text.split(',').map(one).collect::<Vec<_>>() })
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16).ok(),
        None => text.parse().ok(),
    }
}

fn masked_mark(text: &str) -> Value {
    match text.split_once('/').and_then(|(_, mask)| number(mask)) {
        Some(mask) => json!({ "&": [meta("mark"), mask] }),
        None => meta("mark"),
    }
}

fn mark(text: &str) -> Value {
    json!(number(text.split_once('/').map_or(text, |(value, _)| value)))
}

/// Those that neighbour discovery needs.
fn icmp_type(text: &str) -> &str {
    match text {
        "135" | "135/0" | "neighbor-solicitation" | "neighbour-solicitation" => "nd-neighbor-solicit",
        "136" | "136/0" | "neighbor-advertisement" | "neighbour-advertisement" => "nd-neighbor-advert",
        other => other,
    }
}
