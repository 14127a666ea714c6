//! A link of 1,300 bytes on the path, not next to either end: the connections live on ICMP errors, which
//! are addressed to the customer or the destination and concern the agent's sockets.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::smtp::{Client, Script, Server};

on_both_back_ends!(on_the_internet_side, on_the_customers_side, for_long_replies);

fn on_the_internet_side(backend: Backend) -> Result<()> {
    a_large_message_passes(backend, NarrowLink::InternetSide)
}

fn on_the_customers_side(backend: Backend) -> Result<()> {
    a_large_message_passes(backend, NarrowLink::CustomerSide)
}

fn a_large_message_passes(backend: Backend, narrow: NarrowLink) -> Result<()> {
    Lab::run("narrow", narrow, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let line = "0123456789".repeat(7) + "\n";
        let message = format!("Subject: large\n\n{}", line.repeat(2_000_000 / line.len()));
        let customer = Postfix::customer(&lab.customer)?;
        for (family, user) in [(Family::V4, "four"), (Family::V6, "six")] {
            let recipient = format!("{user}@{}", family.domain());
            customer.submit("sender@customer.test", &[&recipient], message.as_bytes())?;
            let stored = destination.wait_stored(user)?;
            assert!(stored.content.ends_with(message.as_bytes()), "not the same bytes");
            assert!(stored.came_from(family.customer()), "{}", stored.trace());
            assert!(!stored.came_by_tls(), "it went past weir: {}", stored.trace());
            // Only an ICMP error can have told it: the link is not next to it.
            let told = if narrow == NarrowLink::InternetSide { &lab.gateway } else { &lab.customer };
            knows_the_path_mtu(told, family.destination())?;
        }
        Ok(())
    })
}

/// The other direction: a reply that fills more than one segment of the narrow link to the customer.
fn for_long_replies(backend: Backend) -> Result<()> {
    Lab::run("narrow-reply", NarrowLink::CustomerSide, |lab| {
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let text = "5.1.1 this recipient is refused, and here is a long explanation why";
        let reply = format!("{}550 {text}", format!("550-{text}\r\n").repeat(39));
        for family in Family::BOTH {
            let script = Script::default().answering("RCPT", reply.clone());
            let server = Server::start(&lab.internet, family.destination(), script)?;
            let mut client = Client::connect(&lab.customer, server.address())?;
            client.greet("mail.customer.test")?;
            client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
            let refused = client.command("RCPT TO:<b@v4.destination.test>")?.expect(550)?;
            knows_the_path_mtu(&lab.gateway, family.customer())?;
            ensure!(refused.lines == vec![text; 40], "not the same reply: {} lines", refused.lines.len());
        }
        Ok(())
    })
}

fn knows_the_path_mtu(host: &Host, to: IpAddr) -> Result<()> {
    let route = host.sh(&format!("ip route get {to}"))?;
    ensure!(route.contains("mtu 1300"), "{} does not know the path's MTU: {route}", host.name());
    Ok(())
}
