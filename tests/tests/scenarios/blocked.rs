//! Blocked customers: their new connections are refused in the kernel, at the SYN, with or without the agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::probe::{Way, is_dropped, is_reset, time_until, way};
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

const POLICY_FILE: &str = "/var/lib/weir-agent/policy.json";

on_both_back_ends!(
    refused_at_the_syn_and_seen_by_nobody,
    it_ends_by_itself_and_by_command,
    it_survives_whatever_becomes_of_the_agent,
    one_more_among_many_opens_nothing,
    what_makes_no_sense_is_refused,
);

fn refused_at_the_syn_and_seen_by_nobody(backend: Backend) -> Result<()> {
    Lab::run("blocked", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        // The gateway's own mail server, on all addresses: it must never get a customer's connection.
        let own = Server::start(&lab.gateway, Ipv6Addr::UNSPECIFIED.into(), Script::default())?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            let user = format!("open-{family:?}").to_lowercase();
            let mut open = begin(lab, family, &user)?;
            let sessions = sessions(&lab.gateway)?;
            let said = block(&lab.gateway, from, &["--reason", "a bot"])?;
            ensure!(said.contains("are reset until"), "{said}");
            for _ in 0..5 {
                ensure!(is_reset(&lab.customer, from, to)?, "{from} is not refused");
            }
            ensure!(self::sessions(&lab.gateway)? == sessions, "the agent saw something");
            // His neighbour is not he, and what he has open goes on.
            ensure!(way(&lab.customer, family.other_customer(), to)? == Way::Intercepted);
            open.send(b"ended after\r\n.\r\n")?;
            open.expect(250)?;
            destination.wait_stored(&user)?;
            // To the gateway itself is none of our business.
            Client::connect_from(&lab.customer, from, (family.gateway(), 25).into())?.expect(220)?;

            block(&lab.gateway, from, &["--drop"])?;
            ensure!(is_dropped(&lab.customer, from, to)?, "{from} gets an answer");
            let listed = list(&lab.gateway)?;
            let rule = listed.iter().find(|rule| prefix_of(rule) == Some(from)).context("not listed")?;
            ensure!(rule["kind"] == "blocked" && rule["refusal"] == "drop", "{rule}");
            // nftables counts all of them together.
            let counted = rule["connections"].as_u64();
            ensure!(counted.map(|count| count >= 2) == (backend == Backend::Ebpf).then_some(true), "{rule}");
        }
        let steering = WeirAgent::status(&lab.gateway)?["steering"].clone();
        ensure!(steering["blocked_reset"].as_u64() == Some(10), "{steering}");
        ensure!(steering["blocked_dropped"].as_u64() >= Some(4), "{steering}");
        ensure!(own.sessions().len() == Family::BOTH.len(), "only what was meant for it");
        agent.stop()
    })
}

fn it_ends_by_itself_and_by_command(backend: Backend) -> Result<()> {
    Lab::run("blocked-end", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for (family, prefix) in [(Family::V4, "10.1.0.0/24"), (Family::V6, "fd01::/64")] {
            let (from, to) = (family.customer(), family.destination());
            // One rule within another.
            succeed(&lab.gateway, &["block", prefix, "--for", "1h", "--drop"])?;
            block(&lab.gateway, from, &["--for", "2s"])?;
            ensure!(is_reset(&lab.customer, from, to)?, "the longer prefix says how");
            ensure!(is_dropped(&lab.customer, family.other_customer(), to)?, "the shorter one for others");
            // It ends in the log when the kernel has been told; until then the customer is refused in its way.
            let ended = || agent.output().matches("its time is over").count();
            let before = ended();
            wait_until("the end of the longer one", PATIENCE, || Ok(ended() > before))?;
            ensure!(list(&lab.gateway)?.len() == 1);
            ensure!(is_dropped(&lab.customer, from, to)?, "the shorter one holds");
            succeed(&lab.gateway, &["unblock", prefix])?;
            ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "{family:?}");
            block(&lab.gateway, from, &["--for", "2s"])?;
            time_until(Way::Intercepted, &lab.customer, from, to)?;
            wait_until("an empty list", PATIENCE, || Ok(list(&lab.gateway)?.is_empty()))?;
        }
        for said in ["blocked: new connections are refused", "its time is over"] {
            ensure!(agent.output().contains(said), "{said:?} is not in {}", agent.output());
        }
        agent.stop()
    })
}

/// Killed, started again, stopped, in `open` and in `closed`, released, with the other back end.
fn it_survives_whatever_becomes_of_the_agent(backend: Backend) -> Result<()> {
    Lab::run("blocked-survives", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let open = AgentConfig::new(backend);
        let refused = |when: &str| {
            for family in Family::BOTH {
                ensure!(
                    is_reset(&lab.customer, family.customer(), family.destination())?,
                    "{family:?} {when}"
                );
            }
            anyhow::Ok(())
        };
        let others = |expected: Way, when: &str| {
            for family in Family::BOTH {
                let found = way(&lab.customer, family.other_customer(), family.destination())?;
                ensure!(found == expected, "{family:?} {when}: {found:?}");
            }
            anyhow::Ok(())
        };
        let agent = WeirAgent::start(&lab.gateway, &open)?;
        for family in Family::BOTH {
            block(&lab.gateway, family.customer(), &["--for", "1h"])?;
        }
        refused("at once")?;
        succeed(&lab.gateway, &["release"])?;
        refused("while all are released")?;
        others(Way::Straight, "while all are released")?;
        succeed(&lab.gateway, &["release", "--end"])?;
        agent.kill()?;
        refused("with the agent killed in `open`")?;
        others(Way::Straight, "with the agent killed in `open`")?;
        // No SYN that comes meanwhile gets through.
        let agent = thread::scope(|scope| {
            let start = scope.spawn(|| WeirAgent::start(&lab.gateway, &open));
            while !start.is_finished() {
                refused("while the next agent starts")?;
            }
            start.join().map_err(|_| anyhow::anyhow!("the start panicked"))?
        })?;
        refused("after the start")?;
        others(Way::Intercepted, "after the start")?;
        agent.stop()?;
        refused("with the agent stopped in `open`")?;
        others(Way::Straight, "with the agent stopped in `open`")?;
        let agent = WeirAgent::start(&lab.gateway, &open.clone().closed())?;
        refused("in `closed`")?;
        agent.kill()?;
        refused("with the agent killed in `closed`")?;
        let other = match backend {
            Backend::Ebpf => Backend::Tproxy,
            Backend::Tproxy => Backend::Ebpf,
        };
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(other))?;
        refused("with the other back end")?;
        for family in Family::BOTH {
            succeed(&lab.gateway, &["unblock", &family.customer().to_string()])?;
            let found = way(&lab.customer, family.customer(), family.destination())?;
            ensure!(found == Way::Intercepted, "{family:?} is unblocked: {found:?}");
        }
        agent.stop()?;
        others(Way::Straight, "with nobody blocked")
    })
}

/// Large sets keep the kernel busy for a while, in which nobody is let through.
fn one_more_among_many_opens_nothing(backend: Backend) -> Result<()> {
    const MANY: u32 = 30_000;
    Lab::run("blocked-many", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend);
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        succeed(&lab.gateway, &["block", "10.1.16.0"])?;
        agent.stop()?;
        // As if so many commands had been given.
        let mut policy: Value = serde_json::from_str(&lab.gateway.read(POLICY_FILE))?;
        let blocked = policy["rules"].as_array_mut().context("rules in the policy's file")?;
        let one = blocked.first().cloned().context("the block")?;
        for number in 1..MANY {
            let mut other = one.clone();
            let address = u32::from(Ipv4Addr::new(10, 1, 16, 0)) + number;
            other["prefix"] = format!("{}/32", Ipv4Addr::from(address)).into();
            blocked.push(other);
        }
        lab.gateway.write(POLICY_FILE, policy.to_string())?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        ensure!(list(&lab.gateway)?.len() == MANY as usize, "not all are listed");
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let customer = scope.spawn(|| {
                let mut connections = 0;
                while !over.load(Ordering::Relaxed) {
                    let found = way(&lab.customer, from, to)?;
                    ensure!(found == Way::Intercepted, "after {connections} connections: {found:?}");
                    connections += 1;
                    // On one processor nft has a share of it, too.
                    thread::sleep(Duration::from_millis(20));
                }
                Ok(connections)
            });
            let worked = ["block", "unblock", "block"].iter().try_for_each(|command| {
                succeed(&lab.gateway, &[*command, &Family::V4.other_customer().to_string()]).map(drop)
            });
            over.store(true, Ordering::Relaxed);
            let connections = customer.join().map_err(|_| anyhow::anyhow!("the customer panicked"))??;
            ensure!(connections > 0, "no connection was made meanwhile");
            worked
        })?;
        ensure!(is_reset(&lab.customer, Family::V4.other_customer(), to)?, "he is not blocked");
        agent.stop()
    })
}

fn what_makes_no_sense_is_refused(backend: Backend) -> Result<()> {
    Lab::run("blocked-errors", NarrowLink::Nowhere, |lab| {
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for (arguments, words) in [
            (&["block", "10.2.0.0/16"][..], "nothing in common with customers.prefixes"),
            (&["block", "10.1.0.2/24"], "10.1.0.0/24 is meant?"),
            (&["block", "10.1.0.2", "--for", "366d"], "1 s to 365 d"),
            (&["block", "him"], "neither a prefix nor an address"),
            (&["unblock", "10.1.0.2"], "is not blocked"),
            (&["exempt", "0.0.0.0/0"], "weir-agent release"),
            (&["exempt", "10.1.0.0/24", "10.2.0.2"], "a single customer"),
            (&["exempt", "10.1.0.2", "--destination", "10.2.0.2"], "cannot be used with"),
            (&["unexempt", "--destination", "10.2.0.0/24"], "is not an exempt destination"),
        ] {
            let refused = WeirAgent::command(&lab.gateway, arguments)?;
            ensure!(!refused.success && refused.output.contains(words), "{arguments:?}: {}", refused.output);
        }
        ensure!(list(&lab.gateway)?.is_empty());
        agent.kill()?;
        // Who was blocked cannot be known: that is said, and goes on being said.
        lab.gateway.write(POLICY_FILE, b"{\"version\": 1, \"rules\": [{\"kind\": \"blo")?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        ensure!(agent.output().contains("set aside"), "{}", agent.output());
        let status = WeirAgent::status(&lab.gateway)?;
        let problem = status["policy_problem"].as_str().context("no word in the status")?;
        ensure!(problem.contains("who was blocked is not"), "{problem}");
        agent.stop()
    })
}

/// A message as far as its first line.
fn begin(lab: &Lab, family: Family, user: &str) -> Result<Client> {
    let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
    client.greet("mail.customer.test")?;
    client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
    client.command(&format!("RCPT TO:<{user}@v4.destination.test>"))?.expect(250)?;
    client.command("DATA")?.expect(354)?;
    client.send(b"Subject: begun before\r\n\r\n")?;
    Ok(client)
}

fn prefix_of(rule: &Value) -> Option<IpAddr> {
    rule["prefix"].as_str()?.split('/').next()?.parse().ok()
}

fn sessions(gateway: &Host) -> Result<u64> {
    WeirAgent::status(gateway)?["counters"]["sessions"].as_u64().context("no counter")
}

fn list(gateway: &Host) -> Result<Vec<Value>> {
    Ok(serde_json::from_str(&succeed(gateway, &["list", "--json"])?)?)
}

fn block(gateway: &Host, customer: IpAddr, more: &[&str]) -> Result<String> {
    succeed(gateway, &[&["block", &customer.to_string()], more].concat())
}

fn succeed(gateway: &Host, arguments: &[&str]) -> Result<String> {
    let said = WeirAgent::command(gateway, arguments)?;
    ensure!(said.success, "{arguments:?}: {}", said.output);
    Ok(said.output)
}
