//! Limits on what all sessions together take of memory and disk, with many sessions at once.

use std::fs;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use weir_tests::components::{AgentConfig, Backend, WeirAgent};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::smtp::{Client, Gate, Reply, Script, Server};
use weir_tests::wait::{PATIENCE, wait_for, wait_until};

on_both_back_ends!(
    every_session_goes_on_with_nothing_but_its_share,
    sessions_held_by_a_filter_node_are_bounded,
    sessions_held_by_destinations_are_bounded,
    spool_files_are_bounded,
    bare_line_ends_are_counted_by_customer,
);

const SESSIONS: usize = 200;

/// Octets of a message: more than kernel and agent hold of one that is not taken.
const MESSAGE: usize = 200_000;

/// What a session may hold beside the common limit.
const SHARES: u64 = 64 * 1024;

/// A limit of one octet: whenever anything is held there is room for shares only.
fn every_session_goes_on_with_nothing_but_its_share(backend: Backend) -> Result<()> {
    Lab::run("shares", NarrowLink::Nowhere, |lab| {
        let stage = Stage::set(lab, backend, "max_buffered = 1", [&Gate::opened(), &Gate::opened()])?;
        let clients = stage.connect()?;
        let replies = send_all(clients, &message())?;
        for reply in replies {
            reply.expect(250)?;
        }
        stage.all_arrived_whole()?;
        stage.nothing_is_held()
    })
}

fn sessions_held_by_a_filter_node_are_bounded(backend: Backend) -> Result<()> {
    let gate = Gate::closed();
    held_sessions_are_bounded_and_new_ones_turned_away("held-node", backend, &gate, [&gate, &Gate::opened()])
}

fn sessions_held_by_destinations_are_bounded(backend: Backend) -> Result<()> {
    let gate = Gate::closed();
    held_sessions_are_bounded_and_new_ones_turned_away("held-mx", backend, &gate, [&Gate::opened(), &gate])
}

/// Nobody takes what 200 sessions want to send, until the gate is opened.
fn held_sessions_are_bounded_and_new_ones_turned_away(
    name: &str,
    backend: Backend,
    gate: &Gate,
    gates: [&Gate; 2],
) -> Result<()> {
    const LIMIT: u64 = 2 * 1024 * 1024;
    Lab::run(name, NarrowLink::Nowhere, |lab| {
        let stage = Stage::set(lab, backend, &format!("max_buffered = {LIMIT}"), gates)?;
        let before = stage.resident()?;
        let clients = stage.connect()?;
        let sending = thread::spawn(|| send_all(clients, &message()));
        wait_until("all bodies in the spool, and as much on its way as may be", PATIENCE, || {
            ensure!(!sending.is_finished(), "the messages passed the closed gate");
            let status = stage.status()?;
            let spooled = number(&status, &["spool_memory_bytes"])? + number(&status, &["spool_disk_bytes"])?;
            let held = number(&status, &["buffered_bytes"])?;
            Ok(spooled >= (SESSIONS * MESSAGE) as u64 && held >= LIMIT)
        })?;
        let held = number(&stage.status()?, &["buffered_bytes"])?;
        ensure!(held <= LIMIT + SESSIONS as u64 * SHARES, "{held} octets are held");
        let grown = stage.resident()?.saturating_sub(before);
        eprintln!("{SESSIONS} sessions hold {held} octets; resident memory has grown by {grown}");
        ensure!(grown < 48 * 1024 * 1024, "resident memory has grown by {grown} octets");

        // Some may still be on their way from node to destination, and hold nothing for a moment.
        let refused = wait_for("a connection to be turned away", PATIENCE, || {
            let reply = Client::connect(&lab.customer, stage.destination.address())?.reply()?;
            Ok((reply.code == 421).then_some(reply))
        })?;
        ensure!(refused.text().starts_with("4.3.2 too much mail under way"), "{}", refused.text());
        ensure!(number(&stage.status()?, &["counters", "overload_buffered"])? > 0, "counted apart");
        ensure!(number(&stage.status()?, &["counters", "overload"])? == 0, "counted apart");

        gate.open();
        for reply in sending.join().map_err(|_| anyhow!("a customer panicked"))?? {
            reply.expect(250)?;
        }
        stage.all_arrived_whole()?;
        stage.nothing_is_held()?;
        Client::connect(&lab.customer, stage.destination.address())?.greet("late.customer.test")?;
        Ok(())
    })
}

/// A message waits in a file; another that does not fit beside it is deferred, and fits when the first is gone.
fn spool_files_are_bounded(backend: Backend) -> Result<()> {
    Lab::run("spool-disk", NarrowLink::Nowhere, |lab| {
        let gate = Gate::closed();
        let mut config = AgentConfig::new(backend);
        config.spool_lines = format!("memory_per_message = 0\ndisk_total = {}", MESSAGE * 3 / 2);
        let stage = Stage::with(lab, config, [&gate, &Gate::opened()])?;
        let mut first = stage.client()?;
        let waiting = thread::spawn(move || send(&mut first, &message()));
        wait_until("the first message in its file", PATIENCE, || {
            Ok(number(&stage.status()?, &["spool_disk_bytes"])? >= MESSAGE as u64)
        })?;
        let mut second = stage.client()?;
        let refused = send(&mut second, &message())?.expect(452)?;
        ensure!(refused.text().starts_with("4.3.1 no space"), "{}", refused.text());
        ensure!(number(&stage.status()?, &["counters", "spool_full"])? == 1);
        gate.open();
        waiting.join().map_err(|_| anyhow!("the customer panicked"))??.expect(250)?;
        send(&mut second, &message())?.expect(250)?;
        wait_until("the files to be gone", PATIENCE, || {
            Ok(number(&stage.status()?, &["spool_disk_bytes"])? == 0)
        })
    })
}

fn bare_line_ends_are_counted_by_customer(backend: Backend) -> Result<()> {
    Lab::run("bare-ends", NarrowLink::Nowhere, |lab| {
        let stage = Stage::with(lab, AgentConfig::new(backend), [&Gate::opened(), &Gate::opened()])?;
        let _destination = Server::start(&lab.internet, Family::V6.destination(), Script::default())?;
        for (family, body, code, field) in [
            (Family::V4, &b"Subject: x\r\n\r\na\nb\r\n.\r\n"[..], 250, "bare_lf"),
            (Family::V6, b"Subject: x\r\n\r\na\rb\r\n.\r\n", 550, "bare_cr"),
        ] {
            for _ in 0..2 {
                let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
                client.greet("mail.customer.test")?;
                let reply = send_raw(&mut client, body)?.expect(code)?;
                let known = |line: &weir_tests::components::LogLine| {
                    code == 250 || reply.text().contains(&line.field("id"))
                };
                let line = stage.agent.wait_message("the message's line", known)?;
                ensure!(line.field(field) == "1", "{line:?}");
            }
        }
        let status = stage.status()?;
        let lf = &status["bare_line_ends"]["bare_lf"];
        ensure!(*lf == serde_json::json!([{"customer": "10.1.0.2", "messages": 2}]), "{lf}");
        let cr = &status["bare_line_ends"]["bare_cr"];
        ensure!(*cr == serde_json::json!([{"customer": "fd01::/64", "messages": 2}]), "{cr}");
        ensure!(number(&status, &["counters", "with_bare_cr"])? == 2, "{status}");
        Ok(())
    })
}

/// An agent, a filter node and a destination, each behind its gate.
struct Stage<'a> {
    lab: &'a Lab,
    agent: WeirAgent,
    _filter: Server,
    destination: Server,
}

impl<'a> Stage<'a> {
    fn set(lab: &'a Lab, backend: Backend, limit: &str, gates: [&Gate; 2]) -> Result<Self> {
        // What the kernel takes for a peer is not held by the agent.
        for host in [&lab.customer, &lab.gateway, &lab.filter, &lab.internet] {
            host.sh("sysctl -q net.ipv4.tcp_rmem='4096 8192 8192' net.ipv4.tcp_wmem='4096 8192 8192'")?;
        }
        let mut config = AgentConfig::new(backend);
        config.relay_lines = format!("{limit}\nmax_sessions_per_customer = 1000");
        config.filter_lines = "verdict_budget = 600".into();
        config.spool_lines = "memory_total = 1048576".into();
        Self::with(lab, config, gates)
    }

    fn with(lab: &'a Lab, mut config: AgentConfig, [node, mx]: [&Gate; 2]) -> Result<Self> {
        config.nodes.truncate(1);
        let script = Script::filter_node().behind(node);
        let filter = Server::start_at(&lab.filter, config.nodes[0], script)?;
        let destination =
            Server::start(&lab.internet, Family::V4.destination(), Script::default().behind(mx))?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        Ok(Self { lab, agent, _filter: filter, destination })
    }

    fn client(&self) -> Result<Client> {
        let mut client = Client::connect(&self.lab.customer, self.destination.address())?;
        client.greet("mail.customer.test")?;
        Ok(client)
    }

    /// Sessions that have said nothing but EHLO. One that comes while the agent holds another's EHLO is turned
    /// away, and tries again.
    fn connect(&self) -> Result<Vec<Client>> {
        let connect = || match self.client() {
            Err(error) if format!("{error:#}").contains("421 4.3.2") => Ok(None),
            client => client.map(Some),
        };
        (0..SESSIONS).map(|_| wait_for("a session", PATIENCE, connect)).collect()
    }

    fn status(&self) -> Result<Value> {
        WeirAgent::status(&self.lab.gateway)
    }

    /// Octets of the agent's that are in memory, files not counted.
    fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.agent.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1024)
    }

    fn all_arrived_whole(&self) -> Result<()> {
        let sent = wire(&message());
        let whole = self.destination.sessions_that(|session| session.messages == [&sent[..sent.len() - 3]]);
        ensure!(whole.len() == SESSIONS, "{} of {SESSIONS} messages arrived", whole.len());
        Ok(())
    }

    fn nothing_is_held(&self) -> Result<()> {
        wait_for("everything to be given back", PATIENCE, || {
            let status = self.status()?;
            let mut held = 0;
            for name in ["buffered_bytes", "spool_memory_bytes", "spool_disk_bytes"] {
                held += number(&status, &[name])?;
            }
            Ok((held == 0).then_some(()))
        })
    }
}

fn number(status: &Value, path: &[&str]) -> Result<u64> {
    let value = path.iter().fold(status, |value, name| &value[*name]);
    value.as_u64().with_context(|| format!("no {} in {status}", path.join(".")))
}

/// Half of its lines begin with a dot.
fn message() -> Vec<u8> {
    let lines = b"Subject: large\n\n".iter().chain(b".0123456789\n0123456789\n".iter().cycle());
    let mut message: Vec<u8> = lines.take(MESSAGE).copied().collect();
    message.extend_from_slice(b"\n");
    message
}

fn wire(message: &[u8]) -> Vec<u8> {
    weir_tests::smtp::stuffed(message)
}

fn send(client: &mut Client, message: &[u8]) -> Result<Reply> {
    send_raw(client, &wire(message))
}

fn send_raw(client: &mut Client, body: &[u8]) -> Result<Reply> {
    client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
    client.command("RCPT TO:<b@v4.destination.test>")?.expect(250)?;
    client.command("DATA")?.expect(354)?;
    client.send(body)?;
    client.reply()
}

/// The same message in all sessions at once.
fn send_all(clients: Vec<Client>, message: &[u8]) -> Result<Vec<Reply>> {
    thread::scope(|scope| {
        let send = |mut client| move || send(&mut client, message);
        let sending: Vec<_> = clients.into_iter().map(|client| scope.spawn(send(client))).collect();
        let joined = sending.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|sent| sent.map_err(|_| anyhow!("a customer panicked"))?).collect()
    })
}
