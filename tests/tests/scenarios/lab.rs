//! The lab itself, without weir: what the other scenarios take for granted.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use weir_tests::components::{Postfix, Spamd};
use weir_tests::lab::{Family, Lab, NarrowLink, Snapshot};
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

const MESSAGE: &[u8] = b"Subject: hello\n\nA line\n.\n..two dots\n";

fn mail_passes_the_gateway(family: Family) -> Result<()> {
    Lab::run("lab-mail", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let customer = Postfix::customer(&lab.customer)?;
        let recipient = format!("user@{}", family.domain());
        customer.submit("sender@customer.test", &[&recipient], MESSAGE)?;
        let stored = destination.wait_stored("user")?;
        assert!(stored.came_from(family.customer()), "{}", stored.trace());
        assert!(stored.came_by_tls(), "without weir Postfix uses STARTTLS: {}", stored.trace());
        assert!(stored.as_received().ends_with(MESSAGE), "{}", String::from_utf8_lossy(&stored.content));
        Ok(())
    })
}

#[test]
fn mail_passes_the_gateway_v4() -> Result<()> {
    mail_passes_the_gateway(Family::V4)
}

#[test]
fn mail_passes_the_gateway_v6() -> Result<()> {
    mail_passes_the_gateway(Family::V6)
}

/// The narrow link is real: full segments do not fit, and path MTU discovery finds out.
#[test]
fn narrow_links_pass_large_messages() -> Result<()> {
    for narrow in [NarrowLink::CustomerSide, NarrowLink::InternetSide] {
        Lab::run("lab-narrow", narrow, |lab| {
            for family in Family::BOTH {
                let server = Server::start(&lab.internet, family.destination(), Script::default())?;
                let mut client = Client::connect(&lab.customer, server.address())?;
                client.greet("program.customer.test")?;
                let message = "x".repeat(100).repeat(20_000) + "\n";
                client
                    .send_message("a@customer.test", &["b@v4.destination.test"], message.as_bytes())?
                    .expect(250)?;
                let route = lab.customer.sh(&format!("ip route get {}", family.destination()))?;
                ensure!(route.contains("mtu 1300"), "the path MTU was not learnt: {route}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn spamd_answers() -> Result<()> {
    Lab::run("lab-spamd", NarrowLink::Nowhere, |lab| {
        Spamd::start(&lab.filter, Family::V4.filter_node(0)).map(|_| ())
    })
}

#[test]
fn a_snapshot_sees_what_is_left_behind() -> Result<()> {
    Lab::run("lab-snapshot", NarrowLink::Nowhere, |lab| {
        let gateway = &lab.gateway;
        let before = Snapshot::of(gateway)?;
        assert_eq!(Snapshot::of(gateway)?.changes_since(&before), "");
        gateway.sh(
            "ip rule add fwmark 7 lookup 100; ip -6 rule add fwmark 7 lookup 100; ip route add local default dev lo table 100
             ip -6 route add local default dev lo table 100; nft add table inet left; tc qdisc add dev cust0 clsact
             mkdir /sys/fs/bpf/left /run/left; touch /var/tmp/left; echo 1 >/proc/sys/net/ipv4/conf/cust0/rp_filter",
        )?;
        let changes = Snapshot::of(gateway)?.changes_since(&before);
        for part in [
            "rules",
            "routes",
            "nftables",
            "queueing disciplines",
            "BPF file system",
            "/run",
            "files",
            "kernel settings",
        ] {
            let count = changes.lines().filter(|line| line.starts_with(&format!("{part}: "))).count();
            let expected = if matches!(part, "rules" | "routes") { 2 } else { 1 };
            assert!(count >= expected, "{part} is missing in:\n{changes}");
        }
        Ok(())
    })
}

/// Nothing of a lab outlives it: no process, no namespace, no log.
#[test]
fn a_lab_goes_when_it_is_dropped() -> Result<()> {
    let mut first = None;
    Lab::run("lab-gone", NarrowLink::Nowhere, |lab| {
        let mut command = Command::new("sh");
        // Leaves its process group and session: nothing but the host's end can find it.
        command.args(["-c", "setsid sleep 4711 & wait"]);
        let _process = lab.customer.spawn("orphan", command)?;
        wait_until("the orphan", PATIENCE, || Ok(processes_of("sleep 4711")? == 1))?;
        first = Some(lab.customer.pid());
        Ok(())
    })?;
    let first = first.context("the lab ran")?;
    assert!(!PathBuf::from(format!("/proc/{first}")).exists());
    wait_until("the end of the orphan", PATIENCE, || Ok(processes_of("sleep 4711")? == 0))
}

/// Not even kill -9 of the test leaves anything.
#[test]
fn a_lab_goes_when_its_test_is_killed() -> Result<()> {
    let mut holder = Command::new(std::env::current_exe()?);
    holder.args(["--exact", "lab::held_until_killed", "--ignored", "--nocapture"]);
    let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(holder.stdout.take().context("its output")?);
    let mut said = String::new();
    while !said.contains("first process ") {
        ensure!(output.read_line(&mut said)? > 0, "the holder ended: {said}");
    }
    let first = said.rsplit(' ').next().context("a number")?.trim().to_owned();
    let first = PathBuf::from(format!("/proc/{first}"));
    ensure!(first.exists(), "{} is not there", first.display());
    holder.kill()?;
    holder.wait()?;
    wait_until("the end of the host", PATIENCE, || Ok(!first.exists()))?;
    wait_until("the end of the orphan", PATIENCE, || Ok(processes_of("sleep 4712")? == 0))
}

#[test]
#[ignore = "a part of a_lab_goes_when_its_test_is_killed, which starts it"]
fn held_until_killed() -> Result<()> {
    Lab::run("lab-held", NarrowLink::Nowhere, |lab| {
        let mut command = Command::new("sh");
        command.args(["-c", "setsid sleep 4712 & wait"]);
        let _process = lab.customer.spawn("orphan", command)?;
        wait_until("the orphan", PATIENCE, || Ok(processes_of("sleep 4712")? == 1))?;
        println!("first process {}", lab.customer.pid());
        // To the end of the input, which the killer holds.
        std::io::stdin().lines().count();
        Ok(())
    })
}

fn processes_of(command_line: &str) -> Result<usize> {
    let wanted = command_line.replace(' ', "\0") + "\0";
    let lines = fs::read_dir("/proc")?
        .flatten()
        .map(|entry| fs::read(entry.path().join("cmdline")).unwrap_or_default());
    Ok(lines.filter(|line| *line == wanted.as_bytes()).count())
}
