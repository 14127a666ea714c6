//! The scanners that a filter node asks: the real programs, well, hung and dead.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::components::{
    CIcap, CLAMD_SOCKET, Clamd, FILTER_PORT, FilterConfig, Finished, LogLine, Rspamd, Spamd, WeirFilter,
    eicar,
};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, patient, wait_for};

const CONFIG: &str = "/etc/weir/scanners.toml";

/// The configuration that comes with weir, as an operator would install it.
const SPAMASSASSIN: &str = include_str!("../../../packaging/spamassassin/weir.cf");

struct Examined {
    status: Option<i32>,
    findings: Vec<Value>,
}

impl Examined {
    /// What the findings of this check and state say.
    fn of(&self, check: &str, state: &str) -> Vec<&str> {
        let fits = |finding: &&Value| finding["check"] == check && finding["state"] == state;
        self.findings.iter().filter(fits).filter_map(|finding| finding["words"].as_str()).collect()
    }
}

fn doctor(lab: &Lab) -> Result<Examined> {
    let Finished { output, code, .. } =
        WeirFilter::command(&lab.filter, &["doctor", "--json", "--config", CONFIG])?;
    let report: Value = serde_json::from_str(output.trim()).with_context(|| output.clone())?;
    ensure!(report["exit_status"] == code.unwrap_or(-1), "{report:#}");
    Ok(Examined { status: code, findings: report["findings"].as_array().context("findings")?.clone() })
}

/// Each finds its test string or file, and nothing in a harmless message; one that hangs, and those behind it, are said.
#[test]
fn the_doctor_asks_each_of_them() -> Result<()> {
    Lab::run("scanners-doctor", NarrowLink::Nowhere, |lab| {
        let address = Family::V4.filter_node(0);
        lab.filter.write("/etc/spamassassin/weir.cf", SPAMASSASSIN)?;
        let spamd = Spamd::start(&lab.filter, address)?;
        let clamd = Clamd::start(&lab.filter, address)?;
        let icap = CIcap::start(&lab.filter, address, address)?;
        let rspamd = Rspamd::start(&lab.filter, address)?;
        let config = FilterConfig::node(0).asking(spamd.address()).to_toml();
        let engines = format!(
            "[rspamd]\naddress = \"{}\"\n[clamav]\naddress = \"unix:{CLAMD_SOCKET}\"\n[icap]\n\
             engines = [{{ name = \"one\", address = \"{}\", service = \"virus_scan\" }}]\n",
            rspamd.address(),
            icap.address()
        );
        lab.filter.write(CONFIG, format!("{config}{engines}"))?;
        lab.filter.sh("mkdir -p /var/lib/weir-filter")?;

        let well = doctor(lab)?;
        ensure!(well.status == Some(0), "{:#?}", well.findings);
        for check in ["spamassassin", "spamassassin_rules", "clamav", "icap"] {
            ensure!(well.of(check, "ok").len() == 1, "{check}: {:#?}", well.findings);
        }
        // Its own rules count what weir never looks up against everybody.
        ensure!(well.of("rspamd", "warning")[0].contains("HFILTER_HOSTNAME_UNKNOWN"), "{:#?}", well.findings);
        ensure!(well.of("clamav", "ok")[0].contains("Eicar-Test-Signature"), "{:#?}", well.findings);
        ensure!(well.of("icap", "ok")[0].contains("finds the test file"), "{:#?}", well.findings);
        // Its only signature is the lab's own.
        ensure!(well.of("clamav_signatures", "warning").len() == 1, "{:#?}", well.findings);

        clamd.signal_all(Signal::SIGSTOP)?;
        let hung = doctor(lab)?;
        clamd.signal_all(Signal::SIGCONT)?;
        ensure!(hung.status == Some(1), "{:#?}", hung.findings);
        ensure!(hung.of("clamav", "problem")[0].contains("no answer within"), "{:#?}", hung.findings);
        ensure!(hung.of("icap", "problem").len() == 1, "{:#?}", hung.findings);
        ensure!(hung.of("spamassassin", "ok").len() == 1, "{:#?}", hung.findings);

        drop(rspamd);
        let dead = doctor(lab)?;
        ensure!(dead.of("rspamd", "problem")[0].contains("cannot connect"), "{:#?}", dead.findings);
        ensure!(dead.of("clamav", "ok").len() == 1, "{:#?}", dead.findings);
        Ok(())
    })
}

/// A scanner that runs.
trait Running {
    fn signal(&self, signal: Signal) -> Result<()>;
}

macro_rules! running {
    ($($scanner:ident),+) => {
        $(impl Running for $scanner {
            fn signal(&self, signal: Signal) -> Result<()> {
                self.signal_all(signal)
            }
        })+
    };
}

running!(Spamd, Rspamd, Clamd);

/// What commercial engines look like.
struct Engine {
    icap: CIcap,
    _clamd: Clamd,
}

impl Running for Engine {
    fn signal(&self, signal: Signal) -> Result<()> {
        self.icap.signal_all(signal)
    }
}

/// One of the scanners, what it is to find, and in which field of a message's log line.
struct Subject {
    name: &'static str,
    in_status: &'static str,
    section: String,
    start: fn(&Lab) -> Result<Box<dyn Running>>,
    message: Vec<u8>,
    field: &'static str,
    word: &'static str,
}

/// Time for one message, and failures before the scanner is left alone.
const LINES: &str = "timeout = 3\nbreaker_failures = 2\nbreaker_pause = 1\n";

fn node() -> IpAddr {
    Family::V4.filter_node(0)
}

fn infected() -> Vec<u8> {
    [HAM, &eicar()[..], b"\n"].concat()
}

#[test]
fn spamassassin_away() -> Result<()> {
    holds_nobody_up_and_comes_back(&Subject {
        name: "spamassassin",
        in_status: "spamassassin",
        section: format!("[spamassassin]\naddress = \"{}:783\"\n{LINES}", node()),
        start: |lab| Ok(Box::new(Spamd::start(&lab.filter, node())?)),
        message: GTUBE.to_vec(),
        field: "symbols",
        word: "GTUBE",
    })
}

#[test]
fn rspamd_away() -> Result<()> {
    holds_nobody_up_and_comes_back(&Subject {
        name: "rspamd",
        in_status: "rspamd",
        section: format!("[rspamd]\naddress = \"{}:11333\"\n{LINES}", node()),
        start: |lab| Ok(Box::new(Rspamd::start(&lab.filter, node())?)),
        message: GTUBE.to_vec(),
        field: "rspamd_symbols",
        word: "GTUBE",
    })
}

#[test]
fn clamav_away() -> Result<()> {
    holds_nobody_up_and_comes_back(&Subject {
        name: "clamav",
        in_status: "clamav",
        section: format!("[clamav]\naddress = \"unix:{CLAMD_SOCKET}\"\n{LINES}"),
        start: |lab| Ok(Box::new(Clamd::start(&lab.filter, node())?)),
        message: infected(),
        field: "infection",
        word: "clamav: Eicar-Test-Signature",
    })
}

#[test]
fn icap_away() -> Result<()> {
    holds_nobody_up_and_comes_back(&Subject {
        name: "one",
        in_status: "icap-one",
        section: format!(
            "[icap]\n{LINES}engines = [{{ name = \"one\", address = \"{}:1344\", service = \"virus_scan\" }}]\n",
            node()
        ),
        start: |lab| {
            let clamd = Clamd::start(&lab.filter, node())?;
            Ok(Box::new(Engine { icap: CIcap::start(&lab.filter, node(), node())?, _clamd: clamd }))
        },
        message: infected(),
        field: "infection",
        word: "one: ",
    })
}

/// Sends messages to a node, one after the other.
struct Sender<'l> {
    lab: &'l Lab,
    filter: &'l WeirFilter,
    number: u32,
}

impl Sender<'_> {
    fn judge(&mut self, message: &[u8]) -> Result<LogLine> {
        self.number += 1;
        let id = format!("id-{}", self.number);
        let began = Instant::now();
        let mut client = Client::connect(&self.lab.gateway, (node(), FILTER_PORT).into())?;
        client.greet("gateway.test")?;
        client.command("XCLIENT ADDR=10.1.0.2 PORT=4711 HELO=mail.customer.test PROTO=ESMTP")?.expect(220)?;
        client.command("EHLO mail.customer.test")?.expect(250)?;
        client.command(&format!("XFORWARD IDENT={id}"))?.expect(250)?;
        client.send_message("a@customer.test", &["b@v4.destination.test"], message)?;
        ensure!(began.elapsed() < patient(Duration::from_secs(20)), "{:?}", began.elapsed());
        self.filter.wait_message(&id)
    }

    /// Until the scanner finds again what it is to find.
    fn wait_found(&mut self, subject: &Subject) -> Result<()> {
        wait_for("a message that is scanned again", PATIENCE, || {
            let line = self.judge(&subject.message)?;
            Ok(line.field(subject.field).contains(subject.word).then_some(()))
        })
    }
}

/// A message that waits in vain for a scanner is judged in time all the same, and it is said; after a few the scanner is left
/// alone; when it is back, it is asked again. One that is slow is waited for.
fn holds_nobody_up_and_comes_back(subject: &Subject) -> Result<()> {
    let Subject { name, .. } = subject;
    Lab::run(&format!("scanner-{name}"), NarrowLink::Nowhere, |lab| {
        let mut scanner = (subject.start)(lab)?;
        let config = FilterConfig { sections: subject.section.clone(), ..FilterConfig::node(0) };
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        let mut sender = Sender { lab, filter: &filter, number: 0 };
        let well = sender.judge(&subject.message)?;
        ensure!(well.field(subject.field).contains(subject.word), "{well:?}");
        ensure!(well.field("unscanned").is_empty(), "{well:?}");

        scanner.signal(Signal::SIGSTOP)?;
        let slow = thread::scope(|scope| {
            let judged = scope.spawn(|| sender.judge(&subject.message));
            // It is slow, not away: within its time there is an answer.
            thread::sleep(Duration::from_secs(1));
            scanner.signal(Signal::SIGCONT)?;
            judged.join().map_err(|_| anyhow!("a panic"))?
        })?;
        ensure!(slow.field(subject.field).contains(subject.word), "{slow:?}");

        scanner.signal(Signal::SIGSTOP)?;
        let mut causes = Vec::new();
        for _ in 0..3 {
            causes.push(sender.judge(HAM)?.field("unscanned"));
        }
        let timed_out = format!("{name}: timed-out");
        ensure!(causes[..2] == [timed_out.clone(), timed_out], "{causes:?}");
        ensure!(causes[2] == format!("{name}: breaker-open"), "{causes:?}");
        let status = &WeirFilter::status(&lab.filter)?["scanners"][subject.in_status];
        ensure!(status["timed_out"] == 2 && status["breaker_open"] == 1, "{status:#}");
        ensure!(filter.output().contains("not asked for a while"), "{}", filter.output());
        scanner.signal(Signal::SIGCONT)?;
        sender.wait_found(subject)?;

        drop(scanner);
        let cause = sender.judge(HAM)?.field("unscanned");
        ensure!(cause == format!("{name}: failed"), "{cause}");
        scanner = (subject.start)(lab)?;
        sender.wait_found(subject)?;
        ensure!(filter.output().contains("the scanner answers again"), "{}", filter.output());
        drop(scanner);
        filter.stop()
    })
}
