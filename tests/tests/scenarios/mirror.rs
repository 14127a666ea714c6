//! Mirror nodes: asked about mail that has its verdict, and without any influence on it.

use std::thread;

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::components::{
    AgentConfig, Authority, Backend, FilterConfig, LogLine, Spamd, WeirAgent, WeirFilter, log_lines,
};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::{Client, Gate, Reply, Script, Server};
use weir_tests::wait::{PATIENCE, wait_for, wait_until};

/// What becomes of a message after its verdict does not depend on how packets reach the agent.
const BACKEND: Backend = Backend::Ebpf;

/// The first node of the lab judges, the second is asked as a mirror about this share of the messages.
fn mirroring(share: &str, lines: &str) -> AgentConfig {
    let mut config = AgentConfig::new(BACKEND);
    let mirror = config.nodes.split_off(1);
    config.filter_lines =
        format!("{lines}\n[filter.mirror]\nnodes = [\"{}\"]\nshare = {share}\nmax_in_flight = 2", mirror[0]);
    config
}

fn send(lab: &Lab, family: Family, body: &[u8]) -> Result<Reply> {
    let to = (family.destination(), 25).into();
    let mut client = Client::connect_from(&lab.customer, family.customer(), to)?;
    client.greet("mail.customer.test")?;
    client.send_message("sender@customer.test", &[&format!("user@{}", family.domain())], body)
}

fn destinations(lab: &Lab) -> Result<[Server; 2]> {
    let start = |family: Family| Server::start(&lab.internet, family.destination(), Script::default());
    Ok([start(Family::V4)?, start(Family::V6)?])
}

fn arrived(destinations: &[Server]) -> usize {
    destinations.iter().flat_map(Server::sessions).map(|session| session.messages.len()).sum()
}

fn mirror(lab: &Lab) -> Result<Value> {
    Ok(WeirAgent::status(&lab.gateway)?["mirror"].clone())
}

/// Waits until so many were mirrored, agreed, differed, failed and skipped.
fn wait_counted(lab: &Lab, expected: [u64; 5]) -> Result<()> {
    let mut last = Value::Null;
    let counted = wait_until("what mirror nodes were asked", PATIENCE, || {
        last = mirror(lab)?["messages"].clone();
        let names = ["mirrored", "agreed", "differed", "failed", "skipped"];
        Ok(names.map(|name| last[name].as_u64()) == expected.map(Some))
    });
    counted.map_err(|error| anyhow!("{error}: {last}, not {expected:?}"))
}

/// The agent's lines about mirrored messages.
fn lines(agent: &WeirAgent) -> Vec<LogLine> {
    log_lines(&agent.output()).into_iter().filter(|line| line.has("mirror_verdict")).collect()
}

/// The test node is stricter (a limit of one message a minute), and in TLS as the other one: mail passes all the same.
#[test]
fn a_stricter_node_changes_nothing_and_its_verdicts_are_logged() -> Result<()> {
    Lab::run("mirror", NarrowLink::Nowhere, |lab| {
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        let authority = Authority::new(&lab.filter, "authority")?;
        let start = |node, limit| {
            let config = FilterConfig { smtp_lines: authority.equip(node)?, ..FilterConfig::node(node) };
            let config = config.limited_to(limit).asking(spamd.address());
            WeirFilter::start(&lab.filter, node, &config)
        };
        let (judge, test) = (start(0, 1000)?, start(1, 1)?);
        lab.gateway.write("/etc/weir/filter-ca.pem", authority.certificate())?;
        let destinations = destinations(lab)?;
        let mut config = mirroring("1", "");
        config.filter_lines += "\n[filter.tls]\nca_file = \"/etc/weir/filter-ca.pem\"";
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        for family in Family::BOTH {
            send(lab, family, HAM)?.expect(250)?;
        }
        wait_counted(lab, [2, 2, 0, 0, 0])?;
        for family in Family::BOTH {
            send(lab, family, HAM)?.expect(250)?;
            send(lab, family, GTUBE)?.expect(550)?;
        }
        wait_counted(lab, [6, 2, 4, 0, 0])?;
        ensure!(arrived(&destinations) == 4, "{} arrived", arrived(&destinations));
        let node = format!("{}:10025", Family::V4.filter_node(1));
        for line in lines(&agent) {
            let id = line.field("id");
            let (real, mirrored) = (judge.wait_message(&id)?, test.wait_message(&id)?);
            ensure!(line.field("node") == node, "{line:?}");
            ensure!(line.field("real_verdict") == real.field("verdict"), "{line:?}, {real:?}");
            ensure!(line.field("mirror_verdict") == mirrored.field("verdict"), "{line:?}, {mirrored:?}");
            ensure!(real.field("customer") == mirrored.field("customer"), "{real:?}, {mirrored:?}");
            let agree = real.field("verdict") == mirrored.field("verdict");
            ensure!(line.field("agree") == agree.to_string(), "{line:?}");
            ensure!(line.field("mirror_reply").starts_with(if agree { "250 " } else { "451 " }), "{line:?}");
        }
        ensure!(lines(&agent).len() == 6 && agent.messages().len() == 6);
        let status = mirror(lab)?;
        ensure!(status["nodes"][0]["address"] == node && status["nodes"][0]["verdicts"] == 6, "{status}");
        let status = WeirAgent::status(&lab.gateway)?;
        ensure!(status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1), "{status}");
        ensure!(status["spool_memory_bytes"] == 0, "{status}");
        agent.stop()
    })
}

/// Two messages at a time may be mirrored: the third and all that follow are skipped, and nobody waits.
#[test]
fn a_node_that_hangs_delays_nobody_and_further_messages_are_skipped() -> Result<()> {
    Lab::run("mirror-hangs", NarrowLink::Nowhere, |lab| {
        let _judge = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0))?;
        let mut test = WeirFilter::start(&lab.filter, 1, &FilterConfig::node(1))?;
        let destinations = destinations(lab)?;
        let agent = WeirAgent::start(&lab.gateway, &mirroring("1.0", "reply_timeout = 60"))?;
        test.process().signal(Signal::SIGSTOP)?;
        for number in 1..=5 {
            send(lab, Family::V4, HAM)?.expect(250)?;
            ensure!(arrived(&destinations) == number);
        }
        wait_counted(lab, [0, 0, 0, 0, 3])?;
        ensure!(mirror(lab)?["in_flight"] == 2, "{}", mirror(lab)?);
        // Once it goes on they have their verdicts; nothing was lost on the way.
        test.process().signal(Signal::SIGCONT)?;
        wait_counted(lab, [2, 2, 0, 0, 3])?;
        // One that is dead has failed, with the reason.
        test.kill()?;
        send(lab, Family::V4, HAM)?.expect(250)?;
        wait_counted(lab, [3, 2, 0, 1, 3])?;
        let line = &lines(&agent)[2];
        let expected =
            [("mirror_verdict", "none"), ("reason", "no mirror node could be reached"), ("agree", "")];
        for (field, said) in expected {
            ensure!(line.field(field) == said, "{field} is not {said:?}: {line:?}");
        }
        ensure!(line.field("node_failures").contains("connection refused"), "{line:?}");
        agent.stop()
    })
}

/// Neither a customer who needs the room nor a stop waits for a mirror node.
#[test]
fn the_spool_of_a_mirrored_message_is_given_back_when_it_is_needed() -> Result<()> {
    Lab::run("mirror-spool", NarrowLink::Nowhere, |lab| {
        let body = |lines: usize| "of the mirrored message, again and again\n".repeat(lines).into_bytes();
        let gate = Gate::closed();
        let mut config = mirroring("1", "");
        config.spool_lines = "memory_per_message = 0\ndisk_total = 100000".into();
        let judge = Server::start_at(&lab.filter, config.nodes[0], Script::filter_node())?;
        let test = (Family::V4.filter_node(1), judge.address().port()).into();
        let test = Server::start_at(&lab.filter, test, Script::filter_node().behind(&gate))?;
        let destinations = destinations(lab)?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        send(lab, Family::V4, &body(1000))?.expect(250)?;
        ensure!(mirror(lab)?["in_flight"] == 1, "{}", mirror(lab)?);
        ensure!(WeirAgent::status(&lab.gateway)?["spool_disk_bytes"].as_u64() > Some(40_000));
        // More than half is used beside this one.
        send(lab, Family::V4, &body(1000))?.expect(250)?;
        wait_counted(lab, [0, 0, 0, 0, 1])?;
        // Without what the mirror node keeps there is room.
        send(lab, Family::V4, &body(2000))?.expect(250)?;
        wait_counted(lab, [1, 0, 0, 1, 2])?;
        ensure!(lines(&agent)[0].field("reason").starts_with("cut short"), "{:?}", lines(&agent)[0]);
        wait_until("an empty spool", PATIENCE, || {
            Ok(WeirAgent::status(&lab.gateway)?["spool_disk_bytes"] == 0)
        })?;
        // What is under way at a stop is cut, and said.
        send(lab, Family::V4, &body(10))?.expect(250)?;
        test.wait_session("the body's begin", |session| session.commands.contains(&"DATA".to_owned()))?;
        let said = thread::scope(|scope| {
            let log = scope.spawn(|| wait_for("the line", PATIENCE, || Ok(lines(&agent).get(1).cloned())));
            let signalled = agent.signal(Signal::SIGTERM);
            let line = log.join().map_err(|_| anyhow!("the waiting thread panicked"))?;
            signalled.and(line)
        })?;
        ensure!(said.field("reason").starts_with("cut short"), "{said:?}");
        agent.stop()?;
        ensure!(arrived(&destinations) == 4 && test.sessions().iter().all(|one| one.messages.is_empty()));
        Ok(())
    })
}

/// SIGHUP switches it on, to another share, and off.
#[test]
fn mirroring_changes_with_a_reload() -> Result<()> {
    Lab::run("mirror-reload", NarrowLink::Nowhere, |lab| {
        let _judge = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0))?;
        let test = WeirFilter::start(&lab.filter, 1, &FilterConfig::node(1))?;
        let _destinations = destinations(lab)?;
        let on = mirroring("1.0", "");
        let off = AgentConfig { filter_lines: String::new(), ..on.clone() };
        let agent = WeirAgent::start(&lab.gateway, &off)?;
        ensure!(mirror(lab)?.is_null());
        send(lab, Family::V4, HAM)?.expect(250)?;
        let reload = |config: &AgentConfig| -> Result<()> {
            let said = || agent.output().matches("the configuration is reloaded").count();
            let before = said();
            WeirAgent::configure(&lab.gateway, &config.to_toml())?;
            agent.signal(Signal::SIGHUP)?;
            wait_until("the reload", PATIENCE, || Ok(said() > before))
        };
        reload(&on)?;
        send(lab, Family::V4, HAM)?.expect(250)?;
        wait_counted(lab, [1, 1, 0, 0, 0])?;
        reload(&mirroring("0.000001", ""))?;
        for _ in 0..10 {
            send(lab, Family::V4, HAM)?.expect(250)?;
        }
        ensure!(mirror(lab)?["share"] == 0.000_001, "{}", mirror(lab)?);
        reload(&off)?;
        send(lab, Family::V4, HAM)?.expect(250)?;
        ensure!(mirror(lab)?.is_null() && test.messages().len() == 1, "{:?}", test.messages());
        ensure!(!agent.output().contains("needs a restart"), "{}", agent.output());
        agent.stop()
    })
}

/// A name is a filter node's address, or becomes it: that node would count each message twice.
#[test]
fn a_mirror_node_that_is_a_filter_node_by_another_name_is_left_out() -> Result<()> {
    const NAME: &str = "test-node.provider.test";
    Lab::run("mirror-name", NarrowLink::Nowhere, |lab| {
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _destinations = destinations(lab)?;
        let is_now =
            |node: u8| lab.gateway.write("/etc/hosts", format!("{} {NAME}\n", Family::V4.filter_node(node)));
        let wait_for_nodes = |expected: &[u8]| {
            let expected: Vec<_> =
                expected.iter().map(|node| format!("{}:10025", Family::V4.filter_node(*node))).collect();
            wait_until("the mirror nodes", PATIENCE, || {
                let nodes = mirror(lab)?["nodes"].clone();
                let nodes = nodes.as_array().into_iter().flatten();
                Ok(nodes.map(|node| node["address"].clone()).eq(expected.iter().map(String::as_str)))
            })
        };
        is_now(0)?;
        let mut config = mirroring("1", "resolve_interval = 1");
        let test_node = format!("\"{}:10025\"", Family::V4.filter_node(1));
        let names = format!("\"{NAME}:10025\", \"nowhere.provider.test:10025\"");
        config.filter_lines = config.filter_lines.replace(&test_node, &names);
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        let left_out = || agent.output().matches("mirror nodes are left out").count();
        wait_until("the warning", PATIENCE, || Ok(left_out() == 1))?;
        ensure!(agent.output().contains("mirror node's name cannot be resolved"), "{}", agent.output());
        ensure!(!agent.output().contains("filter node's name"), "{}", agent.output());
        send(lab, Family::V4, HAM)?.expect(250)?;
        wait_counted(lab, [1, 0, 0, 1, 0])?;
        is_now(1)?;
        wait_for_nodes(&[1])?;
        send(lab, Family::V4, HAM)?.expect(250)?;
        wait_counted(lab, [2, 1, 0, 1, 0])?;
        let judged = [0, 1].map(|node| filters[node].messages().len());
        ensure!(judged == [2, 1], "{judged:?}");
        is_now(0)?;
        wait_for_nodes(&[])?;
        ensure!(left_out() == 2, "{}", agent.output());
        // The other node judges from now on.
        config.nodes = vec![(Family::V4.filter_node(1), config.nodes[0].port()).into()];
        WeirAgent::configure(&lab.gateway, &config.to_toml())?;
        agent.signal(Signal::SIGHUP)?;
        wait_for_nodes(&[0])?;
        agent.stop()
    })
}
