//! What floods and shortages do: nobody gets past the filter by them, and only who makes them feels them.

use std::collections::VecDeque;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::unistd::{SysconfVar, sysconf};
use socket2::{Domain, SockRef, Socket, Type};
use weir_tests::components::{AgentConfig, Backend, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, way, way_within};
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(
    all_connections_of_a_flood_are_judged,
    a_full_accept_queue_opens_nothing,
    few_descriptors_are_enough_to_turn_customers_away,
    a_blocked_flood_costs_the_agent_nothing
);

/// The first port that customers' own connections have; the agent's come from `steering.upstream_ports`, below it.
const OWN_PORTS: u16 = 32_768;

/// Connections that one customer has at a time.
const OPEN: usize = 200;
const THREADS: usize = 4;

const FLOOD: usize = 100_000;

/// Connections that came to the destination past the agent.
fn straight(destination: &Server) -> usize {
    destination.sessions_that(|session| session.peer.port() >= OWN_PORTS).len()
}

/// Closed by a reset, so that the port is free at once.
fn abort(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Opens connections as fast as it can, so many at a time, until told to stop; says how many were made.
fn flood(lab: &Lab, to: IpAddr, goes_on: &(dyn Fn() -> bool + Sync)) -> Result<usize> {
    lab.customer.in_network(|| {
        let (mut open, mut made) = (VecDeque::new(), 0);
        while goes_on() {
            if let Ok(stream) = TcpStream::connect_timeout(&SocketAddr::new(to, 25), PATIENCE) {
                abort(&stream);
                made += 1;
                open.push_back(stream);
            }
            if open.len() > OPEN / THREADS {
                open.pop_front();
            }
        }
        Ok(made)
    })
}

/// Has one customer flood while `meanwhile` is done; says how many connections he made.
fn flooded(
    lab: &Lab,
    to: IpAddr,
    goes_on: &(dyn Fn() -> bool + Sync),
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<usize> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| flood(lab, to, goes_on))).collect();
        let outcome = meanwhile();
        let made: Result<Vec<usize>> =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a panic"))?).collect();
        outcome.and(Ok(made?.iter().sum()))
    })
}

/// A message of the other customer's, on its way through weir to the destination.
fn send(lab: &Lab, to: IpAddr) -> Result<()> {
    let mut client = Client::connect_from(&lab.customer, Family::V4.other_customer(), (to, 25).into())?;
    client.greet("mail.customer.test")?;
    client.send_message("a@customer.test", &["user@v4.destination.test"], HAM)?.expect(250)?;
    Ok(())
}

fn all_connections_of_a_flood_are_judged(backend: Backend) -> Result<()> {
    Lab::run("flood", NarrowLink::Nowhere, |lab| {
        let to = Family::V4.destination();
        let destination = Server::start(&lab.internet, to, Script::default())?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut config = AgentConfig::new(backend);
        config.relay_lines = "max_sessions_per_customer = 50".into();
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        // Answers come back: from now on all are taken.
        ensure!(way(&lab.customer, Family::V4.other_customer(), to)? == Way::Intercepted);
        let (left, sent) = (AtomicUsize::new(FLOOD), AtomicUsize::new(0));
        let take =
            || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let made = flooded(lab, to, &take, || {
            while left.load(Ordering::Relaxed) > 0 {
                send(lab, to).context("a message of another customer")?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })?;
        let (past, status) = (straight(&destination), WeirAgent::status(&lab.gateway)?);
        eprintln!(
            "{made} connections of one customer, {past} straight; {sent:?} messages of another; {}",
            status["steering"]
        );
        ensure!(made * 10 > FLOOD * 9, "only {made} connections were made");
        ensure!(past == 0, "{past} connections went past the agent");
        ensure!(sent.into_inner() > 0, "no message of another customer");
        let turned_away = status["counters"]["overload_customer"].as_u64();
        ensure!(turned_away > Some(0), "nobody was turned away: {turned_away:?}");
        agent.stop()
    })
}

/// With so short a queue the kernel itself turns most away; the SYNs are sent again, and judged then.
fn a_full_accept_queue_opens_nothing(backend: Backend) -> Result<()> {
    Lab::run("full-queue", NarrowLink::Nowhere, |lab| {
        let to = Family::V4.destination();
        let destination = Server::start(&lab.internet, to, Script::default())?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        lab.gateway.sh("sysctl -qw net.core.somaxconn=1")?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        ensure!(way(&lab.customer, Family::V4.other_customer(), to)? == Way::Intercepted);
        let overflows = || -> Result<u64> {
            let table = lab.gateway.sh("nstat -asz TcpExtListenOverflows")?;
            let words: Vec<_> = table.lines().last().unwrap_or_default().split_whitespace().collect();
            words.get(1).and_then(|count| count.parse().ok()).context("nstat says something else")
        };
        let over = AtomicBool::new(false);
        flooded(lab, to, &|| !over.load(Ordering::Relaxed), || {
            let outcome = wait_until("a full accept queue", PATIENCE, || Ok(overflows()? > 20));
            over.store(true, Ordering::Relaxed);
            outcome
        })?;
        let past = straight(&destination);
        ensure!(past == 0, "{past} connections went past the agent");
        send(lab, to).context("when the flood is over")?;
        agent.stop()
    })
}

/// However many customers want: what steering and filter nodes need is in reserve.
fn few_descriptors_are_enough_to_turn_customers_away(backend: Backend) -> Result<()> {
    Lab::run("few-descriptors", NarrowLink::Nowhere, |lab| {
        let to = Family::V4.destination();
        let destination = Server::start(&lab.internet, to, Script::default())?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend).to_toml();
        let agent = WeirAgent::start_by(&lab.gateway, &["prlimit", "--nofile=300"], &config)?;
        let (from, other) = (Family::V4.customer(), Family::V4.other_customer());
        ensure!(way(&lab.customer, from, to)? == Way::Intercepted);
        let mut open = Vec::new();
        let refusal = loop {
            ensure!(open.len() < 100, "100 sessions with 300 descriptors");
            let mut client = Client::connect_from(&lab.customer, from, (to, 25).into())?;
            match client.reply()?.code {
                220 => open.push(client),
                code => break code,
            }
        };
        ensure!(refusal == 421 && !open.is_empty(), "{refusal} after {} sessions", open.len());
        // Much longer than a hung agent would be given.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            let mut client = Client::connect_from(&lab.customer, other, (to, 25).into())?;
            client.reply()?.expect(421)?;
        }
        let problems = WeirAgent::status(&lab.gateway)?["problems"].clone();
        ensure!(problems.as_array().is_some_and(Vec::is_empty), "{problems}");
        // A message needs a filter node as well, and a file.
        let mut last = open.pop().context("a session")?;
        last.command("EHLO mail.customer.test")?.expect(250)?;
        let message = [HAM, &b"All work and no play makes Jack a dull boy\n".repeat(100_000)].concat();
        last.send_message("a@customer.test", &["user@v4.destination.test"], &message)?.expect(250)?;
        drop((last, open));
        wait_until("room again", PATIENCE, || Ok(send(lab, to).is_ok()))?;
        let past = straight(&destination);
        ensure!(past == 0, "{past} connections went past the agent");
        agent.stop()
    })
}

/// New connections wait until there are descriptors again, and those that are open go on. (With `tproxy` the heart
/// starts nft(8), and falls silent: docs/operations.md.)
#[test]
fn without_any_descriptor_nothing_goes_straight() -> Result<()> {
    let backend = Backend::Ebpf;
    Lab::run("descriptors", NarrowLink::Nowhere, |lab| {
        let to = Family::V4.destination();
        let destination = Server::start(&lab.internet, to, Script::default())?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let from = Family::V4.customer();
        ensure!(way(&lab.customer, from, to)? == Way::Intercepted);
        let mut early = Client::connect_from(&lab.customer, Family::V4.other_customer(), (to, 25).into())?;
        early.greet("mail.customer.test")?;
        let limit =
            |count: &str| lab.gateway.sh(&format!("prlimit --pid {} --nofile={count}", inner_pid(&agent)?));
        limit("8:")?;
        wait_until("words about it", PATIENCE, || {
            let found = way_within(&lab.customer, from, to, Duration::from_millis(200));
            ensure!(!matches!(found, Ok(Way::Straight)), "a connection went straight");
            Ok(agent.output().contains("connection not accepted"))
        })?;
        // Much longer than a hung agent would be given.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            let found = way_within(&lab.customer, from, to, Duration::from_millis(200));
            ensure!(found.is_err(), "{found:?} without a descriptor");
        }
        early.command("NOOP")?.expect(250)?;
        limit("4096:")?;
        ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "with descriptors again");
        early.send_message("a@customer.test", &["user@v4.destination.test"], HAM)?.expect(250)?;
        let past = straight(&destination);
        ensure!(past == 0, "{past} connections went past the agent");
        agent.stop()
    })
}

/// The agent's process id in the gateway's own process namespace.
fn inner_pid(agent: &WeirAgent) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).context("no NSpid")?;
    Ok(line.split_whitespace().last().context("no process id")?.to_owned())
}

/// What it takes of the processors.
fn cpu_time(agent: &WeirAgent) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |index: usize| -> Result<u64> { Ok(fields.get(index).context("no time")?.parse()?) };
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no tick")?;
    Ok(Duration::from_millis((field(11)? + field(12)?) * 1000 / u64::try_from(per_second)?))
}

/// SYNs from this address, as fast as they can be made, until told to stop.
fn syns(lab: &Lab, from: IpAddr, to: IpAddr, over: &AtomicBool) -> Result<u64> {
    lab.customer.in_network(|| {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            let socket = Socket::new(Domain::for_address((to, 25).into()), Type::STREAM.nonblocking(), None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            // What becomes of it is nothing to us.
            let _ = socket.connect(&SocketAddr::new(to, 25).into());
            count += 1;
        }
        Ok(count)
    })
}

fn a_blocked_flood_costs_the_agent_nothing(backend: Backend) -> Result<()> {
    const SPAN: Duration = Duration::from_secs(3);
    Lab::run("blocked-flood", NarrowLink::Nowhere, |lab| {
        let to = Family::V4.destination();
        let destination = Server::start(&lab.internet, to, Script::default())?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let (from, other) = (Family::V4.customer(), Family::V4.other_customer());
        ensure!(way(&lab.customer, other, to)? == Way::Intercepted);
        let said = WeirAgent::command(&lab.gateway, &["block", &from.to_string(), "--drop"])?;
        ensure!(said.success, "{}", said.output);
        let over = AtomicBool::new(false);
        let spent = |span: Duration| -> Result<Duration> {
            let before = cpu_time(&agent)?;
            thread::sleep(span);
            Ok(cpu_time(&agent)?.saturating_sub(before))
        };
        let quiet = spent(SPAN)?;
        let sessions = || -> Result<u64> {
            WeirAgent::status(&lab.gateway)?["counters"]["sessions"].as_u64().context("no counter")
        };
        let before = sessions()?;
        let (flood, count) = thread::scope(|scope| -> Result<_> {
            let flooder = scope.spawn(|| syns(lab, from, to, &over));
            let flood = spent(SPAN);
            // Others are served meanwhile.
            let served = (0..5).try_for_each(|_| send(lab, to).context("a message of another customer"));
            over.store(true, Ordering::Relaxed);
            let count = flooder.join().map_err(|_| anyhow!("a panic"))??;
            served.and(Ok((flood?, count)))
        })?;
        eprintln!("{count} SYNs; the agent took {quiet:?} of {SPAN:?} before, {flood:?} during the flood");
        ensure!(count > 1_000, "{count} SYNs are no flood");
        ensure!(sessions()? == before + 5, "the agent saw something of it");
        // Its own work, such as the heartbeat, goes on; what one SYN would cost, times their number, would be far more.
        ensure!(
            flood <= quiet * 2 + SPAN / 20,
            "the flood took {flood:?} of the agent's time, {quiet:?} before"
        );
        ensure!(straight(&destination) == 0);
        agent.stop()
    })
}
