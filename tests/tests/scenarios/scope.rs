//! What weir leaves alone.

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, way};
use weir_tests::smtp::{Client, Script, Server};

on_both_back_ends!(
    connections_older_than_the_agent_go_on,
    the_gateways_own_port_25_is_its_own,
    only_the_prefixes_are_intercepted,
);

/// Opened before the agent started, used while it runs, used after it has stopped.
fn connections_older_than_the_agent_go_on(backend: Backend) -> Result<()> {
    Lab::run("older", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut clients = vec![];
        for family in Family::BOTH {
            let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
            client.greet("mail.customer.test")?;
            clients.push((family, client));
        }
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for (family, client) in &mut clients {
            assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Intercepted);
            let user = format!("{family:?}").to_lowercase();
            client
                .send_message("a@customer.test", &[&format!("{user}-1@v4.destination.test")], HAM)?
                .expect(250)?;
            assert!(destination.wait_stored(&format!("{user}-1"))?.came_from(family.customer()));
        }
        assert!(agent.messages().is_empty(), "the agent had a hand in it");
        agent.stop()?;
        for (family, client) in &mut clients {
            let user = format!("{family:?}").to_lowercase();
            client
                .send_message("a@customer.test", &[&format!("{user}-2@v4.destination.test")], HAM)?
                .expect(250)?;
            destination.wait_stored(&format!("{user}-2"))?;
            client.command("STARTTLS")?.expect(220)?;
        }
        Ok(())
    })
}

/// Also where its mail server listens on all addresses: that socket must not be taken for a flow.
fn the_gateways_own_port_25_is_its_own(backend: Backend) -> Result<()> {
    Lab::run("own-port", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let script = Script { banner: "220 gateway.provider.test ESMTP".into(), ..Script::default() };
        let own = Server::start(&lab.gateway, std::net::Ipv6Addr::UNSPECIFIED.into(), script)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let mut client = Client::connect(&lab.customer, (family.gateway(), 25).into())?;
            assert_eq!(client.expect(220)?.text(), "gateway.provider.test ESMTP");
            assert!(
                client.command("EHLO mail.customer.test")?.announces("STARTTLS"),
                "{}",
                client.transcript()
            );
            assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Intercepted);
        }
        assert_eq!(own.sessions().len(), Family::BOTH.len(), "mail for the destination came here");
        Ok(())
    })
}

fn only_the_prefixes_are_intercepted(backend: Backend) -> Result<()> {
    Lab::run("prefixes", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            let to = family.destination();
            for (from, expected) in [
                (family.customer(), Way::Intercepted),
                (family.other_customer(), Way::Intercepted),
                (family.outsider(), Way::Straight),
            ] {
                assert_eq!(way(&lab.customer, from, to)?, expected, "from {from}");
            }
        }
        Ok(())
    })
}
