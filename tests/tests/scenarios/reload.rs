//! SIGHUP: another configuration without a restart.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::Signal;
use weir_tests::components::{AgentConfig, Backend, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::{Client, Reply, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

/// What is reloaded does not depend on how packets reach the agent.
const BACKEND: Backend = Backend::Ebpf;

const RELOADED: &str = "the configuration is reloaded";
const REFUSED: &str = "the configuration has problems";

/// Writes the file, sends SIGHUP, and waits until the agent has said these words once more.
fn reload(lab: &Lab, agent: &mut WeirAgent, text: &str, words: &str) -> Result<()> {
    WeirAgent::configure(&lab.gateway, text)?;
    let said = |agent: &WeirAgent| agent.output().matches(words).count();
    let before = said(agent);
    agent.process().signal(Signal::SIGHUP)?;
    wait_until(words, PATIENCE, || Ok(said(agent) > before))
}

fn send(lab: &Lab, body: &[u8]) -> Result<Reply> {
    let to = (Family::V4.destination(), 25).into();
    let mut client = Client::connect_from(&lab.customer, Family::V4.customer(), to)?;
    client.greet("mail.customer.test")?;
    client.send_message("sender@customer.test", &["user@v4.destination.test"], body)
}

#[test]
fn nodes_come_and_go_under_load_without_an_error() -> Result<()> {
    const CUSTOMERS: usize = 4;
    Lab::run("reload-nodes", NarrowLink::Nowhere, |lab| {
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let both = AgentConfig::new(BACKEND);
        let only = |node: usize| AgentConfig { nodes: vec![both.nodes[node]], ..both.clone() }.to_toml();
        let mut agent = WeirAgent::start_with(&lab.gateway, &only(0))?;
        let (over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
        let judged = |node: usize| filters[node].messages().len();
        let more_at = |node: usize| {
            let before = judged(node);
            wait_until("messages at the node", PATIENCE, || Ok(judged(node) > before + 20))
        };
        thread::scope(|scope| {
            let customer = || -> Result<()> {
                while !over.load(Relaxed) {
                    send(lab, HAM)?.expect(250)?;
                    sent.fetch_add(1, Relaxed);
                }
                Ok(())
            };
            let customers: Vec<_> = (0..CUSTOMERS).map(|_| scope.spawn(customer)).collect();
            let worked = (|| {
                more_at(0)?;
                ensure!(judged(1) == 0, "a node that is not configured was asked");
                for _ in 0..3 {
                    reload(lab, &mut agent, &both.to_toml(), RELOADED)?;
                    more_at(1)?;
                    reload(lab, &mut agent, &only(1), RELOADED)?;
                    more_at(1)?;
                    reload(lab, &mut agent, &only(0), RELOADED)?;
                    more_at(0)?;
                }
                let nodes = WeirAgent::status(&lab.gateway)?["nodes"].clone();
                ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 1), "{nodes}");
                Ok(())
            })();
            over.store(true, Relaxed);
            for customer in customers {
                customer.join().map_err(|_| anyhow!("a customer panicked"))??;
            }
            worked
        })?;
        let arrived: usize = destination.sessions().iter().map(|session| session.messages.len()).sum();
        let sent = sent.into_inner();
        eprintln!("{sent} messages sent while the nodes were changed 9 times, {arrived} arrived");
        ensure!(arrived == sent, "{sent} messages were acknowledged, {arrived} arrived");
        agent.stop()
    })
}

#[test]
fn a_broken_file_changes_nothing_and_a_good_one_what_it_can() -> Result<()> {
    Lab::run("reload", NarrowLink::Nowhere, |lab| {
        let mut config = AgentConfig::new(BACKEND);
        config.nodes.truncate(1);
        let rejects = Script::filter_node().answering(".", "550 5.7.1 spam");
        let _node = Server::start_at(&lab.filter, config.nodes[0], rejects)?;
        let _destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let mut agent = WeirAgent::start(&lab.gateway, &config)?;

        let good = config.to_toml();
        let broken = good
            .replace("when_unavailable = \"defer\"", "mode = \"bypass\"\nwhen_unavailable = \"discard\"")
            .replace("listen_port = 2525", "listen_port = 25");
        reload(lab, &mut agent, &broken, REFUSED)?;
        for key in ["steering.listen_port", "filter.when_unavailable"] {
            ensure!(agent.output().contains(key), "{key} is not named in:\n{}", agent.output());
        }
        send(lab, GTUBE)?.expect(550)?;

        // In a session that is open as well.
        let to = (Family::V4.destination(), 25).into();
        let mut open = Client::connect_from(&lab.customer, Family::V4.customer(), to)?;
        open.greet("mail.customer.test")?;
        let bypass = good
            .replace("when_unavailable = \"defer\"", "mode = \"bypass\"\nwhen_unavailable = \"accept\"")
            .replace("listen_port = 2525", "listen_port = 2526\nmark = 0x10000000");
        reload(lab, &mut agent, &bypass, RELOADED)?;
        open.send_message("sender@customer.test", &["user@v4.destination.test"], GTUBE)?.expect(250)?;
        send(lab, GTUBE)?.expect(250)?;
        let output = agent.output();
        let named = |line: &&str| {
            ["needs a restart", "steering.listen_port", "steering.mark"]
                .iter()
                .all(|word| line.contains(word))
        };
        ensure!(output.lines().any(|line| named(&line)), "what needs a restart is not named:\n{output}");

        // What the operator has switched goes before it; the last word is the file's.
        let switched = WeirAgent::command(&lab.gateway, &["mode", "enforce"])?;
        ensure!(switched.success, "{}", switched.output);
        reload(lab, &mut agent, &bypass, RELOADED)?;
        send(lab, GTUBE)?.expect(550)?;
        ensure!(WeirAgent::command(&lab.gateway, &["mode", "configured"])?.success);
        send(lab, GTUBE)?.expect(250)?;
        reload(lab, &mut agent, &good, RELOADED)?;
        send(lab, GTUBE)?.expect(550)?;
        agent.stop()
    })
}
