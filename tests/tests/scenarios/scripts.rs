//! Policy scripts on a running node, with the real spamd.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};
use weir_tests::components::{FilterConfig, Spamd, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::{Client, Reply};
use weir_tests::wait::{PATIENCE, wait_until};

const SCRIPT: &str = "/etc/weir/policy.luau";

/// Scores, counts, and a sender on whose mail the script never ends.
const POLICY: &str = r#"
function data(message)
    if message.sender == "bomb@customer.test" then
        while true do pcall(function() while true do end end) end
    end
    if not rate("three", message.identity, 3, 3600) then
        defer("At most {limit}\nAsk {contact}", { limit = "3 messages an hour", rule = "three" })
    end
    local result = scan("spamassassin")
    if result.score > 100 then
        reject("Spam: " .. table.concat(result.symbols, " "), { code = 554, rule = "spam" })
    end
end
"#;

fn scripted(spamd: SocketAddr) -> FilterConfig {
    let mut config = FilterConfig::node(0).asking(spamd);
    config.smtp_lines = format!(
        "[script]\nfile = {SCRIPT:?}\non_script_error = \"defer\"\n[texts]\ncontact = \"abuse@provider.test\"\n"
    );
    config
}

#[test]
fn a_script_decides_and_is_replaced_while_mail_flows() -> Result<()> {
    Lab::run("scripts", NarrowLink::Nowhere, |lab| {
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        lab.filter.write(SCRIPT, POLICY)?;
        let filter = WeirFilter::start(&lab.filter, 0, &scripted(spamd.address()))?;
        let spam = send(lab, "s1", "a@customer.test", GTUBE)?;
        ensure!(
            spam.code == 554 && spam.text().contains("GTUBE") && spam.text().contains("(s1)"),
            "{}",
            spam.text()
        );
        ensure!(filter.wait_message("s1")?.field("rule") == "spam");
        for id in ["h1", "h2"] {
            ensure!(send(lab, id, "a@customer.test", HAM)?.code == 250);
        }
        let beyond = send(lab, "h3", "a@customer.test", HAM)?;
        ensure!(
            beyond.code == 451 && beyond.text().contains("At most 3 messages an hour"),
            "{}",
            beyond.text()
        );
        ensure!(beyond.text().contains("Ask abuse@provider.test (h3)"), "{}", beyond.text());

        // One that errs on the samples is refused, and says so.
        lab.filter.write(SCRIPT, "function data(message) return message.sender_domain:lower() end")?;
        let refused = || -> Result<String> {
            let status = WeirFilter::status(&lab.filter)?;
            Ok(status["script"]["active"]["refused"].as_str().unwrap_or_default().to_owned())
        };
        wait_until("the broken script to be refused", PATIENCE, || Ok(!refused()?.is_empty()))?;
        ensure!(refused()?.contains("sample plain.eml (no sender, clean)"), "{}", refused()?);
        ensure!(send(lab, "h4", "a@customer.test", HAM)?.code == 451);

        lab.filter.write(SCRIPT, "function data() reject('replaced') end")?;
        wait_until("the new script", PATIENCE, || Ok(refused()?.is_empty()))?;
        let replaced = send(lab, "h5", "a@customer.test", HAM)?;
        ensure!(replaced.code == 550 && replaced.text().contains("replaced (h5)"), "{}", replaced.text());
        filter.stop()
    })
}

/// As many bombs as there are threads, and more.
#[test]
fn script_bombs_end_while_other_messages_go_on() -> Result<()> {
    Lab::run("script-bombs", NarrowLink::Nowhere, |lab| {
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        lab.filter.write(SCRIPT, POLICY)?;
        let filter = WeirFilter::start(&lab.filter, 0, &scripted(spamd.address()))?;
        thread::scope(|scope| -> Result<()> {
            let bombs: Vec<_> = (0..8)
                .map(|number| {
                    scope.spawn(move || send(lab, &format!("bomb-{number}"), "bomb@customer.test", HAM))
                })
                .collect();
            ensure!(send(lab, "other", "a@customer.test", HAM)?.code == 250);
            for bomb in bombs {
                let Ok(reply) = bomb.join() else { anyhow::bail!("a sender panicked") };
                let reply = reply?;
                ensure!(reply.code == 451 && reply.text().contains("unable to judge"), "{}", reply.text());
            }
            Ok(())
        })?;
        let began = Instant::now();
        ensure!(send(lab, "after", "a@customer.test", HAM)?.code == 250);
        ensure!(began.elapsed() < PATIENCE);
        ensure!(filter.wait_message("bomb-7")?.field("rule") == "script-error");
        ensure!(WeirFilter::status(&lab.filter)?["script"]["active"]["errors"] == 8);
        filter.stop()
    })
}

/// Nothing is changed by it, and the counts of the node are seen.
#[test]
fn a_decision_is_shown_step_by_step() -> Result<()> {
    Lab::run("script-try", NarrowLink::Nowhere, |lab| {
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        lab.filter.write(SCRIPT, POLICY)?;
        lab.filter.write("/etc/weir/m.eml", HAM)?;
        let filter = WeirFilter::start(&lab.filter, 0, &scripted(spamd.address()))?;
        for id in ["h1", "h2", "h3"] {
            ensure!(send(lab, id, "a@customer.test", HAM)?.code == 250);
        }
        let tried = |from: &str| -> Result<String> {
            let arguments = [
                "try",
                "--script",
                SCRIPT,
                "--message",
                "/etc/weir/m.eml",
                "--from",
                from,
                "--score",
                "1000",
                "--config",
                "/etc/weir/filter0.toml",
            ];
            Ok(WeirFilter::command(&lab.filter, &arguments)?.output)
        };
        let elsewhere = tried("10.1.0.99")?;
        ensure!(elsewhere.contains("1. rate(\"three\", \"10.1.0.99\", 3, 3600) = true"), "{elsewhere}");
        // The node saves its counts every few seconds.
        wait_until("the node's counts to be seen", PATIENCE, || {
            Ok(tried("10.1.0.2")?.contains("verdict: defer: 451 4.7.1 At most 3 messages an hour"))
        })?;
        filter.stop()
    })
}

fn send(lab: &Lab, id: &str, sender: &str, message: &[u8]) -> Result<Reply> {
    let mut client = Client::connect(&lab.gateway, (Family::V4.filter_node(0), 10025).into())?;
    client.greet("gateway.test")?;
    client.command("XCLIENT ADDR=10.1.0.2 PORT=4711 HELO=mail.customer.test PROTO=ESMTP")?.expect(220)?;
    client.command("EHLO mail.customer.test")?.expect(250)?;
    client.command(&format!("XFORWARD IDENT={id}"))?.expect(250)?;
    client.send_message(sender, &["b@v4.destination.test"], message)
}
