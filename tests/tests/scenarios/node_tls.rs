//! TLS between the agent and filter nodes: what is judged stays between them, and a node that cannot show who it is
//! judges nothing.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use weir_tests::components::{
    AgentConfig, Authority, Backend, FILTER_PORT, FilterConfig, Postfix, Spamd, WeirAgent, WeirFilter,
};
use weir_tests::interop::{Connection, Wire};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::{Client, Reply, Script, Server};
use weir_tests::wait::{PATIENCE, wait_for, wait_until};

const CA: &str = "/etc/weir/filter-ca.pem";

/// What nobody between gateway and nodes may read: whose mail it is, envelope, content, verdict.
const SECRETS: [&str; 9] = [
    "XCLIENT",
    "XFORWARD",
    "10.1.0.2",
    "fd01::2",
    "customer.test",
    "destination.test",
    "Subject",
    "minutes",
    "SpamAssassin",
];

on_both_back_ends!(mail_is_judged_in_tls);

/// One node by its IPv4 address, the other by its IPv6 one.
fn mail_is_judged_in_tls(backend: Backend) -> Result<()> {
    Lab::run("node-tls", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        let authority = Authority::new(&lab.filter, "authority")?;
        let start = |node| {
            let config = FilterConfig { smtp_lines: authority.equip(node)?, ..FilterConfig::node(node) };
            WeirFilter::start(&lab.filter, node, &config.asking(spamd.address()))
        };
        let filters = [start(0)?, start(1)?];
        lab.gateway.write(CA, authority.certificate())?;
        let wire = Wire::of_port(&lab.filter, FILTER_PORT)?;
        let config = AgentConfig {
            nodes: vec![node(Family::V4, 0), node(Family::V6, 1)],
            ..asking(backend, &format!("ca_file = {CA:?}"))
        };
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        let probed = |each: SocketAddr| wire.since(0).iter().any(|one| one.server == each && one.is_over());
        wait_until("the probes of both nodes", PATIENCE, || {
            Ok(config.nodes.iter().all(|each| probed(*each)))
        })?;
        for each in WeirAgent::status(&lab.gateway)?["nodes"].as_array().into_iter().flatten() {
            ensure!(
                each["healthy"] == true && each["failures"] == 0 && each["last_failure"].is_null(),
                "{each}"
            );
        }
        for round in 0..4 {
            for family in Family::BOTH {
                let user = format!("user{round}{family:?}").to_lowercase();
                send(lab, family, &user, HAM)?.expect(250)?;
                let stored = destination.wait_stored(&user)?;
                ensure!(stored.came_from(family.customer()), "{}", stored.trace());
                ensure!(stored.as_received() == HAM, "not the same bytes");
                let refusal = send(lab, family, "spam", GTUBE)?.expect(550)?;
                ensure!(refusal.text().contains("SpamAssassin"), "{}", refusal.text());
            }
        }
        ensure!(!destination.stored_users()?.iter().any(|user| user == "spam"), "a refused message arrived");
        for line in agent.messages() {
            let judged =
                filters.iter().flat_map(WeirFilter::messages).find(|one| one.field("id") == line.field("id"));
            let customer = judged.map(|one| one.field("customer")).unwrap_or_default();
            ensure!(
                line.field("customer").contains(&customer) && !customer.is_empty(),
                "{line:?}: {customer}"
            );
        }
        agent.stop()?;
        for (filter, node) in filters.into_iter().zip(&config.nodes) {
            ensure!(!filter.messages().is_empty(), "{node} judged nothing");
            filter.stop()?;
        }
        let connections = wait_for("the ends of all connections", PATIENCE, || Ok(wire.over_since(0)))?;
        // Of each node a probe and messages' one, at the least: they use it one after the other.
        ensure!(connections.len() >= 4, "{} connections", connections.len());
        connections.iter().try_for_each(tells_nothing)
    })
}

/// EHLO and STARTTLS, and then nothing that could be read.
fn tells_nothing(connection: &Connection) -> Result<()> {
    let (clear, secured) = connection.said().split_at(starttls_ends(connection.said()));
    let lines: Vec<_> = clear.split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii).collect();
    ensure!(lines.len() == 3 && lines[0].starts_with(b"EHLO ") && lines[1] == b"STARTTLS", "{connection:?}");
    // A handshake's record (RFC 8446 section 5.1).
    ensure!(secured.first() == Some(&22), "{connection:?}");
    has_no_secret(connection.answered())?;
    has_no_secret(connection.said())
}

fn has_no_secret(octets: &[u8]) -> Result<()> {
    let found = |secret: &&str| octets.windows(secret.len()).any(|part| part == secret.as_bytes());
    let secret = SECRETS.iter().find(|secret| found(secret));
    ensure!(secret.is_none(), "{secret:?} in clear: {}", octets.escape_ascii());
    Ok(())
}

fn starttls_ends(said: &[u8]) -> usize {
    const STARTTLS: &[u8] = b"STARTTLS\r\n";
    said.windows(STARTTLS.len()).position(|part| part == STARTTLS).map_or(0, |at| at + STARTTLS.len())
}

/// It was reached, so that it is not absent: `when_unavailable = "accept"` does not count.
#[test]
fn a_node_that_is_not_trusted_judges_nothing_and_the_message_is_deferred() -> Result<()> {
    Lab::run("node-tls-wrong", NarrowLink::Nowhere, |lab| {
        let (own, other) = (Authority::new(&lab.filter, "own")?, Authority::new(&lab.filter, "other")?);
        let destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let destination6 = Server::start(&lab.internet, Family::V6.destination(), Script::default())?;
        lab.gateway.write(CA, own.certificate())?;
        lab.gateway.write("/etc/weir/other-ca.pem", other.certificate())?;
        let right = format!("ca_file = {CA:?}");
        let named = format!("{right}\nserver_name = \"node.provider.test\"");
        let with_tls = |node| Ok(FilterConfig { smtp_lines: own.equip(node)?, ..FilterConfig::node(node) });
        let in_clear = |node| Ok(FilterConfig::node(node));
        let start = |change: &dyn Fn(u8) -> Result<FilterConfig>| -> Result<[WeirFilter; 2]> {
            Ok([
                WeirFilter::start(&lab.filter, 0, &change(0)?)?,
                WeirFilter::start(&lab.filter, 1, &change(1)?)?,
            ])
        };
        let wrong = |tls: &str, reason: &str, filters: [WeirFilter; 2]| -> Result<()> {
            let wire = Wire::of_port(&lab.filter, FILTER_PORT)?;
            let agent =
                WeirAgent::start(&lab.gateway, &asking(Backend::Ebpf, tls).accepting_without_nodes())?;
            for family in Family::BOTH {
                // Twice: the second message finds nodes that are known to be ill.
                for _ in 0..2 {
                    let reply = send(lab, family, "user", HAM)?.expect(451)?;
                    ensure!(reply.text().starts_with("4.7.1 mail filter failed"), "{}", reply.text());
                }
            }
            for each in WeirAgent::status(&lab.gateway)?["nodes"].as_array().into_iter().flatten() {
                let said = each["last_failure"].as_str().unwrap_or_default();
                ensure!(each["healthy"] == false && said.contains(reason), "{each}, not {reason:?}");
            }
            let line =
                agent.wait_message("the deferred message's line", |line| line.field("verdict") == "defer")?;
            ensure!(line.field("node_failures").contains(reason), "{line:?}, not {reason:?}");
            for filter in filters {
                ensure!(filter.messages().is_empty(), "{:?}", filter.messages());
                filter.stop()?;
            }
            agent.stop()?;
            wire.since(0).iter().try_for_each(|connection| has_no_secret(connection.said()))
        };
        wrong(
            "ca_file = \"/etc/weir/other-ca.pem\"",
            "certificate is not signed by filter.tls.ca_file",
            start(&with_tls)?,
        )?;
        wrong(&named, "certificate is for another name", start(&with_tls)?)?;
        // Such a node announces XCLIENT in clear, which must not be taken up.
        wrong(&right, "does not announce STARTTLS", start(&in_clear)?)?;
        // And an agent that does not ask for TLS finds no XCLIENT, and makes no bounce of it.
        wrong("", "does not announce XCLIENT", start(&with_tls)?)?;
        let sent = [&destination, &destination6].map(|one| one.any(|session| !session.messages.is_empty()));
        ensure!(sent == [false, false], "a message arrived");
        Ok(())
    })
}

/// A node by name shows a certificate for this name; one for its address, which a resolver may say is the name's, will not do.
#[test]
fn a_node_by_name_is_known_by_its_name() -> Result<()> {
    const NAME: &str = "filter.provider.test";
    Lab::run("node-tls-name", NarrowLink::Nowhere, |lab| {
        let authority = Authority::new(&lab.filter, "authority")?;
        let destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let start = |node, issued| {
            let smtp_lines = Authority::install(&lab.filter, node, issued)?;
            WeirFilter::start(&lab.filter, node, &FilterConfig { smtp_lines, ..FilterConfig::node(node) })
        };
        let named = start(0, authority.issue_to(0, &format!("DNS:{NAME}"))?)?;
        let other = start(1, authority.issue(1)?)?;
        let addresses = [0, 1].map(|node| format!("{} {NAME}\n", Family::V4.filter_node(node)));
        lab.gateway.write("/etc/hosts", addresses.concat())?;
        lab.gateway.write(CA, authority.certificate())?;
        let mut config = asking(Backend::Ebpf, &format!("ca_file = {CA:?}"));
        config.nodes.truncate(1);
        let text = config.to_toml().replace(&config.nodes[0].ip().to_string(), NAME);
        let agent = WeirAgent::start_with(&lab.gateway, &text)?;
        let last_failure = |node: &str| {
            let nodes = WeirAgent::status(&lab.gateway)?["nodes"].clone();
            let mut nodes = nodes.as_array().into_iter().flatten();
            let found = nodes.find(|one| one["address"].as_str().is_some_and(|one| one.starts_with(node)));
            Ok::<_, anyhow::Error>(found.map(|one| one["last_failure"].clone()).unwrap_or_default())
        };
        let [first, second] = [0, 1].map(|node| Family::V4.filter_node(node).to_string());
        wait_until("the probe of the node that is another", PATIENCE, || {
            let said = last_failure(&second)?;
            Ok(said.as_str().is_some_and(|said| said.contains("certificate is for another name")))
        })?;
        for _ in 0..5 {
            send(lab, Family::V4, "user", HAM)?.expect(250)?;
        }
        ensure!((named.messages().len(), other.messages().len()) == (5, 0));
        ensure!(last_failure(&first)?.is_null() && destination.any(|session| !session.messages.is_empty()));
        agent.stop()
    })
}

/// The next handshake has the new certificate; while only one of both files is new, the last pair stays.
#[test]
fn a_certificate_is_renewed_without_a_restart() -> Result<()> {
    Lab::run("node-tls-renewed", NarrowLink::Nowhere, |lab| {
        let (old, new) = (Authority::new(&lab.filter, "old")?, Authority::new(&lab.filter, "new")?);
        let destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let config = FilterConfig { smtp_lines: old.equip(0)?, ..FilterConfig::node(0) };
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        lab.gateway.write(CA, [old.certificate(), new.certificate()].concat())?;
        let mut config = asking(Backend::Ebpf, &format!("ca_file = {CA:?}"));
        config.nodes.truncate(1);
        // Each message has a handshake of its own.
        config.filter_lines = format!("warm_connections = 0\n{}", config.filter_lines);
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        send(lab, Family::V4, "user", HAM)?.expect(250)?;
        let ([certificate, key], [certificate_file, key_file]) = (new.issue(0)?, Authority::files(0));
        lab.filter.write(&certificate_file, certificate)?;
        send(lab, Family::V4, "user", HAM)?.expect(250)?;
        ensure!(filter.output().contains("certificate not renewed"), "{}", filter.output());
        lab.filter.write(&key_file, key)?;
        send(lab, Family::V4, "user", HAM)?.expect(250)?;
        ensure!(filter.output().contains("certificate read again"), "{}", filter.output());
        agent.stop()?;
        lab.gateway.write(CA, new.certificate())?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        send(lab, Family::V4, "user", HAM)?.expect(250)?;
        agent.stop()?;
        let arrived: usize = destination.sessions().iter().map(|session| session.messages.len()).sum();
        ensure!(arrived == 4 && filter.messages().len() == 4, "{arrived} arrived");
        filter.stop()
    })
}

/// An agent with this section `[filter.tls]`, or without TLS to nodes.
fn asking(backend: Backend, tls: &str) -> AgentConfig {
    let section = if tls.is_empty() { String::new() } else { format!("[filter.tls]\n{tls}") };
    AgentConfig { filter_lines: section, ..AgentConfig::new(backend) }
}

fn node(family: Family, number: u8) -> SocketAddr {
    (family.filter_node(number), FILTER_PORT).into()
}

/// The final reply to a message for this user at the destination.
fn send(lab: &Lab, family: Family, user: &str, message: &[u8]) -> Result<Reply> {
    let mut client =
        Client::connect_from(&lab.customer, family.customer(), (family.destination(), 25).into())?;
    client.greet("mail.customer.test")?;
    client.send_message("sender@customer.test", &[&format!("{user}@{}", family.domain())], message)
}
