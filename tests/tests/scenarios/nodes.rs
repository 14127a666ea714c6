//! Filter nodes that die.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use nix::sys::signal::Signal;
use weir_tests::components::{
    AgentConfig, Backend, FILTER_PORT, FilterConfig, Postfix, WeirAgent, WeirFilter,
};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::smtp::{Client, Gate, Reply, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(
    one_node_killed_and_mail_is_still_judged,
    nodes_are_asked_over_ipv6,
    nodes_die_by_turns_and_no_customer_sees_it,
    without_nodes_mail_is_deferred,
    without_nodes_mail_is_accepted_if_so_configured,
    a_full_node_is_waited_for,
    who_makes_nodes_fail_waits_and_nobody_else_does,
    a_message_goes_to_the_node_that_has_what_it_needs,
    connections_are_ready_before_they_are_needed,
    silence_on_a_connection_that_was_ready_is_followed_by_a_new_one,
    a_drained_node_finishes_what_it_has,
    a_name_that_gets_another_address_is_followed,
    who_would_wait_too_long_is_deferred_and_never_accepted,
);

fn one_node_killed_and_mail_is_still_judged(backend: Backend) -> Result<()> {
    Lab::run("one-node", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        // Each in turn is the one that is left.
        for dead in 0..2 {
            let mut filters = WeirFilter::start_both(&lab.filter, |config| config)?;
            let before = agent.messages().len();
            filters[dead].kill()?;
            for family in Family::BOTH {
                send(lab, family)?.expect(250)?;
            }
            agent.wait_message("lines of both messages", |_| agent.messages().len() == before + 2)?;
            let lines = agent.messages();
            for line in &lines[before..] {
                assert_eq!(line.field("verdict"), "accept");
                filters[1 - dead].wait_message(&line.field("id"))?;
            }
        }
        Ok(())
    })
}

/// A node that was restarted has closed what was kept ready, and no message notices.
fn connections_are_ready_before_they_are_needed(backend: Backend) -> Result<()> {
    Lab::run("warm", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let mut config = AgentConfig::new(backend);
        config.nodes.truncate(1);
        let mut filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        let ready = |count: u64| {
            wait_until(&format!("{count} connections to be ready"), PATIENCE, || {
                Ok(WeirAgent::status(&lab.gateway)?["warm_connections"] == count)
            })
        };
        for restarted in [false, false, true] {
            if restarted {
                filters[0].kill()?;
                filters[0] = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0))?;
            }
            send(lab, Family::V4)?.expect(250)?;
            ready(1)?;
        }
        agent.wait_message("lines of all messages", |_| agent.messages().len() == 3)?;
        for line in agent.messages() {
            assert_eq!(line.field("verdict"), "accept");
            assert!(!line.has("node_failures"), "{line:?}");
        }
        ready(0)
    })
}

/// The node may have vanished without a word: the message does not wait for it as for an answer, and stays with it.
fn silence_on_a_connection_that_was_ready_is_followed_by_a_new_one(backend: Backend) -> Result<()> {
    Lab::run("warm-silent", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let mut config = AgentConfig::new(backend);
        config.nodes.truncate(1);
        config.filter_lines = "connect_timeout = 1\nwarm_connections = 1\nprobe_interval = 600".into();
        let mut filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        send(lab, Family::V4)?.expect(250)?;
        let node = || Ok::<_, anyhow::Error>(WeirAgent::status(&lab.gateway)?["nodes"][0].clone());
        wait_until("a connection to be ready", PATIENCE, || {
            Ok(WeirAgent::status(&lab.gateway)?["warm_connections"] == 1)
        })?;
        let connections =
            || lab.gateway.sh("ss -Htn state established 'dport = :10025' | awk '{ print $3 }'");
        let before = connections()?;
        filters[0].process().signal(Signal::SIGSTOP)?;
        thread::scope(|scope| {
            let message = scope.spawn(|| send(lab, Family::V4)?.expect(250));
            wait_until("a new connection in place of the one that was ready", PATIENCE, || {
                let now = connections()?;
                Ok(now.lines().any(|line| !before.contains(line))
                    && !before.lines().any(|line| now.contains(line)))
            })?;
            let now = node()?;
            ensure!(now["in_flight"] == 1 && now["failures"] == 0, "the node is said to have: {now}");
            filters[0].process().signal(Signal::SIGCONT)?;
            message.join().map_err(|_| anyhow!("the customer panicked"))?
        })?;
        agent.wait_message("both messages' lines", |_| agent.messages().len() == 2)?;
        assert!(agent.messages().iter().all(|line| !line.has("node_failures")));
        Ok(())
    })
}

/// Both nodes fail on a message: its customer waits before nodes are asked about his next one, and others do not.
fn who_makes_nodes_fail_waits_and_nobody_else_does(backend: Backend) -> Result<()> {
    Lab::run("suspect", NarrowLink::Nowhere, |lab| {
        let destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let config = AgentConfig::new(backend);
        let failing = |address| {
            Server::start_at(&lab.filter, address, Script::filter_node().answering(".", "421 4.3.0 failed"))
        };
        let nodes = [failing(config.nodes[0])?, failing(config.nodes[1])?];
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        let (customer, other) = (Family::V4.customer(), Family::V4.other_customer());
        let asked =
            || nodes.iter().flat_map(Server::sessions).filter(|session| !session.messages.is_empty()).count();
        let says = |from, text: &str| -> Result<()> {
            let reply = send_from(lab, Family::V4, from)?.expect(451)?;
            ensure!(reply.text().contains(text), "{}, not {text:?}", reply.text());
            Ok(())
        };
        for round in 1..=2 {
            // The pauses are a second and two.
            wait_until("the pause to be over", PATIENCE, || {
                let said = send_from(lab, Family::V4, customer)?.expect(451)?;
                Ok(said.text().contains("failed twice on this message"))
            })?;
            ensure!(asked() == 2 * round, "{} messages at the nodes", asked());
            says(customer, "failed on earlier messages of this customer")?;
        }
        ensure!(asked() == 4, "nodes were asked about a message that had to wait");
        says(other, "failed twice on this message")?;
        ensure!(WeirAgent::status(&lab.gateway)?["suspect_customers"] == 2);
        ensure!(destination.sessions().iter().all(|session| session.messages.is_empty()), "delivered");
        agent.stop()
    })
}

/// Customers send without a pause while one node after the other is killed and started again.
fn nodes_die_by_turns_and_no_customer_sees_it(backend: Backend) -> Result<()> {
    const CUSTOMERS: usize = 8;
    const DEATHS: usize = 8;
    Lab::run("by-turns", NarrowLink::Nowhere, |lab| {
        let mut filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let mut config = AgentConfig::new(backend);
        config.filter_lines = "probe_interval = 1".into();
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        let (over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let customer = || -> Result<()> {
                while !over.load(Relaxed) {
                    send(lab, Family::V4)?.expect(250)?;
                    sent.fetch_add(1, Relaxed);
                }
                Ok(())
            };
            let customers: Vec<_> = (0..CUSTOMERS).map(|_| scope.spawn(customer)).collect();
            let killed =
                (0..DEATHS).try_for_each(|death| kill_and_start(lab, &mut filters[death % 2], &sent));
            over.store(true, Relaxed);
            for customer in customers {
                customer.join().map_err(|_| anyhow!("a customer panicked"))??;
            }
            killed
        })?;
        let arrived: usize = destination.sessions().iter().map(|session| session.messages.len()).sum();
        let sent = sent.into_inner();
        eprintln!("{sent} messages sent while nodes were killed {DEATHS} times, {arrived} arrived");
        ensure!(arrived == sent, "{sent} messages were acknowledged, {arrived} arrived");
        Ok(())
    })
}

/// Under load, and waits until the node has its part of it again.
fn kill_and_start(lab: &Lab, filter: &mut WeirFilter, sent: &AtomicUsize) -> Result<()> {
    filter.kill()?;
    let before = sent.load(Relaxed);
    wait_until("messages that are judged by the other node", PATIENCE, || {
        Ok(sent.load(Relaxed) > before + 50)
    })?;
    *filter = WeirFilter::start(&lab.filter, filter.node(), &FilterConfig::node(filter.node()))?;
    wait_until("messages at the node that came back", PATIENCE, || Ok(filter.messages().len() > 20))
}

/// The agent speaks to its nodes over IPv6 alone, about customers of both families.
fn nodes_are_asked_over_ipv6(backend: Backend) -> Result<()> {
    Lab::run("nodes-v6", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut config = AgentConfig::new(backend);
        config.nodes = [0, 1].map(|node| (Family::V6.filter_node(node), FILTER_PORT).into()).to_vec();
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        for (number, family) in Family::BOTH.into_iter().enumerate() {
            send(lab, family)?.expect(250)?;
            agent.wait_message("the message's line", |_| agent.messages().len() == number + 1)?;
            let line = &agent.messages()[number];
            let judge = filters.iter().find(|filter| {
                line.field("node") == format!("[{}]:{FILTER_PORT}", Family::V6.filter_node(filter.node()))
            });
            ensure!(judge.is_some(), "{line:?}");
            if let Some(judge) = judge {
                let judged = judge.wait_message(&line.field("id"))?;
                ensure!(judged.field("customer").contains(&family.customer().to_string()), "{judged:?}");
            }
        }
        agent.stop()
    })
}

fn without_nodes_mail_is_deferred(backend: Backend) -> Result<()> {
    Lab::run("no-node-defer", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        for mut filter in filters {
            filter.kill()?;
        }
        for family in Family::BOTH {
            let reply = send(lab, family)?.expect(451)?;
            let line = agent.wait_message("the deferred message's line", |line| {
                reply.text().contains(&line.field("id"))
            })?;
            assert_ne!(line.field("verdict"), "accept");
        }
        assert!(destination.stored_users()?.is_empty());
        // A node that comes back is used again.
        let _back = WeirFilter::start_both(&lab.filter, |config| config)?;
        wait_until("mail to be accepted again", PATIENCE, || Ok(send(lab, Family::V4)?.code == 250))
    })
}

fn without_nodes_mail_is_accepted_if_so_configured(backend: Backend) -> Result<()> {
    Lab::run("no-node-accept", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend).accepting_without_nodes())?;
        for family in Family::BOTH {
            send(lab, family)?.expect(250)?;
        }
        destination.wait_stored("v4")?;
        let stored = destination.wait_stored("v6")?;
        assert!(!stored.came_by_tls(), "it went through weir, without its verdict: {}", stored.trace());
        Ok(())
    })
}

fn a_full_node_is_waited_for(backend: Backend) -> Result<()> {
    beside_a_full_node("full-wait", backend, 60, |lab, gate| {
        thread::scope(|scope| {
            let second = scope.spawn(|| send(lab, Family::V4));
            wait_until("the second message to wait", PATIENCE, || {
                Ok(WeirAgent::status(&lab.gateway)?["waiting_for_a_node"] == 1)
            })?;
            gate.open();
            second.join().map_err(|_| anyhow!("the second customer panicked"))??.expect(250)
        })
    })
}

fn a_drained_node_finishes_what_it_has(backend: Backend) -> Result<()> {
    Lab::run("drain", NarrowLink::Nowhere, |lab| {
        let config = AgentConfig::new(backend);
        let gate = Gate::closed();
        let start = |node: usize, gate: &Gate| {
            Server::start_at(&lab.filter, config.nodes[node], Script::filter_node().behind(gate))
        };
        let nodes = [start(0, &gate)?, start(1, &gate)?];
        let _destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        let in_flight = |node: usize| {
            let status = WeirAgent::status(&lab.gateway)?;
            Ok::<_, anyhow::Error>(status["nodes"][node]["in_flight"].as_u64().unwrap_or(0))
        };
        let bodies = |node: usize| -> usize {
            nodes[node].sessions().iter().map(|session| session.messages.len()).sum()
        };
        thread::scope(|scope| {
            let first = scope.spawn(|| send(lab, Family::V4));
            let worked = (|| {
                wait_until("the first message at a node", PATIENCE, || {
                    Ok(in_flight(0)? + in_flight(1)? == 1)
                })?;
                let busy = usize::from(in_flight(1)? == 1);
                let name = config.nodes[busy].to_string();
                let drained = WeirAgent::command(&lab.gateway, &["drain", &name])?;
                ensure!(drained.success && drained.output.contains("still has 1"), "{}", drained.output);
                let other = config.nodes[1 - busy].to_string();
                let last = WeirAgent::command(&lab.gateway, &["drain", &other])?;
                ensure!(!last.success && last.output.contains("the last node"), "{}", last.output);
                Ok((busy, name))
            })();
            gate.open();
            first.join().map_err(|_| anyhow!("the first customer panicked"))??.expect(250)?;
            let (busy, name) = worked?;
            for _ in 0..5 {
                send(lab, Family::V4)?.expect(250)?;
            }
            ensure!((bodies(busy), bodies(1 - busy)) == (1, 5), "{} and {}", bodies(0), bodies(1));
            let again = WeirAgent::command(&lab.gateway, &["undrain", &name])?;
            ensure!(again.success, "{}", again.output);
            wait_until("a message at the node again", PATIENCE, || {
                send(lab, Family::V4)?.expect(250)?;
                Ok(bodies(busy) > 1)
            })
        })
    })
}

fn a_name_that_gets_another_address_is_followed(backend: Backend) -> Result<()> {
    const NAME: &str = "filter.provider.test";
    Lab::run("node-name", NarrowLink::Nowhere, |lab| {
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let is_now =
            |node: u8| lab.gateway.write("/etc/hosts", format!("{} {NAME}\n", Family::V4.filter_node(node)));
        is_now(0)?;
        let mut config = AgentConfig::new(backend);
        config.nodes.truncate(1);
        config.filter_lines = "resolve_interval = 1".into();
        let text = config.to_toml().replace(&config.nodes[0].ip().to_string(), NAME);
        let agent = WeirAgent::start_with(&lab.gateway, &text)?;
        for node in 0..2 {
            is_now(node)?;
            let address = Family::V4.filter_node(node).to_string();
            wait_until("the name's address among the nodes", PATIENCE, || {
                let nodes = WeirAgent::status(&lab.gateway)?["nodes"].clone();
                let only = nodes.as_array().is_some_and(|nodes| nodes.len() == 1);
                Ok(only && nodes[0]["address"].as_str().is_some_and(|node| node.starts_with(&address)))
            })?;
            let before = agent.messages().len();
            send(lab, Family::V4)?.expect(250)?;
            agent.wait_message("the message's line", |_| agent.messages().len() > before)?;
            let line = &agent.messages()[before];
            filters[usize::from(node)].wait_message(&line.field("id"))?;
            ensure!(line.field("node").starts_with(&address), "{line:?}");
        }
        Ok(())
    })
}

/// Too much to do is no absence: `when_unavailable = "accept"` does not count.
fn who_would_wait_too_long_is_deferred_and_never_accepted(backend: Backend) -> Result<()> {
    beside_a_full_node("full-defer", backend, 1, |lab, gate| {
        let reply = send(lab, Family::V4)?.expect(451)?;
        ensure!(reply.text().starts_with("4.7.1 mail filter has too much to do"), "{}", reply.text());
        gate.open();
        Ok(reply)
    })
}

/// A node that lacks an extension is not asked in vain, as the probes have seen what each announces.
fn a_message_goes_to_the_node_that_has_what_it_needs(backend: Backend) -> Result<()> {
    Lab::run("node-needs", NarrowLink::Nowhere, |lab| {
        let config = AgentConfig::new(backend);
        let plain = Script::filter_node().answering(
            "EHLO",
            "250-filter.provider.test\r\n250-8BITMIME\r\n250 XCLIENT NAME ADDR PORT PROTO HELO",
        );
        let plain = Server::start_at(&lab.filter, config.nodes[0], plain)?;
        let other = Server::start_at(&lab.filter, config.nodes[1], Script::filter_node())?;
        let offers = Script::default().answering("EHLO", "250-mx.destination.test\r\n250 SMTPUTF8");
        let _destination = Server::start(&lab.internet, Family::V4.destination(), offers)?;
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        let probed = |node: &Server| node.any(|session| session.commands.iter().any(|said| said == "QUIT"));
        wait_until("the probes of both nodes", PATIENCE, || Ok(probed(&plain) && probed(&other)))?;
        // Those who ask for nothing go to both.
        let customer = format!("ADDR={} ", Family::V4.customer());
        let asked = |node: &Server| {
            let of_customer = |said: &String| said.starts_with("XCLIENT") && said.contains(&customer);
            node.sessions_that(|session| session.commands.iter().any(of_customer)).len()
        };
        wait_until("messages at both nodes", PATIENCE, || {
            send(lab, Family::V4)?.expect(250)?;
            Ok(asked(&plain) > 0 && asked(&other) > 0)
        })?;
        let before = asked(&plain);
        for _ in 0..20 {
            let to = (Family::V4.destination(), 25).into();
            let mut client = Client::connect_from(&lab.customer, Family::V4.customer(), to)?;
            client.greet("mail.customer.test")?;
            client.command("MAIL FROM:<sender@customer.test> SMTPUTF8")?.expect(250)?;
            client.command("RCPT TO:<user@v4.destination.test>")?.expect(250)?;
            client.command("DATA")?.expect(354)?;
            client.send(b"Subject: needs\r\n\r\nmore\r\n.\r\n")?;
            client.expect(250)?;
        }
        ensure!(asked(&plain) == before, "{:?}", plain.sessions());
        Ok(())
    })
}

/// Does `work` while the only node has a message, and may not have another, until the gate is opened.
fn beside_a_full_node(
    name: &str,
    backend: Backend,
    max_wait: u32,
    work: impl FnOnce(&Lab, &Gate) -> Result<Reply>,
) -> Result<()> {
    Lab::run(name, NarrowLink::Nowhere, |lab| {
        let mut config = AgentConfig::new(backend).accepting_without_nodes();
        config.nodes.truncate(1);
        config.node_settings = "max_in_flight=1";
        config.filter_lines = format!("max_wait = {max_wait}\nverdict_budget = 600");
        let gate = Gate::closed();
        let _node = Server::start_at(&lab.filter, config.nodes[0], Script::filter_node().behind(&gate))?;
        let destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        thread::scope(|scope| {
            let first = scope.spawn(|| send(lab, Family::V4));
            let in_flight = || Ok(WeirAgent::status(&lab.gateway)?["nodes"][0]["in_flight"] == 1);
            let worked = wait_until("the first message at the node", PATIENCE, in_flight)
                .and_then(|()| work(lab, &gate));
            gate.open();
            first.join().map_err(|_| anyhow!("the first customer panicked"))??.expect(250)?;
            let delivered = 1 + usize::from(worked?.code == 250);
            let arrived: usize = destination.sessions().iter().map(|session| session.messages.len()).sum();
            ensure!(arrived == delivered, "{arrived} messages arrived, not {delivered}");
            // The node has room again.
            send(lab, Family::V4)?.expect(250)?;
            Ok(())
        })
    })
}

/// The final reply to a message for the user `v4` or `v6`.
fn send(lab: &Lab, family: Family) -> Result<Reply> {
    send_from(lab, family, family.customer())
}

fn send_from(lab: &Lab, family: Family, from: IpAddr) -> Result<Reply> {
    let mut client = Client::connect_from(&lab.customer, from, (family.destination(), 25).into())?;
    client.greet("mail.customer.test")?;
    let user = format!("{family:?}@v4.destination.test").to_lowercase();
    client.send_message("sender@customer.test", &[&user], HAM)
}
