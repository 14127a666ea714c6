//! Filter nodes that die.

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::smtp::Client;

on_both_back_ends!(
    one_node_killed_and_mail_is_still_judged,
    without_nodes_mail_is_deferred,
    without_nodes_mail_is_accepted_if_so_configured,
);

fn one_node_killed_and_mail_is_still_judged(backend: Backend) -> Result<()> {
    Lab::run("one-node", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        // Each in turn is the one that is left.
        for dead in 0..2 {
            let mut filters = WeirFilter::start_both(&lab.filter, |config| config)?;
            let before = agent.messages().len();
            filters[dead].kill()?;
            for family in Family::BOTH {
                send(lab, family)?.expect(250)?;
            }
            agent.wait_message("lines of both messages", |_| agent.messages().len() == before + 2)?;
            let lines = agent.messages();
            for line in &lines[before..] {
                assert_eq!(line.field("verdict"), "accept");
                filters[1 - dead].wait_message(&line.field("id"))?;
            }
        }
        Ok(())
    })
}

fn without_nodes_mail_is_deferred(backend: Backend) -> Result<()> {
    Lab::run("no-node-defer", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        for mut filter in filters {
            filter.kill()?;
        }
        for family in Family::BOTH {
            let reply = send(lab, family)?.expect(451)?;
            let line = agent.wait_message("the deferred message's line", |line| {
                reply.text().contains(&line.field("id"))
            })?;
            assert_ne!(line.field("verdict"), "accept");
        }
        assert!(destination.stored_users()?.is_empty());
        // A node that comes back is used again.
        let _back = WeirFilter::start_both(&lab.filter, |config| config)?;
        weir_tests::wait::wait_until("mail to be accepted again", weir_tests::wait::PATIENCE, || {
            Ok(send(lab, Family::V4)?.code == 250)
        })
    })
}

fn without_nodes_mail_is_accepted_if_so_configured(backend: Backend) -> Result<()> {
    Lab::run("no-node-accept", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend).accepting_without_nodes())?;
        for family in Family::BOTH {
            send(lab, family)?.expect(250)?;
        }
        destination.wait_stored("v4")?;
        let stored = destination.wait_stored("v6")?;
        assert!(!stored.came_by_tls(), "it went through weir, without its verdict: {}", stored.trace());
        Ok(())
    })
}

/// The final reply to a message for the user `v4` or `v6`.
fn send(lab: &Lab, family: Family) -> Result<weir_tests::smtp::Reply> {
    let mut client =
        Client::connect_from(&lab.customer, family.customer(), (family.destination(), 25).into())?;
    client.greet("mail.customer.test")?;
    let user = format!("{family:?}@v4.destination.test").to_lowercase();
    client.send_message("sender@customer.test", &[&user], HAM)
}
