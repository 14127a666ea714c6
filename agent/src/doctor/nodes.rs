//! Filter nodes: names, TLS, and whether they take a customer's identity from this host.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Host;
use super::finding::{Finding, State};
use crate::config::{Mode, Node, Place};
use crate::nodes::{Family, probe};
use crate::tls;

const NAMES: &str = "node_names";
const NODE: &str = "filter_node";
const MIRROR: &str = "mirror_node";
const TLS: &str = "node_tls";

/// A resolver that is silent for so long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// All of it.
pub(super) async fn check(host: &Host) -> Vec<Finding> {
    let filter = &host.config.filter;
    let mut findings = Vec::new();
    let tls = match filter.tls.as_ref().map(tls::Nodes::new).transpose() {
        Ok(tls) => tls,
        Err(error) => return vec![Finding::problem(TLS, format!("{error:#}"))],
    };
    if let Some(tls) = &filter.tls {
        findings.push(Finding::ok(TLS, format!("{} has certificates", tls.ca_file.display())));
    }
    let families: Vec<Family> = [(false, Family::V4), (true, Family::V6)]
        .into_iter()
        .filter_map(|(v6, family)| host.samples.of(v6).map(|_| family))
        .collect();
    let mirrors = filter.mirror.as_ref().map_or(&[][..], |mirror| &mirror.nodes);
    for (check, nodes) in [(NODE, filter.nodes.as_slice()), (MIRROR, mirrors)] {
        let (addresses, unresolved) = resolve(nodes).await;
        findings.extend(unresolved);
        let limit = Duration::from_secs(filter.connect_timeout + filter.reply_timeout);
        let mut probes = JoinSet::new();
        for (address, name) in addresses {
            let peer = tls.as_ref().map(|tls| tls.peer(name.as_deref(), address.ip()));
            probes.spawn(node(check, address, families.clone(), peer, limit));
        }
        let mut found = probes.join_all().await;
        found.sort_by(|a, b| a.words.cmp(&b.words));
        findings.extend(found);
    }
    soften(&mut findings, filter.mode == Mode::Bypass);
    findings
}

/// Nobody's mail waits for a mirror node, or in bypass mode for any.
fn soften(findings: &mut [Finding], all: bool) {
    for finding in findings.iter_mut().filter(|finding| all || finding.check == MIRROR) {
        finding.state = finding.state.min(State::Warning);
    }
}

/// All addresses of the nodes, with the host names that they were found by; what is wrong with names.
async fn resolve(nodes: &[Node]) -> (BTreeMap<SocketAddr, Option<String>>, Vec<Finding>) {
    let (mut addresses, mut findings) = (BTreeMap::new(), Vec::new());
    for node in nodes {
        let name = match &node.place {
            Place::Address(address) => {
                addresses.entry(*address).or_insert(None);
                continue;
            }
            Place::Name(name) => name,
        };
        match timeout(PATIENCE, lookup_host(name.as_str())).await {
            Ok(Ok(found)) => {
                let found: Vec<SocketAddr> = found.collect();
                let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
                findings.push(Finding::ok(NAMES, format!("{name} is {}", shown.join(", "))));
                for address in found {
                    addresses.entry(address).or_insert_with(|| node.place.host().map(str::to_owned));
                }
            }
            Ok(Err(error)) => findings.push(unresolved(name, &error.to_string())),
            Err(_) => findings.push(unresolved(name, "no name server answers")),
        }
    }
    (addresses, findings)
}

fn unresolved(name: &str, reason: &str) -> Finding {
    let words = format!("{name} cannot be resolved: {reason}; write its address, or mend the resolver");
    Finding::problem(NAMES, words)
}

/// As the agent probes it.
async fn node(
    check: &'static str,
    address: SocketAddr,
    families: Vec<Family>,
    peer: Option<tls::Peer>,
    limit: Duration,
) -> Finding {
    for family in families {
        if let Err(error) = probe::probe(address, family, "weir-doctor.invalid", peer.clone(), limit).await {
            return failed(check, address, &error);
        }
    }
    Finding::ok(check, format!("{address} answers, and takes customers' addresses from this host"))
}

fn failed(check: &'static str, address: SocketAddr, error: &probe::Error) -> Finding {
    let finding = |words: &str| Finding::problem(check, format!("{address} {error}{words}"));
    match error {
        probe::Error::NoXclient | probe::Error::XclientRefused(_) | probe::Error::XforwardRefused(_) => {
            finding(
                "; on the node, put this host's address into smtp.proxies (Postfix: smtpd_authorized_xclient_hosts)",
            )
        }
        probe::Error::Silent(_) => finding("; is it overloaded, or a firewall in between?"),
        probe::Error::Dial(_) => finding("; look after the node"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_that_nobody_can_reach_is_a_problem_and_only_a_warning_in_bypass() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let found = node(NODE, address, vec![Family::V4], None, Duration::from_secs(5)).await;
        assert_eq!(found.state, State::Problem, "{found:?}");
        assert!(found.words.contains("not reached"), "{found:?}");
        let mut softened = [found];
        soften(&mut softened, false);
        assert_eq!(softened[0].state, State::Problem);
        soften(&mut softened, true);
        assert_eq!(softened[0].state, State::Warning);
    }

    #[tokio::test]
    async fn names_are_asked_for() {
        let nodes = ["localhost:25", "no.invalid:25"].map(|text| text.parse::<Node>().unwrap());
        let (addresses, findings) = resolve(&nodes).await;
        assert!(addresses.keys().all(|address| address.ip().is_loopback()) && !addresses.is_empty());
        assert_eq!([findings[0].state, findings[1].state], [State::Ok, State::Problem]);
    }
}
