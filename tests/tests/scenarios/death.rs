//! Weir dead is not port 25 dead; or it is, where that was chosen.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, is_dropped, time_until, way, way_within};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(
    killed_and_open_within_a_second,
    hung_and_open_within_a_second,
    hung_and_closed,
    busy_is_not_hung,
    stopped_and_open,
    closed_until_cleanup,
    a_port_that_was_just_used_goes_straight,
    a_stop_finishes_what_is_in_flight
);

/// The bound that is promised.
const OPEN_WITHIN: Duration = Duration::from_secs(1);

fn killed_and_open_within_a_second(backend: Backend) -> Result<()> {
    Lab::run("killed", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend);
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            let agent = WeirAgent::start(&lab.gateway, &config)?;
            assert_eq!(way(&lab.customer, from, to)?, Way::Intercepted);
            agent.kill()?;
            let open = time_until(Way::Straight, &lab.customer, from, to)?;
            assert!(open < OPEN_WITHIN, "{family:?} was open after {open:?}");
            // For messages too, not just for greetings.
            let mut client = Client::connect(&lab.customer, (to, 25).into())?;
            client.greet("mail.customer.test")?;
            let user = format!("{family:?}").to_lowercase();
            client
                .send_message("a@customer.test", &[&format!("{user}@v4.destination.test")], HAM)?
                .expect(250)?;
            assert!(destination.wait_stored(&user)?.came_from(from));

            let back = WeirAgent::start(&lab.gateway, &config)?;
            assert_eq!(way(&lab.customer, from, to)?, Way::Intercepted, "after the restart");
            back.stop()?;
        }
        Ok(())
    })
}

/// Stopped as a whole, and with everything stopped but the thread that watches.
fn hung_and_open_within_a_second(backend: Backend) -> Result<()> {
    Lab::run("hung", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            let is_intercepted_again = || time_until(Way::Intercepted, &lab.customer, from, to);
            is_intercepted_again()?;
            agent.process().signal(Signal::SIGSTOP)?;
            let open = last_caught(lab, from, to)?;
            agent.process().signal(Signal::SIGCONT)?;
            assert!(open < OPEN_WITHIN, "{family:?}: a stopped agent was given connections for {open:?}");
            is_intercepted_again()?;

            let frozen = Frozen::but(agent.pid(), "heart")?;
            let open = last_caught(lab, from, to)?;
            drop(frozen);
            assert!(open < OPEN_WITHIN, "{family:?}: a hung agent was given connections for {open:?}");
            is_intercepted_again()?;
        }
        let counters = WeirAgent::status(&lab.gateway)?["steering"].clone();
        assert!(backend == Backend::Tproxy || counters["hung_passed"].as_u64() > Some(0), "{counters}");
        agent.stop()
    })
}

fn hung_and_closed(backend: Backend) -> Result<()> {
    Lab::run("hung-closed", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend).closed())?;
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        time_until(Way::Intercepted, &lab.customer, from, to)?;
        agent.process().signal(Signal::SIGSTOP)?;
        wait_until("connections to be dropped", PATIENCE, || is_dropped(&lab.customer, from, to))?;
        agent.process().signal(Signal::SIGCONT)?;
        time_until(Way::Intercepted, &lab.customer, from, to)?;
        agent.stop()
    })
}

/// Overload must not open the path: a spammer could bring it about.
fn busy_is_not_hung(backend: Backend) -> Result<()> {
    const FLOODERS: usize = 8;
    Lab::run("busy", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut config = AgentConfig::new(backend);
        config.relay_lines = "max_sessions_per_customer = 5".into();
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        let (other, to) = (Family::V4.other_customer(), Family::V4.destination());
        // Answers come back: from now on all are taken.
        ensure!(way(&lab.customer, other, to)? == Way::Intercepted, "not intercepted");
        let over = AtomicBool::new(false);
        let turned_away = thread::scope(|scope| {
            let flood = || {
                lab.customer.in_network(|| {
                    let mut count = 0;
                    while !over.load(Ordering::Relaxed) {
                        count += usize::from(TcpStream::connect((to, 25)).is_ok());
                    }
                    Ok(count)
                })
            };
            let flooders: Vec<_> = (0..FLOODERS).map(|_| scope.spawn(flood)).collect();
            let looked = (0..10).try_for_each(|_| {
                thread::sleep(Duration::from_millis(300));
                // Slow or turned away, perhaps, but never past weir.
                let way = way(&lab.customer, other, to);
                ensure!(!matches!(way, Ok(Way::Straight)), "a connection went straight");
                Ok(())
            });
            over.store(true, Ordering::Relaxed);
            let counts: Result<Vec<usize>> =
                flooders.into_iter().map(|each| each.join().map_err(|_| anyhow!("a panic"))?).collect();
            looked.and(counts)
        })?;
        let status = WeirAgent::status(&lab.gateway)?;
        eprintln!("{turned_away:?} connections, {}", status["steering"]);
        if backend == Backend::Ebpf {
            assert_eq!(status["steering"]["hung_passed"], 0);
            assert_eq!(status["steering"]["no_listener_passed"], 0);
        }
        agent.stop()
    })
}

/// How long from now connections were begun that did not go straight.
fn last_caught(lab: &Lab, from: IpAddr, to: IpAddr) -> Result<Duration> {
    let begin = Instant::now();
    let (mut last, mut straight) = (Duration::ZERO, 0);
    while straight < 5 {
        ensure!(begin.elapsed() < PATIENCE, "connections do not go straight");
        let at = begin.elapsed();
        match way_within(&lab.customer, from, to, Duration::from_millis(200)) {
            Ok(Way::Straight) => straight += 1,
            _ => (last, straight) = (at, 0),
        }
    }
    Ok(last)
}

/// All threads of a process, but those of one name, held by a debugger; released when dropped.
struct Frozen {
    threads: Vec<Pid>,
}

impl Frozen {
    fn but(pid: u32, name: &str) -> Result<Self> {
        let mut threads = Vec::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            if fs::read_to_string(task.path().join("comm"))?.trim() != name {
                threads.push(Pid::from_raw(task.file_name().to_string_lossy().parse()?));
            }
        }
        let frozen = Self { threads };
        for thread in &frozen.threads {
            ptrace::seize(*thread, ptrace::Options::empty())?;
            ptrace::interrupt(*thread)?;
        }
        ensure!(frozen.threads.len() > 1, "process {pid} has no threads to hold");
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for thread in &self.threads {
            // It must have stopped before it can be let go; one that is gone need not.
            let _ = waitpid(*thread, Some(WaitPidFlag::__WALL));
            let _ = ptrace::detach(*thread, None);
        }
    }
}

fn stopped_and_open(backend: Backend) -> Result<()> {
    Lab::run("stopped", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Intercepted);
        }
        agent.stop()?;
        for family in Family::BOTH {
            assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Straight);
        }
        Ok(())
    })
}

/// The agent's sockets of a connection that is over keep its addresses and ports for a minute, though the agent is gone.
fn a_port_that_was_just_used_goes_straight(backend: Backend) -> Result<()> {
    Lab::run("death-port", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        // The doctor's advice is all that it takes.
        WeirAgent::configure(&lab.gateway, &AgentConfig::new(backend).to_toml())?;
        let examined = WeirAgent::command(&lab.gateway, &["doctor", "--config", "/etc/weir/agent.toml"])?;
        let advice = "sysctl -w net.ipv4.tcp_early_demux=0";
        ensure!(examined.output.contains(advice), "{}", examined.output);
        lab.gateway.sh(advice)?;
        // All connections of the customer are from one port.
        lab.customer.sh("echo 40000 40000 >/proc/sys/net/ipv4/ip_local_port_range")?;
        for family in Family::BOTH {
            let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
            let (from, to) = (family.customer(), (family.destination(), 25).into());
            let session = || {
                let mut client = Client::connect_within(&lab.customer, from, to, PATIENCE)?;
                client.greet("mail.customer.test")?;
                let ports = lab.internet.sh("ss -Htn state established '( sport = :25 )'")?;
                client.command("QUIT")?.expect(221)?;
                wait_until("the end of the connection", PATIENCE, || client.is_closed())?;
                Ok::<_, anyhow::Error>(ports.contains(":40000"))
            };
            ensure!(!session()?, "{family:?}: intercepted");
            let left = lab.gateway.sh("ss -Htan '( sport = :25 or dport = :25 )'")?;
            ensure!(left.contains(":40000"), "{family:?}: a socket is left:\n{left}");
            agent.kill()?;
            let begun = Instant::now();
            ensure!(session()?, "{family:?}: straight");
            ensure!(begun.elapsed() < 3 * OPEN_WITHIN, "{family:?}: after {:?}", begun.elapsed());
        }
        Ok(())
    })
}

/// In `closed` a dead and a stopped agent alike leave port 25 shut for customers, and for them only.
fn closed_until_cleanup(backend: Backend) -> Result<()> {
    Lab::run("closed", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend).closed();
        let is_shut = |when: &str| {
            for family in Family::BOTH {
                let to = family.destination();
                assert!(is_dropped(&lab.customer, family.customer(), to)?, "{family:?} {when}");
                assert_eq!(way(&lab.customer, family.outsider(), to)?, Way::Straight, "{family:?} {when}");
            }
            anyhow::Ok(())
        };
        let is_served = || {
            for family in Family::BOTH {
                assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Intercepted);
            }
            anyhow::Ok(())
        };
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        is_served()?;
        agent.kill()?;
        is_shut("after kill -9")?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        is_served()?;
        agent.stop()?;
        is_shut("after a stop")?;
        WeirAgent::cleanup(&lab.gateway)?;
        for family in Family::BOTH {
            assert_eq!(
                way(&lab.customer, family.customer(), family.destination())?,
                Way::Straight,
                "after cleanup"
            );
        }
        Ok(())
    })
}

/// SIGTERM in the middle of a message: nothing new is accepted, this one is delivered.
fn a_stop_finishes_what_is_in_flight(backend: Backend) -> Result<()> {
    Lab::run("in-flight", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        let mut client = Client::connect(&lab.customer, (to, 25).into())?;
        client.greet("mail.customer.test")?;
        client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
        client.command("RCPT TO:<user@v4.destination.test>")?.expect(250)?;
        client.command("DATA")?.expect(354)?;
        client.send(b"Subject: begun before the stop\r\n\r\n")?;
        agent.process().signal(Signal::SIGTERM)?;
        time_until(Way::Straight, &lab.customer, from, to)?;
        wait_until("a closed listener", PATIENCE, || {
            Ok(lab.gateway.sh("ss -Hltn sport = :2525")?.trim().is_empty())
        })?;
        client.send(b"ended after it\r\n.\r\n")?;
        client.expect(250)?;
        destination.wait_stored("user")?;
        drop(client);
        let status = agent.process().wait_exit(2 * PATIENCE)?;
        anyhow::ensure!(status.success(), "{status}");
        Ok(())
    })
}
