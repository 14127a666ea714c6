//! The scanners that a filter node asks: the real programs, well, hung and dead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::components::{
    CIcap, CLAMD_SOCKET, Clamd, FilterConfig, Finished, LogLine, Rspamd, Spamd, WeirFilter,
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
        lab.filter.sh("mkdir -p /var/lib/weir")?;

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

/// A message that waits in vain for a scanner is judged in time all the same, and it is said; after a few the scanner is left
/// alone; when it is back, it is asked again.
#[test]
fn a_scanner_that_hangs_or_dies_holds_nobody_up_and_comes_back() -> Result<()> {
    Lab::run("scanners-breaker", NarrowLink::Nowhere, |lab| {
        let address = Family::V4.filter_node(0);
        let mut spamd = Spamd::start(&lab.filter, address)?;
        let mut config = FilterConfig::node(0).asking(spamd.address());
        config.spamd_lines = "timeout = 2\nbreaker_failures = 2\nbreaker_pause = 1\n".into();
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        let mut number = 0;
        let mut judge = |message: &[u8]| -> Result<LogLine> {
            number += 1;
            let id = format!("id-{number}");
            let began = Instant::now();
            let mut client = Client::connect(&lab.gateway, (address, 10025).into())?;
            client.greet("gateway.test")?;
            client
                .command("XCLIENT ADDR=10.1.0.2 PORT=4711 HELO=mail.customer.test PROTO=ESMTP")?
                .expect(220)?;
            client.command("EHLO mail.customer.test")?.expect(250)?;
            client.command(&format!("XFORWARD IDENT={id}"))?.expect(250)?;
            client.send_message("a@customer.test", &["b@v4.destination.test"], message)?;
            ensure!(began.elapsed() < patient(Duration::from_secs(20)), "{:?}", began.elapsed());
            filter.wait_message(&id)
        };
        let scanned = judge(GTUBE)?;
        ensure!(
            scanned.field("symbols").contains("GTUBE") && scanned.field("unscanned").is_empty(),
            "{scanned:?}"
        );

        spamd.signal_all(Signal::SIGSTOP)?;
        let mut causes = Vec::new();
        for _ in 0..3 {
            causes.push(judge(HAM)?.field("unscanned"));
        }
        ensure!(causes[0] == "spamassassin: timed-out" && causes[1] == causes[0], "{causes:?}");
        ensure!(causes[2] == "spamassassin: breaker-open", "{causes:?}");
        let status = &WeirFilter::status(&lab.filter)?["scanners"]["spamassassin"];
        ensure!(status["timed_out"] == 2 && status["breaker_open"] == 1, "{status:#}");
        ensure!(filter.output().contains("not asked for a while"), "{}", filter.output());
        spamd.signal_all(Signal::SIGCONT)?;
        let again = |judge: &mut dyn FnMut(&[u8]) -> Result<LogLine>| {
            wait_for("a message that is scanned again", PATIENCE, || {
                Ok(Some(judge(GTUBE)?).filter(|line| line.field("symbols").contains("GTUBE")))
            })
        };
        again(&mut judge)?;

        drop(spamd);
        let cause = judge(HAM)?.field("unscanned");
        ensure!(cause == "spamassassin: failed", "{cause}");
        spamd = Spamd::start(&lab.filter, address)?;
        again(&mut judge)?;
        ensure!(filter.output().contains("the scanner answers again"), "{}", filter.output());
        drop(spamd);
        Ok(())
    })
}
