//! Interfaces, and the ways of packets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::libc;

use super::Host;
use super::finding::Finding;
use crate::config::{Backend, WhenAgentDies};
use crate::interfaces::is_pattern;
use crate::steer::view::{self, Inspection, Link, Route};
use crate::steer::{Plan, forwarding_off};

const INTERFACES: &str = "interfaces";
const TO_CUSTOMERS: &str = "route_customers";
const TO_INTERNET: &str = "route_internet";
const RULES: &str = "policy_rules";

/// Prefixes of customers that are tried.
const TRIED: usize = 500;

/// What is on the internet for certain: a.root-servers.net. Nothing is sent there.
const FAR_V4: Ipv4Addr = Ipv4Addr::new(198, 41, 0, 4);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30);

/// All of it.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    if host.plan.backend == Backend::External && host.plan.customer_interfaces.is_empty() {
        return vec![Finding::skipped(INTERFACES, "none are named: the rules are your own")];
    }
    let links = match view::links() {
        Ok(links) => links,
        Err(error) => return vec![Finding::unknown(INTERFACES, format!("cannot be listed: {error}"))],
    };
    let mut findings = interfaces(host, &links);
    findings.extend(routes(host, &links));
    if host.plan.backend != Backend::External {
        findings.extend(match view::routing(&Plan::new(&host.config)) {
            Ok(found) => policy_rules(host, &found),
            Err(error) => vec![Finding::unknown(RULES, error.to_string())],
        });
    }
    findings
}

fn interfaces(host: &Host, links: &[Link]) -> Vec<Finding> {
    let steering = &host.config.steering;
    let named = [
        ("customer_interfaces", &steering.customer_interfaces),
        ("internet_interfaces", &steering.internet_interfaces),
    ];
    let all = named.iter().flat_map(|(key, names)| names.iter().map(move |name| (*key, name.as_str())));
    let names = all.filter(|(_, name)| !is_pattern(name));
    let mut findings: Vec<Finding> = names.filter_map(|(key, name)| interface(key, name, links)).collect();
    findings.extend(Plan::new(&host.config).idle_patterns(links).into_iter().map(|(key, pattern)| {
        let words =
            format!("steering.{key}: no interface fits {pattern} now; those that come will be steered on");
        Finding::warning(INTERFACES, words)
    }));
    if findings.is_empty() {
        findings.push(Finding::ok(INTERFACES, "all are there, and up"));
    }
    findings
}

/// What is wrong with one.
fn interface(key: &str, name: &str, links: &[Link]) -> Option<Finding> {
    let Some(link) = links.iter().find(|link| link.name == name) else {
        let there: Vec<&str> =
            links.iter().map(|link| link.name.as_str()).filter(|name| *name != "lo").collect();
        let words = format!("steering.{key}: {name} does not exist; there are {}", there.join(", "));
        return Some(Finding::problem(INTERFACES, words));
    };
    if let Some(master) =
        link.master.filter(|_| link.is_port).and_then(|index| links.iter().find(|link| link.index == index))
    {
        let words = format!(
            "steering.{key}: {name} is a port of {0}: for routing, its packets come in on {0}; name that",
            master.name
        );
        return Some(Finding::warning(INTERFACES, words));
    }
    if !link.is_up {
        let words = format!("steering.{key}: {name} is down");
        return Some(Finding::problem(INTERFACES, words).mended_by(format!("ip link set {name} up")));
    }
    (!link.is_running)
        .then(|| Finding::warning(INTERFACES, format!("steering.{key}: {name} has no carrier: a cable?")))
}

/// The ways from the internet to customers and from customers to the internet, as the kernel would forward them.
fn routes(host: &Host, links: &[Link]) -> Vec<Finding> {
    let mut findings = to_customers(host, links);
    for v6 in [false, true] {
        if let Some(customer) = host.samples.of(v6) {
            findings.push(to_internet(host, links, customer));
        }
    }
    findings
}

fn to_customers(host: &Host, links: &[Link]) -> Vec<Finding> {
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for prefix in host.plan.tables.prefixes.all().iter().take(TRIED) {
        tried += 1;
        let finding = match customer_in(*prefix) {
            (_, Ok(Route::Local)) => continue,
            (_, Ok(Route::Out(index))) if is_among(index, links, &host.plan.customer_interfaces) => continue,
            (_, Ok(Route::Out(index))) => Finding::problem(
                TO_CUSTOMERS,
                format!(
                    "{prefix} is routed to {}, which is not among steering.customer_interfaces: its packets come in \
                     elsewhere, or answers take another way",
                    name_of(index, links)
                ),
            ),
            (_, Ok(Route::Refused)) => Finding::problem(
                TO_CUSTOMERS,
                format!("{prefix} is routed to nowhere (blackhole, unreachable or prohibit)"),
            ),
            (customer, Err(error)) => {
                Finding::problem(TO_CUSTOMERS, format!("no route to {prefix}: {error}")).mended_by(format!(
                    "ip route add {prefix} dev {}{}",
                    host.plan.customer_interfaces.first().map_or("", String::as_str),
                    if customer.is_ipv4() { " # via ROUTER, where there is one" } else { "" }
                ))
            }
        };
        wrong.push(finding);
    }
    // One wrong route may be that of a thousand prefixes.
    wrong.truncate(5);
    if wrong.is_empty() {
        wrong.push(Finding::ok(
            TO_CUSTOMERS,
            format!("lead out of customer interfaces ({tried} prefixes tried)"),
        ));
    }
    wrong
}

/// An address of the prefix that is not this host's own, and the way to it.
fn customer_in(prefix: IpNet) -> (IpAddr, io::Result<Route>) {
    let mut last = (prefix.addr(), Ok(Route::Local));
    for address in addresses(prefix) {
        last = (address, view::route(address, None));
        if !matches!(last.1, Ok(Route::Local)) {
            break;
        }
    }
    last
}

/// Some of its addresses, from the far end: gateways are wont to have the first.
pub(super) fn addresses(prefix: IpNet) -> impl Iterator<Item = IpAddr> {
    let last: u128 = match prefix {
        IpNet::V4(net) => u32::from(net.broadcast()).into(),
        IpNet::V6(net) => u128::from(net.broadcast()),
    };
    // The last of an IPv4 network is its broadcast address.
    let skipped = u128::from(prefix.max_prefix_len() - prefix.prefix_len() > 1);
    (0..3_u128).filter_map(move |step| {
        let address = last.checked_sub(step + skipped)?;
        let address = match prefix {
            IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(address).ok()?)),
            IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(address)),
        };
        prefix.contains(&address).then_some(address)
    })
}

/// To the internet and back, for a customer's packet.
fn to_internet(host: &Host, links: &[Link], customer: IpAddr) -> Finding {
    let far: IpAddr = if customer.is_ipv4() { FAR_V4.into() } else { FAR_V6.into() };
    let family = if customer.is_ipv4() { "IPv4" } else { "IPv6" };
    let own = view::route(far, None);
    // Without forwarding the kernel says that there is no way at all.
    let forwards = forwarding_off(&host.plan).is_none();
    let forwarded = match view::route(customer, None) {
        Ok(Route::Out(interface)) if forwards => view::route(far, Some((customer, interface))),
        // Another check says so.
        _ => Ok(Route::Local),
    };
    for (packet, way) in [("the agent's packets", &own), ("customers' packets", &forwarded)] {
        if let Some(finding) = wrong_way(host, links, family, packet, way) {
            return finding;
        }
    }
    if forwarded.as_ref().is_err_and(is_reverse_path) {
        let words = "packets from customers are dropped by the reverse path filter: the way back is another";
        return Finding::problem(TO_INTERNET, format!("{family}: {words} (asymmetric routes)"))
            .mended_by("sysctl -w net.ipv4.conf.all.rp_filter=2");
    }
    let names = host.plan.internet_interfaces.iter().filter(|_| forwards);
    let interfaces = names.filter_map(|name| links.iter().find(|link| link.name == *name));
    for Link { index, name, .. } in interfaces {
        if view::route(customer, Some((far, *index))).is_err_and(|error| is_reverse_path(&error)) {
            let words = format!(
                "{family}: answers that come in on {name} are dropped by the reverse path filter, because the way to \
                 their senders is another (asymmetric routes)"
            );
            return Finding::problem(TO_INTERNET, words)
                .mended_by(format!("sysctl -w net/ipv4/conf/{name}/rp_filter=2"));
        }
    }
    Finding::ok(TO_INTERNET, format!("{family}: leads out of an internet interface, for customers and agent"))
}

/// What the kernel answers where rp_filter would drop the packet; from 6.13 on it says no more than that it would.
fn is_reverse_path(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EXDEV | libc::EINVAL))
}

fn wrong_way(
    host: &Host,
    links: &[Link],
    family: &str,
    packet: &str,
    way: &io::Result<Route>,
) -> Option<Finding> {
    let interfaces = &host.plan.internet_interfaces;
    let first = interfaces.first().map_or("", String::as_str);
    let flag = if family == "IPv4" { "-4" } else { "-6" };
    let mend = format!("ip {flag} route add default dev {first} via ROUTER");
    match way {
        Ok(Route::Local) => None,
        Ok(Route::Out(index)) if is_among(*index, links, interfaces) => None,
        Ok(Route::Out(index)) => Some(Finding::problem(
            TO_INTERNET,
            format!(
                "{family}: {packet} to the internet leave by {}, which is not among steering.internet_interfaces: where \
                 the answers come in nothing brings them to the agent",
                name_of(*index, links)
            ),
        )),
        Ok(Route::Refused) => Some(
            Finding::problem(
                TO_INTERNET,
                format!("{family}: {packet} to the internet have a route to nowhere"),
            )
            .mended_by(mend),
        ),
        Err(error) if is_reverse_path(error) => None,
        Err(error) => Some(
            Finding::problem(
                TO_INTERNET,
                format!("{family}: {packet} have no route to the internet: {error}"),
            )
            .mended_by(mend),
        ),
    }
}

fn is_among(index: u32, links: &[Link], names: &[String]) -> bool {
    links.iter().any(|link| link.index == index && names.contains(&link.name))
}

fn name_of(index: u32, links: &[Link]) -> String {
    let link = links.iter().find(|link| link.index == index);
    link.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
}

/// Rules and routes of steering, and those of others.
fn policy_rules(host: &Host, found: &Inspection) -> Vec<Finding> {
    let mut findings = Vec::new();
    if found.table_in_use {
        let table = host.plan.table;
        let words =
            format!("routing table {table} has routes of somebody else: choose another steering.table");
        findings.push(Finding::problem(RULES, words));
    }
    for rule in &found.foreign {
        let finding = if rule.is_first {
            let words = "a rule of somebody else comes before weir's, and may lead marked packets elsewhere";
            Finding::problem(RULES, words)
        } else {
            let words =
                "a rule of somebody else has weir's mark in it: choose another steering.mark, or remove it";
            Finding::warning(RULES, words)
        };
        findings.push(finding.mended_by(&rule.deletion));
    }
    match (host.agent.is_some(), found.present.is_empty()) {
        (true, _) => findings.extend(found.missing.iter().map(|entry| {
            let words =
                format!("the agent runs, and this is missing (it puts it back within a second): {entry}");
            Finding::problem(RULES, words)
        })),
        (false, false) => {
            let effect = match host.plan.when_agent_dies {
                WhenAgentDies::Open => "inert",
                WhenAgentDies::Closed => "dropping customers' new connections",
            };
            let words = format!("left by an agent that is dead, {effect}: {}", found.present.join("; "));
            findings.push(Finding::warning(RULES, words).mended_by("weir-agent cleanup"));
        }
        (false, true) => {}
    }
    if findings.is_empty() {
        findings.push(Finding::ok(RULES, "nobody else's come in between"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_their_prefix() {
        let all =
            |text: &str| addresses(text.parse().unwrap()).map(|one| one.to_string()).collect::<Vec<_>>();
        assert_eq!(all("10.1.0.0/16"), ["10.1.255.254", "10.1.255.253", "10.1.255.252"]);
        assert_eq!(all("10.1.0.9/32"), ["10.1.0.9"]);
        assert_eq!(all("10.1.0.8/31"), ["10.1.0.9", "10.1.0.8"]);
        assert_eq!(all("fd01::/126"), ["fd01::2", "fd01::1", "fd01::"]);
        assert_eq!(all("0.0.0.0/0").len(), 3);
    }

    #[test]
    fn interfaces_that_cannot_serve_are_named() {
        let link = |index, name: &str, is_up, master: Option<u32>| Link {
            index,
            name: name.into(),
            is_up,
            is_running: is_up,
            master,
            is_port: master.is_some(),
            ..Link::default()
        };
        let links =
            [link(2, "br0", true, None), link(3, "eth0", true, Some(2)), link(4, "eth1", false, None)];
        let words = |name| interface("customer_interfaces", name, &links).map(|finding| finding.words);
        assert_eq!(words("br0"), None);
        assert!(words("eth0").unwrap().contains("a port of br0"));
        assert!(words("eth1").unwrap().contains("is down"));
        assert!(words("eth9").unwrap().contains("there are br0, eth0, eth1"));
    }
}
