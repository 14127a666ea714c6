//! Filter nodes of others, with the real programs: each judges, none delivers.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent};
use weir_tests::foreign::{Amavis, Haraka, Policy, PostfixNode, SINK_PORT};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::{Client, Reply, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

/// The name by which customers greet.
const NAME: &str = "mail.customer.test";

#[test]
fn postfix_judges_and_delivers_nothing() -> Result<()> {
    run("postfix-node", Backend::Ebpf, PostfixNode::address, "", |lab, stage| {
        let policy = Policy::start(&lab.filter, ([127, 0, 0, 1], 10031).into())?;
        let node = PostfixNode::start(&lab.filter)?;
        for family in Family::BOTH {
            let customer = stage.accepted(family)?;
            let (ip, port) = (customer.ip().to_string(), customer.port().to_string());
            let said = format!(": client=unknown[{ip}]:{port}");
            ensure!(node.log().contains(&said), "no line {said}");
            let asked = policy.requests("sender@customer.test");
            let of_him = asked.iter().filter(|request| {
                request["client_address"] == ip
                    && request["client_port"] == port
                    && request["helo_name"] == NAME
            });
            let states: Vec<_> = of_him.map(|request| request["protocol_state"].as_str()).collect();
            ensure!(states == ["RCPT", "END-OF-MESSAGE"], "{states:?} of {asked:?}");

            stage.refused(family, "refused-at-rcpt", HAM, 554, &format!("policy refuses {ip} at RCPT"))?;
            stage.refused(family, "deferred-at-rcpt", HAM, 450, &format!("policy defers {ip} at RCPT"))?;
            stage.refused(
                family,
                "refused-at-end",
                HAM,
                554,
                &format!("policy refuses {ip} at END-OF-MESSAGE"),
            )?;
            stage.refused(
                family,
                "deferred-at-end",
                HAM,
                450,
                &format!("policy defers {ip} at END-OF-MESSAGE"),
            )?;
            let refused = format!("reject: RCPT from unknown[{ip}]");
            ensure!(
                node.log().lines().any(|line| line.contains(&refused) && line.contains(NAME)),
                "no {refused}"
            );
        }
        wait_until("the node's queue to be empty", PATIENCE, || Ok(node.queued()? == 0))?;
        let log = node.log();
        let discarded =
            log.lines().filter(|line| line.contains("postfix/discard") && line.contains("status=sent"));
        ensure!(discarded.count() == stage.accepted.get(), "not each accepted message was discarded once");
        ensure!(!log.contains("status=bounced") && !log.contains("notification"), "the node reports");
        Ok(())
    })
}

#[test]
fn amavis_judges_with_spamassassin_and_delivers_nothing() -> Result<()> {
    run("amavis-node", Backend::Ebpf, Amavis::address, "", |lab, stage| {
        let sink_address = SocketAddr::from(([127, 0, 0, 1], SINK_PORT));
        let announced =
            "250-sink.provider.test\r\n250-8BITMIME\r\n250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE";
        let node = Amavis::start(&lab.filter, &lab.gateway)?;
        // Without its sink it cannot finish: a verdict for later, not a failure of the node.
        for family in Family::BOTH {
            stage.refused(family, "sender", HAM, 451, "id=")?;
        }
        wait_until("both lines", PATIENCE, || Ok(stage.agent.messages().len() == Family::BOTH.len()))?;
        for line in stage.agent.messages() {
            let deferred = line.field("verdict") == "defer" && line.field("filter_reply").starts_with("451 ");
            ensure!(deferred && !line.has("node_failures"), "{line:?}");
        }
        let sink =
            Server::start_at(&lab.filter, sink_address, Script::default().answering("EHLO", announced))?;
        for family in Family::BOTH {
            let customer = stage.accepted(family)?;
            let (ip, port) = (customer.ip(), customer.port());
            // What amavisd was told, it tells the next: so it was told this.
            let names_him = |line: &&String| line.contains(&format!(" PORT={port} "));
            let told = sink.wait_session("XFORWARD at the sink", |session| {
                session.commands.iter().any(|line| names_him(&line))
            })?;
            let address = if ip.is_ipv6() { format!("ADDR=IPv6:{ip} ") } else { format!("ADDR={ip} ") };
            let line = told.commands.iter().find(names_him).context("the line")?;
            for part in [&address, "PROTO=ESMTP ", &format!("HELO={NAME} "), "SOURCE=REMOTE", "IDENT="] {
                ensure!(line.contains(part), "{part} is not in {line}");
            }
            stage.refused(family, "spammer", GTUBE, 554, "5.7.0 Reject, id=")?;
            // By the address that the agent said, this one is judged otherwise.
            stage.refused_from(family.other_customer(), family, "sender", HAM, 554, "5.7.0 Reject, id=")?;
        }
        let injected: usize = sink.sessions().iter().map(|session| session.messages.len()).sum();
        ensure!(
            injected == stage.accepted.get(),
            "{injected} messages came to the sink, {} passed",
            stage.accepted.get()
        );
        for expected in ["Passed CLEAN", "Blocked SPAM"] {
            let line = |line: &&str| line.contains(expected) && line.contains("[10.1.0.2]");
            ensure!(node.log().lines().any(|text| line(&text)), "no {expected} of 10.1.0.2 in amavisd's log");
        }
        Ok(())
    })
}

#[test]
fn haraka_judges_and_delivers_nothing() -> Result<()> {
    run("haraka-node", Backend::Ebpf, Haraka::address, "", |lab, stage| {
        let node = Haraka::start(&lab.filter)?;
        for family in Family::BOTH {
            let ip = stage.accepted(family)?.ip();
            stage.refused(family, "refused-at-rcpt", HAM, 550, &format!("judge refuses {ip} {NAME}"))?;
            stage.refused(family, "deferred-at-rcpt", HAM, 450, &format!("judge defers {ip} {NAME}"))?;
            stage.refused(family, "refused-at-end", HAM, 550, &format!("judge refuses {ip} {NAME}"))?;
            stage.refused(family, "deferred-at-end", HAM, 450, &format!("judge defers {ip} {NAME}"))?;
        }
        let discarded = node.log().matches("discarding message").count();
        ensure!(
            discarded == stage.accepted.get(),
            "{discarded} discarded, {} accepted",
            stage.accepted.get()
        );
        Ok(())
    })
}

/// A decision engine of the Halon kind: its 250 is a decision, and what it says is the customer's answer.
#[test]
fn a_decision_engine_judges_and_delivers_nothing() -> Result<()> {
    // Connections that were kept ready would go on with an engine that is gone: its sessions outlive it.
    run("decision-node", Backend::Tproxy, PostfixNode::address, "warm_connections = 0", |lab, stage| {
        for family in Family::BOTH {
            let address = PostfixNode::address(Family::V4);
            let start = |answer: &str| {
                Server::start_at(&lab.filter, address, Script::filter_node().answering(".", answer))
            };
            let accepting = start("250 2.0.0 Ok: Delete()")?;
            stage.accepted(family)?;
            ensure!(accepting.any(|session| session.messages.len() == 1), "not judged");
            drop(accepting);
            let rejecting = start("554 5.7.1 Rejected by virus filter (m-1)")?;
            stage.refused(family, "sender", HAM, 554, "5.7.1 Rejected by virus filter (m-1)")?;
            drop(rejecting);
            let _deferring = start("421 4.3.2 shutting down")?;
            stage.refused(family, "sender", HAM, 451, "")?;
        }
        Ok(())
    })
}

/// The agent and the ends of a scenario, and how many messages were accepted in it.
struct Stage<'a> {
    lab: &'a Lab,
    destination: Postfix<'a>,
    agent: WeirAgent,
    customer: Postfix<'a>,
    accepted: Cell<usize>,
}

/// Does `work` in a lab with the node that it starts; then nothing may be anywhere that should not be there.
fn run(
    name: &str,
    backend: Backend,
    node: impl Fn(Family) -> SocketAddr,
    filter_lines: &str,
    work: impl FnOnce(&Lab, &Stage<'_>) -> Result<()>,
) -> Result<()> {
    Lab::run(name, NarrowLink::Nowhere, |lab| {
        let mut config = AgentConfig::new(backend);
        config.nodes = vec![node(Family::V4)];
        // A node that was away is asked again at once.
        config.filter_lines = format!("probe_interval = 1\n{filter_lines}");
        let stage = Stage {
            lab,
            destination: Postfix::destination(&lab.internet)?,
            agent: WeirAgent::start(&lab.gateway, &config)?,
            customer: Postfix::customer(&lab.customer)?,
            accepted: Cell::new(0),
        };
        work(lab, &stage)?;
        stage.nothing_else_arrived()
    })
}

impl Stage<'_> {
    /// One message by hand, and one by the customer's Postfix: both arrive. The first one's customer.
    fn accepted(&self, family: Family) -> Result<SocketAddr> {
        let (reply, customer) = self.send(family.customer(), family, "sender", "by-hand", HAM)?;
        reply.expect(250)?;
        self.customer.submit("sender@customer.test", &[&format!("by-postfix@{}", family.domain())], HAM)?;
        self.accepted.set(self.accepted.get() + 2);
        let stored = || Ok(self.destination.stored_users()?.len() == self.accepted.get());
        wait_until(&format!("{} messages at the destination", self.accepted.get()), PATIENCE, stored)?;
        Ok(customer)
    }

    fn refused(&self, family: Family, sender: &str, message: &[u8], code: u16, text: &str) -> Result<()> {
        self.refused_from(family.customer(), family, sender, message, code, text)
    }

    /// The customer hears the node's answer.
    fn refused_from(
        &self,
        from: IpAddr,
        family: Family,
        sender: &str,
        message: &[u8],
        code: u16,
        text: &str,
    ) -> Result<()> {
        let (reply, _) = self.send(from, family, sender, "refused", message)?;
        ensure!(reply.text().contains(text), "not the node's text {text:?}: {}", reply.text());
        reply.expect(code).map(|_| ())
    }

    /// The final reply to a message, and the address and port it was sent from.
    fn send(
        &self,
        from: IpAddr,
        family: Family,
        sender: &str,
        user: &str,
        message: &[u8],
    ) -> Result<(Reply, SocketAddr)> {
        let mut client = Client::connect_from(&self.lab.customer, from, (family.destination(), 25).into())?;
        client.greet(NAME)?;
        let sender = format!("{sender}@customer.test");
        let reply = client.send_message(&sender, &[&format!("{user}@{}", family.domain())], message)?;
        let address = client.local_address()?;
        client.command("QUIT")?.expect(221)?;
        Ok((reply, address))
    }

    /// Each accepted message arrived once, by the agent, and nobody wrote to anybody of any message.
    fn nothing_else_arrived(&self) -> Result<()> {
        let passed = self.agent.messages().iter().filter(|line| line.field("outcome") == "delivered").count();
        ensure!(passed == self.accepted.get(), "{passed} were delivered, {} accepted", self.accepted.get());
        wait_until("an empty queue at the customer's", PATIENCE, || Ok(self.customer.queue()?.is_empty()))?;
        let bounces = self.customer.stored_users()?;
        ensure!(bounces.is_empty(), "bounces for {bounces:?}");
        let mut users = self.destination.stored_users()?;
        users.sort();
        users.dedup();
        ensure!(users == ["by-hand", "by-postfix"], "at the destination: {users:?}");
        ensure!(
            self.destination.stored_users()?.len() == self.accepted.get(),
            "more arrived than was accepted"
        );
        let log = self.destination.log();
        let stranger = log.lines().find(|line| {
            line.contains(" connect from ")
                && !line.contains("[10.1.0.")
                && !line.contains("[fd01::")
                && !line.contains("[127.0.0.1]")
        });
        ensure!(stranger.is_none(), "somebody else came to the destination: {stranger:?}");
        Ok(())
    }
}
