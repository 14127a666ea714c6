//! A new agent takes over from the one that runs: no connection is refused, no session cut, nobody goes past weir.

mod deaths;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use weir_tests::components::{AgentConfig, Backend, FILTER_PORT, WeirAgent};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{Way, is_reset, way};
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(
    five_in_a_row_under_load,
    five_in_a_row_under_load_and_closed,
    who_cannot_take_over_changes_nothing,
    both_end_when_the_new_one_is_stopped,
);

/// How often customers connect; four threads.
const PACE: Duration = Duration::from_millis(25);
const LOADERS: usize = 4;

/// A SYN that was lost is sent again after a second.
const SYN_SENT_AGAIN: Duration = Duration::from_millis(950);

struct Ends {
    destination: Server,
    filter: Server,
}

impl Ends {
    fn start(lab: &Lab) -> Result<Self> {
        let node = SocketAddr::new(Family::V4.filter_node(0), FILTER_PORT);
        Ok(Self {
            destination: Server::start(&lab.internet, Family::V4.destination(), Script::default())?,
            filter: Server::start_at(&lab.filter, node, Script::filter_node())?,
        })
    }

    /// How often each message arrived, by the word in its only line.
    fn arrived(server: &Server) -> BTreeMap<String, usize> {
        let mut arrived = BTreeMap::new();
        for message in server.sessions().iter().flat_map(|session| &session.messages) {
            let text = String::from_utf8_lossy(message);
            let word = text.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap_or_default();
            *arrived.entry(word.to_owned()).or_default() += 1;
        }
        arrived
    }
}

fn config(backend: Backend) -> AgentConfig {
    AgentConfig {
        nodes: vec![SocketAddr::new(Family::V4.filter_node(0), FILTER_PORT)],
        // A message is begun with the first agent and ended with the last one, minutes later on an emulated processor.
        relay_lines: "min_data_rate = 0\n".into(),
        ..AgentConfig::new(backend)
    }
}

fn to() -> SocketAddr {
    (Family::V4.destination(), 25).into()
}

/// The agent, with a way back from the internet that is proven.
fn start(lab: &Lab, config: &AgentConfig) -> Result<WeirAgent> {
    let agent = WeirAgent::start(&lab.gateway, config)?;
    ensure!(way(&lab.customer, Family::V4.customer(), to().ip())? == Way::Intercepted, "not intercepted");
    Ok(agent)
}

/// What customers met.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) over: AtomicBool,
    pub(crate) sent: AtomicUsize,
    pub(crate) straight: AtomicUsize,
    pub(crate) slow: AtomicUsize,
}

impl Load {
    /// One message in a connection of its own.
    fn send(&self, lab: &Lab, subject: &str) -> Result<()> {
        let begin = Instant::now();
        let mut client = Client::connect_within(&lab.customer, Family::V4.customer(), to(), PATIENCE)
            .context("connect")?;
        self.slow.fetch_add(usize::from(begin.elapsed() > SYN_SENT_AGAIN), Relaxed);
        let extensions = client.greet("mail.customer.test")?;
        self.straight.fetch_add(usize::from(extensions.announces("STARTTLS")), Relaxed);
        let message = format!("Subject: {subject}\n\nshort\n");
        client
            .send_message("a@customer.test", &["user@destination.test"], message.as_bytes())?
            .expect(250)?;
        client.command("QUIT")?.expect(221)?;
        self.sent.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Sends until it is over.
    pub(crate) fn go_on(&self, lab: &Lab, number: usize) -> Result<()> {
        let mut next = Instant::now();
        for count in 0.. {
            if self.over.load(Relaxed) {
                break;
            }
            self.send(lab, &format!("load-{number}-{count}"))
                .with_context(|| format!("connection {count} of customer {number}"))?;
            next += PACE;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }
}

/// Does `work` while customers send, those who are blocked try, and those who are exempt connect; whatever any of
/// them met that they should not is an error.
fn under_load<T: Send>(lab: &Lab, work: impl FnOnce(&Load) -> Result<T> + Send) -> Result<(T, Load)> {
    let load = Load::default();
    let result = thread::scope(|scope| {
        let load = &load;
        let mut all: Vec<_> =
            (0..LOADERS).map(|number| scope.spawn(move || load.go_on(lab, number))).collect();
        all.push(scope.spawn(move || {
            while !load.over.load(Relaxed) {
                ensure!(is_reset(&lab.customer, blocked(), to().ip())?, "a blocked customer came through");
            }
            Ok(())
        }));
        all.push(scope.spawn(move || {
            while !load.over.load(Relaxed) {
                let way = way(&lab.customer, exempt(), to().ip())?;
                ensure!(way == Way::Straight, "an exempt customer was intercepted");
            }
            Ok(())
        }));
        let outcome = work(load);
        load.over.store(true, Relaxed);
        for each in all {
            each.join().map_err(|_| anyhow!("a panic"))??;
        }
        outcome
    })?;
    Ok((result, load))
}

fn blocked() -> IpAddr {
    // Not of the load: one more of the IPv4 network.
    Family::V4.other_customer()
}

fn exempt() -> IpAddr {
    IpAddr::from([10, 1, 0, 4])
}

/// By the configuration of every other agent.
fn exempt_there() -> IpAddr {
    IpAddr::from([10, 1, 0, 5])
}

fn command(lab: &Lab, arguments: &[&str]) -> Result<()> {
    let finished = WeirAgent::command(&lab.gateway, arguments)?;
    ensure!(finished.success, "{arguments:?}: {}", finished.output);
    Ok(())
}

/// Blocks and exempts who is to be.
fn set_policy(lab: &Lab) -> Result<()> {
    lab.customer.sh("ip addr add 10.1.0.4/16 dev eth0 2>/dev/null || ip addr add 10.1.0.4/32 dev lo")?;
    command(lab, &["block", &blocked().to_string(), "--reason", "a bot"])?;
    command(lab, &["exempt", &exempt().to_string(), &to().ip().to_string()])
}

/// All that was sent arrived once, judged, and nothing else did.
fn account(ends: &Ends, load: &Load, others: &[&str]) -> Result<()> {
    let (sent, straight, slow) =
        (load.sent.load(Relaxed), load.straight.load(Relaxed), load.slow.load(Relaxed));
    let (arrived, judged) = (Ends::arrived(&ends.destination), Ends::arrived(&ends.filter));
    eprintln!("{sent} messages in as many connections, {straight} straight, {slow} with a SYN sent twice");
    ensure!(straight == 0, "{straight} connections went straight, unjudged");
    ensure!(slow == 0, "{slow} SYNs were lost");
    ensure!(arrived == judged, "what arrived is not what was judged");
    ensure!(arrived.values().all(|times| *times == 1), "delivered twice");
    ensure!(arrived.len() == sent + others.len(), "{} arrived of {sent} and {others:?}", arrived.len());
    ensure!(others.iter().all(|word| arrived.contains_key(*word)), "{others:?} did not arrive");
    Ok(())
}

fn five_in_a_row_under_load(backend: Backend) -> Result<()> {
    in_a_row("take-over-open", &config(backend))
}

fn five_in_a_row_under_load_and_closed(backend: Backend) -> Result<()> {
    in_a_row("take-over-closed", &config(backend).closed())
}

fn in_a_row(name: &str, config: &AgentConfig) -> Result<()> {
    Lab::run(name, NarrowLink::Nowhere, |lab| {
        let ends = Ends::start(lab)?;
        let mut agents = vec![start(lab, config)?];
        set_policy(lab)?;
        let mut idle = Client::connect(&lab.customer, to())?;
        idle.greet("idle.customer.test")?;
        let mut writing = Client::connect(&lab.customer, to())?;
        writing.greet("writing.customer.test")?;
        writing.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
        writing.command("RCPT TO:<user@destination.test>")?.expect(250)?;
        writing.command("DATA")?.expect(354)?;
        writing.send(b"Subject: in-the-middle\r\n\r\nbegun with the first agent\r\n")?;
        let ((), load) = under_load(lab, |load| {
            for number in 1..=5 {
                let enough = load.sent.load(Relaxed) + 40;
                wait_until("some load", PATIENCE, || Ok(load.sent.load(Relaxed) >= enough))?;
                // A map of another size, so that the program is another each time.
                let mut next = config.clone();
                next.relay_lines += &format!("max_sessions = {}\n", 1000 + number);
                agents.push(WeirAgent::take_over(&lab.gateway, number, &next.to_toml())?);
            }
            let enough = load.sent.load(Relaxed) + 40;
            wait_until("some load", PATIENCE, || Ok(load.sent.load(Relaxed) >= enough))
        })?;
        // The status is that of the one in charge, which knows of the sessions of all others.
        let status = WeirAgent::status(&lab.gateway)?;
        ensure!(status["before"]["sessions"] == 2, "{}", status["before"]);
        ensure!(status["return_path"]["proven"] == true, "{}", status["return_path"]);
        if config.backend == Backend::Ebpf {
            for passed in ["unproven_passed", "hung_passed", "no_listener_passed", "hung_dropped"] {
                ensure!(status["steering"][passed] == 0, "{passed}: {}", status["steering"]);
            }
        }
        writing.send(b"ended with the sixth\r\n.\r\n")?;
        writing.expect(250)?;
        idle.send_message("a@customer.test", &["user@destination.test"], b"Subject: idle\n\nlong open\n")?
            .expect(250)?;
        let last = agents.pop().context("the last agent")?;
        for client in [&mut idle, &mut writing] {
            client.command("QUIT")?.expect(221)?;
        }
        for mut agent in agents {
            let status = agent.process().wait_exit(PATIENCE)?;
            ensure!(status.success(), "{status}: {}", agent.output());
        }
        wait_until("no agent before", PATIENCE, || Ok(WeirAgent::status(&lab.gateway)?["before"].is_null()))?;
        account(&ends, &load, &["in-the-middle", "idle"])?;
        last.stop()?;
        WeirAgent::cleanup(&lab.gateway)
    })
}

/// A configuration with an error, one that differs where it must not, and a start without the word.
fn who_cannot_take_over_changes_nothing(backend: Backend) -> Result<()> {
    Lab::run("take-over-refused", NarrowLink::Nowhere, |lab| {
        let ends = Ends::start(lab)?;
        let config = config(backend);
        let agent = start(lab, &config)?;
        set_policy(lab)?;
        let text = config.to_toml();
        let other_mark = text.replace("listen_port = 2525", "listen_port = 2526\nmark = 0x12340000");
        let ((), load) = under_load(lab, |_| {
            for (number, text, arguments, words) in [
                (1, text.replace("[relay]", "[relay]\nmax_session = 3"), "--take-over", "max_session"),
                (2, other_mark.clone(), "--take-over", "steering.listen_port, steering.mark"),
                (3, config.clone().closed().to_toml(), "--take-over", "steering.when_agent_dies"),
                (4, text.replace("cust0", "cust9"), "--take-over", "steering.customer_interfaces"),
                (5, text.clone(), "", "--take-over"),
            ] {
                let mut heir = match arguments {
                    "" => WeirAgent::launch(&lab.gateway, &text)?,
                    _ => WeirAgent::launch_heir(&lab.gateway, number, &text)?.into_process(),
                };
                let status = heir.wait_exit(PATIENCE)?;
                ensure!(!status.success() && heir.output().contains(words), "{number}: {}", heir.output());
            }
            Ok(())
        })?;
        ensure!(agent.output().contains("did not take over"), "{}", agent.output());
        // The operator's word is heard as before.
        command(lab, &["unblock", &blocked().to_string()])?;
        ensure!(way(&lab.customer, blocked(), to().ip())? == Way::Intercepted, "blocked");
        account(&ends, &load, &[])?;
        agent.stop()
    })
}

/// The service is stopped while an agent that handed over has sessions: nothing is left, and a message in flight is
/// finished there too.
fn both_end_when_the_new_one_is_stopped(backend: Backend) -> Result<()> {
    Lab::run("take-over-stop", NarrowLink::Nowhere, |lab| {
        let ends = Ends::start(lab)?;
        let config = config(backend);
        let mut old = start(lab, &config)?;
        let mut idle = Client::connect(&lab.customer, to())?;
        idle.greet("idle.customer.test")?;
        let mut writing = Client::connect(&lab.customer, to())?;
        writing.greet("writing.customer.test")?;
        writing.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
        writing.command("RCPT TO:<user@destination.test>")?.expect(250)?;
        writing.command("DATA")?.expect(354)?;
        let mut new = WeirAgent::take_over(&lab.gateway, 1, &config.to_toml())?;
        old.process().wait_output("handed over", PATIENCE)?;
        ensure!(old.process().exited()?.is_none(), "it cut its sessions");
        new.signal(Signal::SIGTERM)?;
        idle.expect(421)?;
        writing.send(b"Subject: in-the-middle\r\n\r\n.\r\n")?;
        writing.expect(250)?;
        for process in [old.process(), new.process()] {
            let status = process.wait_exit(2 * PATIENCE)?;
            ensure!(status.success(), "{status}: {}", process.output());
        }
        ensure!(way(&lab.customer, Family::V4.customer(), to().ip())? == Way::Straight, "something is left");
        ensure!(Ends::arrived(&ends.destination).get("in-the-middle") == Some(&1), "not delivered once");
        ensure!(lab.gateway.sh("ip rule; nft list tables")?.lines().all(|line| !line.contains("fwmark")));
        Ok(())
    })
}

/// Limits in the kernel hold for what a source has in both agents, and its bucket is as empty as it was.
#[test]
fn limits_go_on() -> Result<()> {
    Lab::run("take-over-limits", NarrowLink::Nowhere, |lab| {
        let _ends = Ends::start(lab)?;
        let with = |lines: &str| AgentConfig {
            customer_lines: format!("[limits]\n{lines}\nbeyond = \"reset\"\n"),
            ..config(Backend::Ebpf)
        };
        let (from, ip) = (Family::V4.customer(), to().ip());
        let connections = with("connections = 3");
        let mut agents = vec![WeirAgent::start(&lab.gateway, &connections)?];
        let mut open = Vec::new();
        for number in 1..=3 {
            let mut client = Client::connect_from(&lab.customer, from, to())?;
            client.greet("mail.customer.test")?;
            open.push(client);
            agents.push(WeirAgent::take_over(&lab.gateway, number, &connections.to_toml())?);
        }
        // One in each of three agents, none of which is in charge.
        for _ in 0..5 {
            ensure!(is_reset(&lab.customer, from, ip)?, "a fourth is taken");
        }
        for mut client in open {
            client.command("QUIT")?.expect(221)?;
        }
        wait_until("room", PATIENCE, || Ok(!is_reset(&lab.customer, from, ip)?))?;
        agents.pop().context("the last")?.stop()?;
        drop(agents);

        let rate = with("new_per_second = 1\nburst = 30");
        let agent = WeirAgent::start(&lab.gateway, &rate)?;
        let empty = || {
            let mut taken = 0;
            while !is_reset(&lab.customer, from, ip)? {
                taken += 1;
                ensure!(taken < 200, "no limit");
            }
            anyhow::Ok(taken)
        };
        ensure!(empty()? >= 29, "the bucket was not full");
        let begin = Instant::now();
        let heir = WeirAgent::take_over(&lab.gateway, 4, &rate.to_toml())?;
        let taken = empty()?;
        let refilled = usize::try_from(begin.elapsed().as_secs())? + 2;
        ensure!(taken <= refilled, "{taken} were taken at once, where {refilled} had come in");
        drop(agent);
        heir.stop()
    })
}

/// Only the listener goes over, and systemd is told which process the service is.
#[test]
fn with_rules_of_the_operators_own() -> Result<()> {
    Lab::run("take-over-external", NarrowLink::Nowhere, |lab| {
        let text = config(Backend::Ebpf).to_toml().replace("\"ebpf\"", "\"external\"");
        let mut old = WeirAgent::start_with(&lab.gateway, &text)?;
        let (same_port, mut next) = (WeirAgent::launch(&lab.gateway, &text)?, Vec::new());
        let mut same_port = same_port;
        ensure!(!same_port.wait_exit(PATIENCE)?.success() && same_port.output().contains("--take-over"));
        let socket = lab.gateway.inside(|| {
            std::fs::create_dir_all("/run")?;
            Ok(UnixDatagram::bind("/run/notify")?)
        })?;
        socket.set_read_timeout(Some(PATIENCE))?;
        lab.gateway.set_environment("NOTIFY_SOCKET", "/run/notify");
        next.push(WeirAgent::take_over(&lab.gateway, 1, &text)?);
        ensure!(old.process().wait_exit(PATIENCE)?.success(), "{}", old.output());
        let heard = || {
            let mut packet = [0; 1024];
            let length = socket.recv(&mut packet)?;
            anyhow::Ok(String::from_utf8_lossy(&packet[..length]).into_owned())
        };
        // Said while the old one waits for the new one to serve: the service is never without a process.
        let (main, ready, pid) = (heard()?, heard()?, &WeirAgent::status(&lab.gateway)?["pid"]);
        ensure!(main.contains(&format!("MAINPID={pid}")) && ready.contains("READY=1"), "{main} {ready}");
        // Where none runs it just starts.
        next.pop().context("the heir")?.stop()?;
        let mut alone = WeirAgent::launch_heir(&lab.gateway, 2, &text)?;
        alone.process().wait_output("there is nothing to take over", PATIENCE)?;
        alone.process().wait_output("\"ready\"", PATIENCE)?;
        alone.stop()
    })
}
