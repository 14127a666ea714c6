//! A message from the customer's Postfix to the destination's, and who the destination thinks it is from.

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::HAM;

on_both_back_ends!(over_ipv4, over_ipv6);

fn over_ipv4(backend: Backend) -> Result<()> {
    delivered_with_the_customers_own_address(backend, Family::V4)
}

fn over_ipv6(backend: Backend) -> Result<()> {
    delivered_with_the_customers_own_address(backend, Family::V6)
}

fn delivered_with_the_customers_own_address(backend: Backend, family: Family) -> Result<()> {
    Lab::run("delivery", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let customer = Postfix::customer(&lab.customer)?;
        let filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;

        let recipient = format!("user@{}", family.domain());
        customer.submit("sender@customer.test", &[&recipient, "copy@customer.test"], HAM)?;

        let stored = destination.wait_stored("user")?;
        assert!(stored.came_from(family.customer()), "{}", stored.trace());
        assert!(!stored.came_by_tls(), "STARTTLS was not removed: {}", stored.trace());
        let sent = customer.wait_stored("copy")?;
        assert_eq!(text(stored.as_received()), text(&sent.content), "not the same bytes");

        let line = agent.wait_message("the agent's line for the message", |_| true)?;
        assert_eq!(line.field("verdict"), "accept");
        let judged = filters.iter().map(WeirFilter::messages).find(|lines| !lines.is_empty());
        let judged = judged.unwrap_or_default();
        assert_eq!(judged.len(), 1, "one node judged it, once");
        assert_eq!(judged[0].field("id"), line.field("id"));
        assert_eq!(agent.messages().len(), 1);
        agent.stop()
    })
}

fn text(content: &[u8]) -> String {
    String::from_utf8_lossy(content).into_owned()
}
