//! Samples of spam: kept encrypted for one who has the key, while the messages go on.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::components::{Spamd, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

const DIRECTORY: &str = "/var/lib/weir-filter/quarantine";
const KEY: &str = "/root/quarantine.key";

/// The public one of a new pair; the secret one is in its file.
fn make_key(host: &Host) -> Result<String> {
    let pair = WeirFilter::ask(host, &["quarantine", "key"])?;
    host.write(KEY, &pair)?;
    let line = pair.lines().find_map(|line| line.strip_prefix("# quarantine.public_key = "));
    Ok(line.context("no public key")?.trim_matches('"').to_owned())
}

fn send(lab: &Lab, customer: &str, id: &str, message: &[u8]) -> Result<()> {
    let mut client = Client::connect(&lab.gateway, (Family::V4.filter_node(0), 10025).into())?;
    client.greet("gateway.test")?;
    client.command(&format!("XCLIENT ADDR={customer} HELO=mail.customer.test PROTO=ESMTP"))?.expect(220)?;
    client.command("EHLO mail.customer.test")?.expect(250)?;
    client.command(&format!("XFORWARD IDENT={id}"))?.expect(250)?;
    let reply = client.send_message("a@customer.test", &["b@v4.destination.test"], message)?;
    ensure!(reply.code == 250, "{id}: {}", reply.text());
    Ok(())
}

fn audited(host: &Host) -> Result<Vec<(String, String)>> {
    let audit =
        std::fs::read_to_string(host.path("/var/lib/weir-filter/filter-audit.jsonl")).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    audit
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line)?;
            let arguments = &line["arguments"];
            Ok((
                text(&line["action"]),
                text(if arguments["id"].is_null() { &arguments["customer"] } else { &arguments["id"] }),
            ))
        })
        .collect()
}

#[test]
fn samples_of_spam_are_kept_encrypted_shown_and_forgotten() -> Result<()> {
    Lab::run("quarantine", NarrowLink::Nowhere, |lab| {
        let (host, address) = (&lab.filter, Family::V4.filter_node(0));
        let spamd = Spamd::start(host, address)?;
        let text = format!(
            "[smtp]\nlisten = [\"{address}:10025\"]\nproxies = [\"{}/32\"]\n\
             [spamassassin]\naddress = \"{}\"\n[quarantine]\nenabled = true\npublic_key = \"{}\"\n\
             [privacy]\nno_content = [\"10.1.0.9/32\"]\n",
            Family::V4.proxy(),
            spamd.address(),
            make_key(host)?
        );
        let filter = WeirFilter::start_as(host, 0, &text)?;
        send(lab, "10.1.0.2", "ham", HAM)?;
        send(lab, "10.1.0.9", "closed", GTUBE)?;
        for id in ["spam-1", "spam-2", "spam-3"] {
            send(lab, "10.1.0.2", id, GTUBE)?;
        }
        send(lab, "10.1.0.3", "other", GTUBE)?;
        wait_until("three samples", PATIENCE, || {
            Ok(WeirFilter::status(host)?["quarantine"]["stored"].as_u64() == Some(3))
        })?;
        let status = &WeirFilter::status(host)?["quarantine"];
        ensure!(status["not_stored"]["customer_limit"] == 1 && status["samples"] == 3, "{status:#}");
        for entry in std::fs::read_dir(host.path(DIRECTORY))?.collect::<Result<Vec<_>, _>>()? {
            let octets = std::fs::read(entry.path())?;
            ensure!(!String::from_utf8_lossy(&octets).contains("GTUBE"), "{entry:?} is readable");
            let is_sample = entry.path().extension().is_some_and(|extension| extension == "sample");
            ensure!(!is_sample || entry.metadata()?.permissions().mode() & 0o777 == 0o600, "{entry:?}");
        }
        let list = WeirFilter::ask(host, &["quarantine", "list"])?;
        ensure!(list.contains("spam-1") && list.contains("spam-2") && list.contains("other"), "{list}");
        ensure!(!list.contains("spam-3") && !list.contains("ham") && !list.contains("closed"), "{list}");

        let shown = WeirFilter::ask(host, &["quarantine", "show", "spam-1", "--key", KEY])?;
        let plain = |text: &str| text.replace("\r\n", "\n");
        ensure!(plain(&shown).trim_end() == plain(&String::from_utf8_lossy(GTUBE)).trim_end(), "{shown}");
        host.write("/root/other.key", &WeirFilter::ask(host, &["quarantine", "key"])?)?;
        let refused =
            WeirFilter::command(host, &["quarantine", "show", "spam-1", "--key", "/root/other.key"])?;
        ensure!(
            !refused.success && refused.output.contains("the key is not the one of"),
            "{}",
            refused.output
        );

        let exported: Value =
            serde_json::from_str(&WeirFilter::ask(host, &["export", "--customer", "10.1.0.2"])?)?;
        let samples = exported["samples"].as_array().context("no samples in the export")?;
        ensure!(samples.len() == 2 && !exported.to_string().contains("XJS*C4JDBQADN1"), "{exported}");
        ensure!(
            samples
                .iter()
                .all(|one| one["encrypted"].as_str().is_some_and(|text| text.contains("BEGIN AGE")))
        );
        let forgotten = WeirFilter::ask(host, &["forget", "--customer", "10.1.0.2"])?;
        ensure!(forgotten.contains("and 2 samples"), "{forgotten}");
        let list = WeirFilter::ask(host, &["quarantine", "list"])?;
        ensure!(!list.contains("spam-") && list.contains("other"), "{list}");
        WeirFilter::ask(host, &["quarantine", "delete", "other"])?;
        ensure!(WeirFilter::ask(host, &["quarantine", "list"])?.contains("no samples"));
        let expected = [
            ("quarantine show", "spam-1"),
            ("quarantine show", "spam-1"),
            ("export", "10.1.0.2"),
            ("forget", "10.1.0.2"),
            ("rates clear", ""),
            ("quarantine delete", "other"),
        ];
        let audited = audited(host)?;
        let audited: Vec<_> = audited.iter().map(|(action, what)| (action.as_str(), what.as_str())).collect();
        ensure!(audited == expected, "{audited:?}");
        filter.stop()
    })
}
