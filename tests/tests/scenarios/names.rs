//! Lists in the DNS, checks of the envelope, and maps, with a real name server.

use anyhow::{Result, ensure};
use serde_json::Value;
use weir_tests::components::{FilterConfig, Spamd, WeirFilter, name_server};
use weir_tests::lab::{Family, Host, Lab, NarrowLink, Process};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

const SCRIPT: &str = "/etc/weir/policy.luau";
const SENDERS: &str = "/etc/weir/senders";

/// What the name server knows: of each 10.1.0.x another answer.
fn records() -> Vec<String> {
    [
        "--host-record=2.0.1.10.bad.test,127.0.0.2",
        "--host-record=3.0.1.10.bad.test,127.0.0.9",
        "--host-record=4.0.1.10.bad.test,127.255.255.254",
        "--host-record=5.0.1.10.good.test,127.0.5.3",
        "--host-record=6.0.1.10.good.test,127.0.0.255",
        "--address=/b.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.bad.test/127.0.0.2",
        "--host-record=7.0.1.10.list.dnswl.org,127.0.9.3",
        "--host-record=8.0.1.10.list.dnswl.org,127.0.9.2",
        "--local=/org/",
        "--mx-host=customer.test,mail.customer.test,10",
        "--host-record=v4.destination.test,10.2.0.2",
        "--mx-host=null.test,.,0",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A name server that the filter node asks, and spamd does not: it would ask who connects to it.
fn for_the_node(lab: &Lab) -> Result<Process> {
    let server = name_server(&lab.filter, &records())?;
    lab.filter.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")?;
    Ok(server)
}

/// What a node says of a message: the reply to its end.
fn tell(lab: &Lab, customer: &str, sender: &str, message: &[u8]) -> Result<String> {
    let mut client = Client::connect(&lab.gateway, (Family::V4.filter_node(0), 10025).into())?;
    client.greet("gateway.test")?;
    client.command(&format!("XCLIENT ADDR={customer} HELO=mail.customer.test PROTO=ESMTP"))?.expect(220)?;
    client.command("EHLO mail.customer.test")?.expect(250)?;
    client.command("XFORWARD IDENT=id")?.expect(250)?;
    let reply = client.send_message(sender, &["b@v4.destination.test"], message)?;
    Ok(format!("{} {}", reply.code, reply.text()))
}

fn expect(lab: &Lab, customer: &str, sender: &str, message: &[u8], beginning: &str) -> Result<()> {
    let told = tell(lab, customer, sender, message)?;
    ensure!(told.starts_with(beginning), "{customer} {sender}: {told:?} instead of {beginning:?}");
    Ok(())
}

fn outside(host: &Host) -> Result<Value> {
    Ok(WeirFilter::status(host)?["outside"].clone())
}

#[test]
fn lists_and_names_decide_and_a_dead_name_server_refuses_nobody() -> Result<()> {
    Lab::run("names", NarrowLink::Nowhere, |lab| {
        let mut server = for_the_node(lab)?;
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        lab.filter.write(SENDERS, "blocked@customer.test We know you\n")?;
        let mut config = FilterConfig::node(0).asking(spamd.address());
        let list = |name: &str, action: &str| {
            format!(
                "[[dns.lists]]\nname = \"{name}\"\nzone = \"{name}.test\"\nvalues = [\"127.0.*.2-3\"]\nuse = \"{action}\"\n"
            )
        };
        let sections = |timeout: u64| {
            format!(
                "[envelope]\nsender_domain_exists = \"reject\"\nrecipient_domain_exists = \"reject\"\nsender_fqdn = \"log\"\n\
             [[maps.files]]\nfile = {SENDERS:?}\nof = \"sender\"\nuse = \"reject\"\n\
             [dns]\ntimeout_ms = {timeout}\nmax_ttl = 1\n{}{}",
                list("bad", "reject"),
                list("good", "allow")
            )
        };
        config.sections = sections(5000);
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        let known = "a@customer.test";
        // Listed; not listed by this answer; an error of the list; nothing.
        expect(lab, "10.1.0.2", known, HAM, "550 5.7.1 Your mail is not taken: listed by bad (id)")?;
        expect(lab, "10.1.0.3", known, HAM, "250 ")?;
        expect(lab, "10.1.0.4", known, HAM, "250 ")?;
        expect(lab, "10.1.0.9", known, HAM, "250 ")?;
        expect(lab, "IPV6:fd01::2b", known, HAM, "550 5.7.1 Your mail is not taken: listed by bad (id)")?;
        // SpamAssassin is not asked of whom a list knows as good, and is where the list answers with an error.
        expect(lab, "10.1.0.5", known, GTUBE, "250 ")?;
        expect(lab, "10.1.0.6", known, GTUBE, "550 5.7.1 SpamAssassin score")?;
        // The sender's domain: not there, and one that says that it takes no mail.
        expect(lab, "10.1.0.9", "a@gone.test", HAM, "550 5.1.8 The sender's domain gone.test has neither")?;
        expect(
            lab,
            "10.1.0.9",
            "a@null.test",
            HAM,
            "550 5.7.27 The sender's domain null.test takes no mail",
        )?;
        // What is only to be logged.
        expect(lab, "10.1.0.9", "a@localhost", HAM, "250 ")?;
        expect(lab, "10.1.0.9", "", HAM, "250 ")?;
        expect(lab, "10.1.0.9", "blocked@customer.test", HAM, "550 5.7.1 We know you (id)")?;
        let status = outside(&lab.filter)?;
        ensure!(status["lists"]["bad"]["errors"] == 1 && status["lists"]["bad"]["listed"] == 2, "{status:#}");
        ensure!(
            status["lists"]["good"]["errors"] == 1 && status["lists"]["good"]["listed"] == 1,
            "{status:#}"
        );
        ensure!(status["envelope"]["sender_domain_exists"] == 2, "{status:#}");
        ensure!(status["envelope"]["sender_fqdn"] == 1 && status["dns"]["failed"] == 0, "{status:#}");

        // A map is read again; a broken one changes nothing, and that is said.
        lab.filter.write(SENDERS, "other@customer.test\nno such thing@@\n@\n")?;
        let problem = || -> Result<String> {
            let status = outside(&lab.filter)?;
            Ok(status["maps"][0]["problem"].as_str().unwrap_or_default().to_owned())
        };
        wait_until("the broken map to be told", PATIENCE, || Ok(!problem()?.is_empty()))?;
        ensure!(problem()?.starts_with(&format!("{SENDERS}: line 3: \"@\" is none of")), "{}", problem()?);
        expect(lab, "10.1.0.9", "blocked@customer.test", HAM, "550 5.7.1 We know you (id)")?;
        lab.filter.write(SENDERS, "other@customer.test\n")?;
        wait_until("the map to be read", PATIENCE, || Ok(problem()?.is_empty()))?;
        expect(lab, "10.1.0.9", "blocked@customer.test", HAM, "250 ")?;
        expect(lab, "10.1.0.9", "other@customer.test", HAM, "550 5.7.1 Mail of this sender is not taken")?;

        // Nobody answers any more: what was refused for a name is not, and status says why.
        filter.stop()?;
        config.sections = sections(500);
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        wait_until("a name that is not there to be refused", PATIENCE, || {
            Ok(tell(lab, "10.1.0.9", "a@gone.test", HAM)?.starts_with("550 5.1.8 "))
        })?;
        server.kill()?;
        wait_until("what is known of names to be forgotten", PATIENCE, || {
            Ok(tell(lab, "10.1.0.2", "a@gone.test", HAM)?.starts_with("250 "))
        })?;
        expect(lab, "10.1.0.5", known, GTUBE, "550 5.7.1 SpamAssassin score")?;
        let status = outside(&lab.filter)?;
        ensure!(status["dns"]["failed"].as_u64() > Some(0), "{status:#}");
        ensure!(status["lists"]["bad"]["away"].as_u64() > Some(0), "{status:#}");
        ensure!(filter.output().contains("no answer, which is held against nobody"), "{}", filter.output());
        filter.stop()
    })
}

/// The ported script asks lists by itself; `weir-filter try` asks them only when told to.
#[test]
fn scripts_ask_lists() -> Result<()> {
    Lab::run("names-script", NarrowLink::Nowhere, |lab| {
        let _server = for_the_node(lab)?;
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        lab.filter.write(SCRIPT, include_str!("../../../filter/examples/seed-003.luau"))?;
        lab.filter.write("/etc/weir/m.eml", HAM)?;
        let mut config = FilterConfig::node(0).asking(spamd.address());
        config.smtp_lines = format!("[script]\nfile = {SCRIPT:?}\n");
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        expect(lab, "10.1.0.7", "a@customer.test", GTUBE, "250 ")?;
        expect(lab, "10.1.0.8", "a@customer.test", GTUBE, "550 5.7.1 SpamAssassin thinks")?;
        expect(lab, "10.1.0.9", "a@customer.test", GTUBE, "550 5.7.1 SpamAssassin thinks")?;
        let tried = |more: &[&str]| -> Result<String> {
            let arguments = ["try", "--script", SCRIPT, "--message", "/etc/weir/m.eml", "--from", "10.1.0.7"];
            let arguments =
                [&arguments[..], &["--score", "9", "--config", "/etc/weir/filter0.toml"], more].concat();
            Ok(WeirFilter::command(&lab.filter, &arguments)?.output)
        };
        let silent = tried(&[])?;
        ensure!(
            silent.contains("dnsbl(\"list.dnswl.org\") = {\"listed\":false,\"value\":null,\"unknown\":true}"),
            "{silent}"
        );
        ensure!(silent.contains("verdict: reject: "), "{silent}");
        let asked = tried(&["--ask"])?;
        ensure!(
            asked.contains(
                "dnsbl(\"list.dnswl.org\") = {\"listed\":true,\"value\":\"127.0.9.3\",\"unknown\":false}"
            ),
            "{asked}"
        );
        ensure!(asked.contains("verdict: accept: "), "{asked}");
        filter.stop()
    })
}
