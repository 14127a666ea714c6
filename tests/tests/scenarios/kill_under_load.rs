//! The agent killed while 200 connections a second come in.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use weir_tests::components::{AgentConfig, Backend, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{Way, time_until};
use weir_tests::smtp::{Script, Server};
use weir_tests::wait::patient;

on_both_back_ends!(open_lets_all_through_within_a_second, closed_lets_none_through);

const SENDERS: u32 = 20;
/// Of each sender.
const PERIOD: Duration = Duration::from_millis(100);
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(3);
const OPEN_WITHIN: Duration = Duration::from_secs(1);
/// A connection that takes longer hangs.
const HANGS: Duration = Duration::from_secs(10);

/// The first port that customers' own connections have; the agent's come from `steering.upstream_ports`, below it.
const OWN_PORTS: u16 = 32_768;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Greeted,
    Refused,
    Reset,
    Silent,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    begin: Instant,
    /// Until the handshake was over, if it was.
    connected: Option<Duration>,
    outcome: Outcome,
}

/// One connection, as far as the greeting.
fn attempt(to: IpAddr, patience: Duration) -> Result<Attempt> {
    let begin = Instant::now();
    let mut stream = match TcpStream::connect_timeout(&SocketAddr::new(to, 25), patience) {
        Ok(stream) => stream,
        Err(error) => {
            let outcome = match error.kind() {
                ErrorKind::ConnectionRefused => Outcome::Refused,
                ErrorKind::ConnectionReset => Outcome::Reset,
                ErrorKind::TimedOut => Outcome::Silent,
                _ => return Err(error.into()),
            };
            return Ok(Attempt { begin, connected: None, outcome });
        }
    };
    let connected = Some(begin.elapsed());
    stream.set_read_timeout(Some(patience))?;
    let outcome = match stream.read(&mut [0; 512]) {
        Ok(length) if length > 0 => Outcome::Greeted,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Outcome::Silent,
        _ => Outcome::Reset,
    };
    Ok(Attempt { begin, connected, outcome })
}

/// Has connections come in, each on time whatever becomes of the others, while `meanwhile` is done.
fn under_load(
    lab: &Lab,
    to: IpAddr,
    patience: Duration,
    meanwhile: impl FnOnce() -> Result<Instant>,
) -> Result<(Vec<Attempt>, Instant)> {
    let (period, before) = (patient(PERIOD), patient(BEFORE));
    let end = Instant::now() + before + patient(AFTER);
    let sender = |number: u32| {
        lab.customer.in_network(|| {
            thread::scope(|scope| {
                let mut attempts = Vec::new();
                let mut next = Instant::now() + period * number / SENDERS;
                while next < end {
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                    attempts.push(scope.spawn(|| attempt(to, patience)));
                    next += period;
                }
                let join = |attempt: thread::ScopedJoinHandle<'_, Result<Attempt>>| {
                    attempt.join().map_err(|_| anyhow!("a panic"))?
                };
                attempts.into_iter().map(join).collect::<Result<Vec<_>>>()
            })
        })
    };
    thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS).map(|number| scope.spawn(move || sender(number))).collect();
        thread::sleep(before);
        let killed = meanwhile();
        let mut attempts = Vec::new();
        for sender in senders {
            attempts.extend(sender.join().map_err(|_| anyhow!("a panic"))??);
        }
        Ok((attempts, killed?))
    })
}

fn count(attempts: &[Attempt], outcome: Outcome) -> usize {
    attempts.iter().filter(|attempt| attempt.outcome == outcome).count()
}

fn killed_under_load(
    backend: Backend,
    closed: bool,
    patience: Duration,
    check: impl FnOnce(&[Attempt], &[Attempt], usize) -> Result<()>,
) -> Result<()> {
    Lab::run("kill-load", NarrowLink::Nowhere, |lab| {
        let to = Family::V4.destination();
        let destination = Server::start(&lab.internet, to, Script::default())?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut config = AgentConfig::new(backend);
        config.relay_lines = "max_sessions_per_customer = 0".into();
        let config = if closed { config.closed() } else { config };
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        time_until(Way::Intercepted, &lab.customer, Family::V4.customer(), to)?;
        let (attempts, killed) = under_load(lab, to, patience, || {
            // Dead a moment later; what begins in between is counted as begun before.
            agent.kill()?;
            Ok(Instant::now())
        })?;
        let (before, after): (Vec<_>, Vec<_>) =
            attempts.into_iter().partition(|attempt| attempt.begin < killed);
        let straight = destination.sessions_that(|session| session.peer.port() >= OWN_PORTS).len();
        for (name, attempts) in [("before", &before), ("after", &after)] {
            let [greeted, refused, reset, silent] =
                [Outcome::Greeted, Outcome::Refused, Outcome::Reset, Outcome::Silent]
                    .map(|outcome| count(attempts, outcome));
            let slowest = attempts.iter().filter_map(|attempt| attempt.connected).max();
            eprintln!(
                "begun {name} the kill: {}; {greeted} greeted, {refused} refused, {reset} reset, {silent} silent; \
                 the slowest handshake {slowest:?}",
                attempts.len()
            );
        }
        ensure!(before.len() > 200 && after.len() > 300, "{} and {} are no load", before.len(), after.len());
        check(&before, &after, straight)
    })
}

fn open_lets_all_through_within_a_second(backend: Backend) -> Result<()> {
    killed_under_load(backend, false, HANGS, |before, after, straight| {
        // Those under way may be reset.
        ensure!(count(before, Outcome::Silent) == 0, "a connection hangs");
        ensure!(count(after, Outcome::Greeted) == after.len(), "not all reach the destination");
        ensure!(straight >= after.len(), "{straight} reached it straight");
        let late = after.iter().filter(|attempt| attempt.connected > Some(patient(OPEN_WITHIN))).count();
        ensure!(late == 0, "{late} took longer than {OPEN_WITHIN:?}");
        Ok(())
    })
}

fn closed_lets_none_through(backend: Backend) -> Result<()> {
    // Longer than the first retransmission of a SYN, which comes after one second.
    killed_under_load(backend, true, Duration::from_millis(2_500), |_, after, straight| {
        ensure!(straight == 0, "{straight} connections went straight");
        ensure!(count(after, Outcome::Silent) == after.len(), "not all are dropped");
        ensure!(after.iter().all(|attempt| attempt.connected.is_none()), "a handshake with nobody");
        Ok(())
    })
}
