//! RCPT-time policy: the filter is asked about each recipient before the destination is.

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, WeirAgent};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::smtp::{Client, Script, Server, Session};

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
