//! Modes that are switched while the agent runs.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, WeirAgent};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::GTUBE;
use weir_tests::smtp::{Client, Reply, Script, Server, Session};
use weir_tests::wait::{PATIENCE, wait_until};

/// What the agent is asked for does not depend on how packets reach it.
const BACKEND: Backend = Backend::Ebpf;

/// A filter node that rejects everything, a destination that takes everything, and an agent between customer and both.
struct Scene<'a> {
    lab: &'a Lab,
    node: Server,
    destination: Server,
    agent: WeirAgent,
}

impl<'a> Scene<'a> {
    fn set(lab: &'a Lab) -> Result<Self> {
        let mut config = AgentConfig::new(BACKEND);
        config.nodes.truncate(1);
        // Probes are no sessions of messages, but the fewer there are the better.
        config.filter_lines = "probe_interval = 3600".into();
        let rejects = Script::filter_node().answering(".", "550 5.7.1 spam");
        Ok(Self {
            lab,
            node: Server::start_at(&lab.filter, config.nodes[0], rejects)?,
            destination: Server::start(&lab.internet, Family::V4.destination(), Script::default())?,
            agent: WeirAgent::start(&lab.gateway, &config)?,
        })
    }

    fn send(&self, from: IpAddr) -> Result<Reply> {
        let to = (Family::V4.destination(), 25).into();
        let mut client = Client::connect_from(&self.lab.customer, from, to)?;
        client.greet("mail.customer.test")?;
        client.send_message("sender@customer.test", &["user@v4.destination.test"], GTUBE)
    }

    fn mode(&self, arguments: &[&str]) -> Result<String> {
        let said = WeirAgent::command(&self.lab.gateway, &[&["mode"], arguments].concat())?;
        ensure!(said.success, "{arguments:?}: {}", said.output);
        Ok(said.output)
    }

    fn switched(&self) -> Result<usize> {
        let status = WeirAgent::status(&self.lab.gateway)?;
        Ok(status["switched_modes"].as_array().map_or(0, Vec::len))
    }
}

fn bodies(server: &Server) -> usize {
    server.sessions().iter().map(|session| session.messages.len()).sum()
}

#[test]
fn in_shadow_mode_spam_passes_and_its_verdict_is_logged() -> Result<()> {
    Lab::run("shadow", NarrowLink::Nowhere, |lab| {
        let scene = Scene::set(lab)?;
        let customer = Family::V4.customer();
        scene.send(customer)?.expect(550)?;
        let said = scene.mode(&["shadow"])?;
        ensure!(said.contains("shadow for all customers") && said.contains("restart"), "{said}");
        scene.send(customer)?.expect(250)?;
        let lines = || scene.agent.messages();
        scene.agent.wait_message("the second message's line", |_| lines().len() == 2)?;
        let line = &lines()[1];
        ensure!(line.field("verdict") == "reject" && line.field("outcome") == "delivered", "{line:?}");
        ensure!((bodies(&scene.node), bodies(&scene.destination)) == (2, 1));
        let words = WeirAgent::command(&lab.gateway, &["status"])?.output;
        ensure!(words.contains("switched modes") && words.contains("shadow"), "{words}");
        scene.mode(&["configured"])?;
        scene.send(customer)?.expect(550)?;
        ensure!(scene.switched()? == 0);
        let output = scene.agent.output();
        for said in ["the mode is switched by the operator's command", "the mode is as configured again"] {
            ensure!(output.contains(said), "{said:?} is not in the log:\n{output}");
        }
        scene.agent.stop()
    })
}

#[test]
fn in_bypass_mode_nobody_is_asked_and_it_ends_by_itself() -> Result<()> {
    Lab::run("bypass", NarrowLink::Nowhere, |lab| {
        let scene = Scene::set(lab)?;
        let customer = Family::V4.customer();
        scene.mode(&["bypass", "--for", "1h"])?;
        scene.send(customer)?.expect(250)?;
        ensure!((bodies(&scene.node), bodies(&scene.destination)) == (0, 1));
        // A session that is open notices; it is told once more for a shorter time.
        let to = (Family::V4.destination(), 25).into();
        let mut open = Client::connect_from(&lab.customer, customer, to)?;
        open.greet("mail.customer.test")?;
        scene.mode(&["bypass", "--for", "1s"])?;
        ensure!(scene.switched()? <= 1, "the later command replaces the earlier one");
        wait_until("the end of the mode", PATIENCE, || Ok(scene.switched()? == 0))?;
        open.send_message("sender@customer.test", &["user@v4.destination.test"], GTUBE)?.expect(550)?;
        ensure!((bodies(&scene.node), bodies(&scene.destination)) == (1, 1));
        ensure!(scene.agent.output().contains("its time is over"), "{}", scene.agent.output());
        scene.agent.stop()
    })
}

#[test]
fn in_bypass_mode_a_large_message_goes_on_while_it_comes() -> Result<()> {
    Lab::run("bypass-large", NarrowLink::Nowhere, |lab| {
        let scene = Scene::set(lab)?;
        scene.mode(&["bypass", "--for", "1h"])?;
        let beginning = b"0123456789 0123456789 0123456789\r\n".repeat(3000);
        let is_there =
            |session: &Session| session.received.len() > beginning.len() && session.messages.is_empty();
        let begin = || {
            let to = (Family::V4.destination(), 25).into();
            let mut client = Client::connect_from(&lab.customer, Family::V4.customer(), to)?;
            client.greet("mail.customer.test")?;
            client.command("MAIL FROM:<sender@customer.test>")?.expect(250)?;
            client.command("RCPT TO:<user@v4.destination.test>")?.expect(250)?;
            client.command("DATA")?.expect(354)?;
            client.send(&beginning)?;
            scene
                .destination
                .wait_session("the beginning", |session| is_there(session) && !session.closed)?;
            Ok::<_, anyhow::Error>(client)
        };
        let mut client = begin()?;
        client.send(b"the end\r\n.\r\n")?;
        client.expect(250)?;
        let whole = [&beginning[..], b"the end\r\n"].concat();
        ensure!(scene.destination.any(|session| session.messages == [whole.clone()]), "not the same octets");
        // Left in its middle it has no end anywhere.
        drop(begin()?);
        scene.destination.wait_session("the end of it", |session| is_there(session) && session.closed)?;
        scene.agent.wait_message("its line", |line| line.field("outcome") == "abandoned")?;
        ensure!((bodies(&scene.node), bodies(&scene.destination)) == (0, 1));
        scene.agent.stop()
    })
}

#[test]
fn for_one_prefix_only() -> Result<()> {
    Lab::run("mode-prefix", NarrowLink::Nowhere, |lab| {
        let scene = Scene::set(lab)?;
        let (one, other) = (Family::V4.customer(), Family::V4.other_customer());
        let prefix = format!("{one}/32");
        let said = scene.mode(&["bypass", "--prefix", &one.to_string()])?;
        ensure!(said.contains(&format!("for {prefix} customers")), "{said}");
        scene.send(one)?.expect(250)?;
        scene.send(other)?.expect(550)?;
        // The longest prefix decides, also against what is switched for all.
        scene.mode(&["bypass"])?;
        scene.mode(&["enforce", "--prefix", &prefix])?;
        scene.send(one)?.expect(550)?;
        scene.send(other)?.expect(250)?;
        scene.mode(&["configured", "--prefix", &prefix])?;
        scene.send(one)?.expect(250)?;
        for (arguments, words) in [
            (&["shadow", "--prefix", "192.0.2.0/24"][..], "nothing in common with customers.prefixes"),
            (&["shadow", "--prefix", "10.1.0.2/24"], "10.1.0.0/24 is meant?"),
            (&["shadow", "--prefix", "me"], "neither a prefix nor an address"),
            (&["shadow", "--for", "8d"], "no time for a mode"),
            (&["shadow", "--for", "0s"], "no time for a mode"),
            (&["configured", "--prefix", &prefix], "no mode was switched"),
            (&["dance"], "invalid value 'dance'"),
        ] {
            let refused = WeirAgent::command(&lab.gateway, &[&["mode"], arguments].concat())?;
            ensure!(!refused.success && refused.output.contains(words), "{arguments:?}: {}", refused.output);
        }
        ensure!(scene.mode(&["configured"])?.contains("all customers"));
        ensure!(scene.mode(&["configured"])?.contains("as configured"));
        scene.send(other)?.expect(550)?;
        scene.agent.stop()
    })
}
