//! One of them dies or hangs as a new agent takes over, or afterwards.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::components::{AgentConfig, Backend, WeirAgent};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{Way, is_dropped, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

use super::{Ends, SYN_SENT_AGAIN, account, config, exempt_there, set_policy, start, to, under_load};

on_both_back_ends!(
    an_heir_killed_at_any_moment_leaves_the_old_one_in_charge,
    an_heir_that_hangs_keeps_nobody_waiting,
    one_between_is_killed,
    an_agent_killed_while_it_hands_over,
);

/// At most so many moments of a hand-over are tried.
const MOMENTS: usize = 150;

/// kill -9 of the new one, later and later, under load, until one took over and one died as it did, or several took over: that
/// moment is short, and met for certain elsewhere. Each has other
/// exemptions than the one before it, of which nothing is left.
fn an_heir_killed_at_any_moment_leaves_the_old_one_in_charge(backend: Backend) -> Result<()> {
    Lab::run("take-over-killed", NarrowLink::Nowhere, |lab| {
        let ends = Ends::start(lab)?;
        let config = config(backend);
        let other = AgentConfig {
            customer_lines: format!("exempt = [\"{}/32\"]\n", exempt_there()),
            ..self::config(backend)
        };
        lab.customer.sh(&format!("ip addr add {}/32 dev lo", exempt_there()))?;
        let mut agent = start(lab, &config)?;
        set_policy(lab)?;
        let ((killed, late), load) = under_load(lab, |_| {
            let (mut delay, mut killed, mut late, mut took_over) = (Duration::ZERO, 0, 0, 0);
            for number in 1..=MOMENTS {
                let is_other = took_over % 2 == 1;
                let next = if is_other { &config } else { &other };
                let mut heir = WeirAgent::launch_heir(&lab.gateway, number, &next.to_toml())?;
                thread::sleep(delay);
                // Else it could still let the old one go before it dies.
                hold(&heir)?;
                if heir.output().contains("taken over") {
                    heir.signal(Signal::SIGCONT)?;
                    heir.process().wait_output("\"ready\"", PATIENCE)?;
                    let status = agent.process().wait_exit(PATIENCE)?;
                    ensure!(status.success(), "{status}");
                    (agent, took_over) = (heir, took_over + 1);
                    delay = delay.saturating_sub(Duration::from_millis(40));
                } else {
                    let was = agent.output().matches("did not take over").count();
                    heir.process().signal(Signal::SIGKILL)?;
                    heir.process().wait_exit(PATIENCE)?;
                    killed += 1;
                    delay += Duration::from_millis(if took_over == 0 { 9 } else { 3 });
                    ensure!(agent.process().exited()?.is_none(), "the old one has ended: {}", agent.output());
                    if agent.output().matches("did not take over").count() > was {
                        let expected = if is_other { Way::Straight } else { Way::Intercepted };
                        let way = way(&lab.customer, exempt_there(), to().ip())?;
                        ensure!(way == expected, "{way:?}: not as before the heir");
                    }
                }
                late += usize::from(agent.output().contains("it died as it took over"));
                if took_over > 4 || late > 0 && took_over > 0 {
                    break;
                }
            }
            ensure!(killed > 3, "killed {killed} times only");
            Ok((killed, late))
        })?;
        eprintln!("killed {killed} times, {late} as it took over");
        account(&ends, &load, &[])?;
        ensure!(WeirAgent::status(&lab.gateway)?["problems"].as_array().is_some_and(Vec::is_empty));
        agent.stop()?;
        WeirAgent::cleanup(&lab.gateway)
    })
}

/// SIGSTOP, and waits until it has stopped.
fn hold(agent: &WeirAgent) -> Result<()> {
    agent.signal(Signal::SIGSTOP)?;
    let threads = format!("/proc/{}/task", agent.pid());
    wait_until("a stop", PATIENCE, || {
        let is_still = |thread: std::fs::DirEntry| {
            let status = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // One that has ended meanwhile is still too.
            status.is_empty() || status.contains(") T") || status.contains(") Z")
        };
        Ok(std::fs::read_dir(&threads).map_or(true, |all| all.flatten().all(is_still)))
    })
}

/// SIGSTOP of the new one, later and later: new connections are answered at once, by the old one or by the destination.
fn an_heir_that_hangs_keeps_nobody_waiting(backend: Backend) -> Result<()> {
    Lab::run("take-over-hung", NarrowLink::Nowhere, |lab| {
        let _ends = Ends::start(lab)?;
        let config = config(backend);
        let agent = start(lab, &config)?;
        let (from, ip) = (Family::V4.customer(), to().ip());
        let mut delay = Duration::ZERO;
        for number in 1..=MOMENTS {
            let mut heir = WeirAgent::launch_heir(&lab.gateway, number, &config.to_toml())?;
            thread::sleep(delay);
            hold(&heir)?;
            if heir.output().contains("taken over") {
                break;
            }
            let begin = Instant::now();
            way(&lab.customer, from, ip)?;
            let waited = begin.elapsed();
            ensure!(waited < 2 * SYN_SENT_AGAIN, "{waited:?} with an heir that hangs after {delay:?}");
            heir.process().signal(Signal::SIGKILL)?;
            heir.process().wait_exit(PATIENCE)?;
            wait_until("interception", PATIENCE, || Ok(way(&lab.customer, from, ip)? == Way::Intercepted))?;
            delay += Duration::from_millis(9);
        }
        drop(agent);
        WeirAgent::cleanup(&lab.gateway)
    })
}

/// One in the middle is killed: the last still knows of the first, and ends it.
fn one_between_is_killed(backend: Backend) -> Result<()> {
    Lab::run("take-over-between", NarrowLink::Nowhere, |lab| {
        let ends = Ends::start(lab)?;
        let config = config(backend);
        let mut first = start(lab, &config)?;
        let open = || {
            let mut client = Client::connect(&lab.customer, to())?;
            client.greet("writing.customer.test")?;
            client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
            client.command("RCPT TO:<user@destination.test>")?.expect(250)?;
            client.command("DATA")?.expect(354)?;
            anyhow::Ok(client)
        };
        let mut writing = open()?;
        let second = WeirAgent::take_over(&lab.gateway, 1, &config.to_toml())?;
        let _lost = open()?;
        let mut third = WeirAgent::take_over(&lab.gateway, 2, &config.to_toml())?;
        let before = || anyhow::Ok(WeirAgent::status(&lab.gateway)?["before"].clone());
        wait_until("both sessions", PATIENCE, || Ok(before()?["sessions"] == 2))?;
        // Whoever was stopped and goes on has not gone.
        for agent in [&second, &third, &second] {
            agent.signal(Signal::SIGSTOP)?;
            agent.signal(Signal::SIGCONT)?;
        }
        ensure!(before()?["sessions"] == 2, "{}", before()?);
        let known = before()?["pid"].clone();
        second.kill()?;
        wait_until("only the first before", PATIENCE, || {
            let before = before()?;
            Ok(before["sessions"] == 0 && before["pid"].is_u64() && before["pid"] != known)
        })?;
        third.signal(Signal::SIGTERM)?;
        writing.send(b"Subject: in-the-middle\r\n\r\n.\r\n")?;
        writing.expect(250)?;
        for process in [first.process(), third.process()] {
            let status = process.wait_exit(2 * PATIENCE)?;
            ensure!(status.success(), "{status}: {}", process.output());
        }
        ensure!(Ends::arrived(&ends.destination).get("in-the-middle") == Some(&1), "not delivered once");
        WeirAgent::cleanup(&lab.gateway)
    })
}

/// kill -9 of the old one: the new one is in charge, or fails and says why.
fn an_agent_killed_while_it_hands_over(backend: Backend) -> Result<()> {
    Lab::run("take-over-orphan", NarrowLink::Nowhere, |lab| {
        let _ends = Ends::start(lab)?;
        let config = config(backend);
        let (mut delay, mut in_charge, mut orphans) = (Duration::ZERO, 0, 0);
        for number in 1..=MOMENTS {
            let mut agent = start(lab, &config)?;
            let mut heir = WeirAgent::launch_heir(&lab.gateway, number, &config.to_toml())?;
            thread::sleep(delay);
            // It may have handed over and ended by then.
            if agent.process().exited()?.is_none() {
                agent.signal(Signal::SIGKILL)?;
                agent.process().wait_exit(PATIENCE)?;
            }
            wait_until("an end or a beginning", PATIENCE, || {
                Ok(heir.output().contains("\"ready\"") || heir.process().exited()?.is_some())
            })?;
            match heir.process().exited()? {
                Some(status) => {
                    ensure!(!status.success() && heir.output().contains("weir-agent: "), "{}", heir.output());
                    ensure!(way(&lab.customer, Family::V4.customer(), to().ip())? == Way::Straight);
                }
                None => {
                    wait_until("interception", PATIENCE, || {
                        Ok(way(&lab.customer, Family::V4.customer(), to().ip())? == Way::Intercepted)
                    })?;
                    orphans += usize::from(heir.output().contains("the agent before has died"));
                    heir.stop()?;
                    in_charge += 1;
                }
            }
            if number >= 12 && orphans > 0 {
                break;
            }
            // Not the same moments again.
            delay = if delay > Duration::from_millis(170) {
                delay / 17
            } else {
                delay + Duration::from_millis(15)
            };
        }
        ensure!(in_charge > 0, "none was ever in charge");
        ensure!(orphans > 0, "none had to take the claim of a dead one");
        WeirAgent::cleanup(&lab.gateway)
    })
}

/// The new one dies after it has taken over: the sessions of the old one go on, and the path is open or closed as
/// configured.
#[test]
fn sessions_outlive_an_heir_that_dies() -> Result<()> {
    for closed in [false, true] {
        Lab::run("take-over-heir-dies", NarrowLink::Nowhere, |lab| {
            let ends = Ends::start(lab)?;
            let config = config(Backend::Ebpf);
            let config = if closed { config.closed() } else { config };
            let mut old = start(lab, &config)?;
            let mut open = Client::connect(&lab.customer, to())?;
            open.greet("open.customer.test")?;
            let heir = WeirAgent::take_over(&lab.gateway, 1, &config.to_toml())?;
            old.process().wait_output("handed over", PATIENCE)?;
            heir.kill()?;
            let (from, ip) = (Family::V4.customer(), to().ip());
            if closed {
                ensure!(is_dropped(&lab.customer, from, ip)?, "open");
            } else {
                ensure!(way(&lab.customer, from, ip)? == Way::Straight, "not open");
            }
            open.send_message("a@customer.test", &["user@destination.test"], b"Subject: late\n\nx\n")?
                .expect(250)?;
            ensure!(Ends::arrived(&ends.destination).get("late") == Some(&1), "not delivered");
            // A third starts as if nobody were here, and takes new connections.
            let third = WeirAgent::start(&lab.gateway, &config)?;
            wait_until("interception", PATIENCE, || Ok(way(&lab.customer, from, ip)? == Way::Intercepted))?;
            open.command("QUIT")?.expect(221)?;
            ensure!(old.process().wait_exit(PATIENCE)?.success(), "{}", old.output());
            ensure!(way(&lab.customer, from, ip)? == Way::Intercepted, "the old one's end took it with it");
            third.stop()?;
            WeirAgent::cleanup(&lab.gateway)
        })?;
    }
    Ok(())
}
