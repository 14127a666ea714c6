//! What a customer's session can and cannot do, seen from both ends.

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, FilterConfig, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::smtp::{Client, Script, Server, stuffed};

on_both_back_ends!(
    starttls_is_gone_and_refused,
    nobody_speaks_for_another,
    refused_recipients_are_told_apart,
    a_refused_message_never_completes,
    pipelined_commands_are_answered_in_order,
);

fn starttls_is_gone_and_refused(backend: Backend) -> Result<()> {
    Lab::run("starttls", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        for family in Family::BOTH {
            let to = (family.destination(), 25).into();
            let mut straight = Client::connect(&lab.customer, to)?;
            assert!(straight.greet("mail.customer.test")?.announces("STARTTLS"), "{}", straight.transcript());
        }
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let to = (family.destination(), 25).into();
            let mut client = Client::connect(&lab.customer, to)?;
            let extensions = client.greet("mail.customer.test")?;
            assert!(!extensions.announces("STARTTLS"), "{}", client.transcript());
            // The destination's own, not an imitation of weir's.
            assert!(extensions.text().contains("mx.destination.test"), "{}", client.transcript());
            assert!(extensions.announces("SIZE"), "{}", client.transcript());
            let refused = client.command("STARTTLS")?;
            assert!((500..=504).contains(&refused.code), "{}", client.transcript());
            client.send_message("a@customer.test", &["user@v4.destination.test"], HAM)?.expect(250)?;
        }
        Ok(())
    })
}

/// XCLIENT and XFORWARD of a customer are refused and never passed on, even where the destination offers them.
fn nobody_speaks_for_another(backend: Backend) -> Result<()> {
    Lab::run("identity", NarrowLink::Nowhere, |lab| {
        let offering = "250-mx.destination.test\r\n250-PIPELINING\r\n250-XCLIENT NAME ADDR\r\n250-XFORWARD ADDR\r\n250 SIZE";
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let script = Script::default().answering("EHLO", offering);
            let server = Server::start(&lab.internet, family.destination(), script)?;
            let mut client = Client::connect(&lab.customer, server.address())?;
            let extensions = client.greet("mail.customer.test")?;
            for verb in ["XCLIENT", "XFORWARD"] {
                assert!(!extensions.announces(verb), "{}", client.transcript());
                let refused = client.command(&format!("{verb} ADDR=192.0.2.1"))?;
                assert!((500..=504).contains(&refused.code), "{}", client.transcript());
            }
            client.send_message("a@customer.test", &["user@v4.destination.test"], HAM)?.expect(250)?;
            client.command("QUIT")?;
            let session = server.wait_session("the session's end", |session| session.closed)?;
            assert_eq!(session.peer.ip(), family.customer());
            let leaked = session.commands.iter().find(|command| command.to_uppercase().starts_with('X'));
            assert_eq!(leaked, None);
            let customers: Vec<_> =
                filters.iter().flat_map(WeirFilter::messages).map(|line| line.field("customer")).collect();
            assert!(customers.contains(&family.customer().to_string()), "{customers:?}");
            assert!(!customers.iter().any(|customer| customer.contains("192.0.2.1")), "{customers:?}");
        }
        Ok(())
    })
}

/// Each recipient gets the destination's own answer, and the message's final answer is the destination's.
fn refused_recipients_are_told_apart(backend: Backend) -> Result<()> {
    Lab::run("replies", NarrowLink::Nowhere, |lab| {
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let script = Script::default()
            .answering("RCPT", "550-5.1.1 nobody of that name\r\n550 5.1.1 ask the postmaster")
            .answering(".", "554 5.6.0 not today");
        let refusing = Server::start(&lab.internet, Family::V4.destination(), script)?;
        let mut client = Client::connect(&lab.customer, refusing.address())?;
        client.greet("mail.customer.test")?;
        client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
        let reply = client.command("RCPT TO:<b@destination.test>")?.expect(550)?;
        assert_eq!(reply.lines, ["5.1.1 nobody of that name", "5.1.1 ask the postmaster"]);
        let data = client.command("DATA")?;
        assert!((500..=599).contains(&data.code), "DATA without a recipient: {}", client.transcript());
        client.command("QUIT")?;
        drop(refusing);

        let script = Script::default().answering(".", "554 5.6.0 not today");
        let late = Server::start(&lab.internet, Family::V6.destination(), script)?;
        let mut client = Client::connect(&lab.customer, late.address())?;
        client.greet("mail.customer.test")?;
        let reply = client.send_message("a@customer.test", &["b@destination.test"], HAM)?.expect(554)?;
        assert_eq!(reply.lines, ["5.6.0 not today"]);
        let line = agent.wait_message("the line of the message the destination refused", |_| true)?;
        assert_eq!(line.field("verdict"), "accept", "the filter had nothing against it");
        Ok(())
    })
}

/// Two messages in one session, the second over the limit: the destination gets one.
fn a_refused_message_never_completes(backend: Backend) -> Result<()> {
    Lab::run("refused", NarrowLink::Nowhere, |lab| {
        let _filter = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0).limited_to(1))?;
        let mut config = AgentConfig::new(backend);
        config.nodes.truncate(1);
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        for family in Family::BOTH {
            let server = Server::start(&lab.internet, family.destination(), Script::default())?;
            let mut client = Client::connect(&lab.customer, server.address())?;
            client.greet("mail.customer.test")?;
            client.send_message("a@customer.test", &["b@destination.test"], HAM)?.expect(250)?;
            client.send_message("a@customer.test", &["b@destination.test"], HAM)?.expect(451)?;
            client.command("QUIT")?.expect(221)?;
            let session = server.wait_session("the session's end", |session| session.closed)?;
            assert_eq!(session.messages.len(), 1, "{:?}", session.commands);
            assert_eq!(session.messages[0], stuffed(HAM).strip_suffix(b".\r\n").unwrap_or_default());
            assert_eq!(session.commands.iter().filter(|command| *command == "DATA").count(), 1);
        }
        Ok(())
    })
}

/// Everything up to DATA in one segment, as Postfix sends it; one of the recipients is refused.
fn pipelined_commands_are_answered_in_order(backend: Backend) -> Result<()> {
    Lab::run("pipelined", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
            client.greet("mail.customer.test")?;
            client.send(
                b"MAIL FROM:<a@customer.test>\r\nRCPT TO:<b@elsewhere.test>\r\n\
                  RCPT TO:<b@v4.destination.test>\r\nDATA\r\n",
            )?;
            client.expect(250)?;
            client.expect(554)?;
            client.expect(250)?;
            client.expect(354)?;
            client.send(&[stuffed(HAM).as_slice(), b"QUIT\r\n"].concat())?;
            client.expect(250)?;
            client.expect(221)?;
            assert!(client.is_closed()?, "{}", client.transcript());
        }
        Ok(())
    })
}
