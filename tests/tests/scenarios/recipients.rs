//! RCPT-time policy: the filter is asked about each recipient before the destination is.

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, FilterConfig, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::smtp::{Client, Script, Server, Session};
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(a_recipient_that_the_filter_refuses_never_reaches_the_destination);

fn a_recipient_that_the_filter_refuses_never_reaches_the_destination(backend: Backend) -> Result<()> {
    Lab::run("recipients", NarrowLink::Nowhere, |lab| {
        let mut config = AgentConfig::new(backend);
        config.nodes.truncate(1);
        config.filter_lines = "ask_recipients = true".into();
        let blocking = Script::filter_node().answering("RCPT", "550 5.7.1 recipient is blocked");
        let _node = Server::start_at(&lab.filter, config.nodes[0], blocking)?;
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        for family in Family::BOTH {
            let destination = Server::start(&lab.internet, family.destination(), Script::default())?;
            let mut client = Client::connect(&lab.customer, destination.address())?;
            client.greet("mail.customer.test")?;
            client
                .send(b"MAIL FROM:<a@customer.test>\r\nRCPT TO:<b@destination.test>\r\nNOOP\r\nQUIT\r\n")?;
            client.expect(250)?;
            let refusal = client.expect(550)?;
            ensure!(refusal.text().contains("recipient is blocked"), "{}", client.transcript());
            client.expect(250)?;
            client.expect(221)?;
            let ended = |session: &Session| session.closed;
            let session = destination.wait_session("the session's end", ended)?;
            ensure!(session.peer.ip() == family.customer(), "{session:?}");
            let asked = session.commands.iter().any(|line| line.starts_with("RCPT"));
            ensure!(!asked, "the destination heard of the recipient: {session:?}");
        }
        Ok(())
    })
}

const POLICY: &str = r#"
function connect(message)
    if not rate("connections", message.identity, 2, 3600) then
        reject("At most two connections", { rule = "connections" })
    end
end

function rcpt(message)
    if message.recipient_domain == "closed.test" then
        reject("Nobody writes to " .. message.recipient, { rule = "closed" })
    end
    if not rate("recipients", message.identity, 3, 3600) then
        defer("At most three recipients", { rule = "recipients" })
    end
end
"#;

/// Asked about one by one, and again with the message: each recipient and each connection counts once.
#[test]
fn a_script_is_asked_about_connections_and_recipients() -> Result<()> {
    Lab::run("recipients-script", NarrowLink::Nowhere, |lab| {
        const SCRIPT: &str = "/etc/weir/policy.luau";
        lab.filter.write(SCRIPT, POLICY)?;
        let mut filter = FilterConfig::node(0);
        filter.smtp_lines = format!("[script]\nfile = {SCRIPT:?}\n");
        let filter = WeirFilter::start(&lab.filter, 0, &filter)?;
        let mut config = AgentConfig::new(Backend::Ebpf);
        config.nodes.truncate(1);
        config.filter_lines = "ask_recipients = true".into();
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        let destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let begin = || {
            let mut client = Client::connect(&lab.customer, destination.address())?;
            client.greet("mail.customer.test")?;
            client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
            anyhow::Ok(client)
        };
        let mut client = begin()?;
        let mut say = |command: &str| client.command(command);
        for (recipient, code, words) in [
            ("a@open.test", 250, ""),
            ("b@closed.test", 550, "Nobody writes to b@closed.test"),
            ("b@open.test", 250, ""),
            ("c@open.test", 250, ""),
            ("d@open.test", 451, "At most three recipients"),
        ] {
            let reply = say(&format!("RCPT TO:<{recipient}>"))?;
            ensure!(reply.code == code && reply.text().contains(words), "{recipient}: {}", reply.text());
        }
        say("DATA")?;
        let reply = say("Subject: one\r\n\r\nx\r\n.")?;
        ensure!(reply.code == 250, "{}", reply.text());
        let session = destination.wait_session("the message", |session| !session.messages.is_empty())?;
        let recipients = session.commands.iter().filter(|line| line.starts_with("RCPT")).count();
        ensure!(recipients == 3, "{session:?}");

        let mut second = begin()?;
        second.command("RCPT TO:<x@closed.test>")?.expect(550)?;
        let mut third = begin()?;
        let refused = third.command("RCPT TO:<x@open.test>")?.expect(550)?;
        ensure!(refused.text().contains("At most two connections"), "{}", refused.text());
        wait_until("the count of refusals", PATIENCE, || {
            Ok(WeirFilter::status(&lab.filter)?["messages"]["refused_early"] == 4)
        })?;
        filter.stop()
    })
}
