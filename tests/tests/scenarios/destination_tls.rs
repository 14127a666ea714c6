//! TLS between the agent and the destination, though the customer speaks in clear.

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(offered, required);

fn offered(backend: Backend) -> Result<()> {
    delivered_in_tls(backend, "")
}

/// Such a destination answers 530 to MAIL without TLS.
fn required(backend: Backend) -> Result<()> {
    delivered_in_tls(backend, "smtpd_tls_security_level = encrypt\n")
}

fn delivered_in_tls(backend: Backend, lines: &str) -> Result<()> {
    Lab::run("destination-tls", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination_with(&lab.internet, lines)?;
        let customer = Postfix::customer(&lab.customer)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig { destination_tls: "may", ..AgentConfig::new(backend) };
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        for (number, family) in Family::BOTH.into_iter().enumerate() {
            let user = format!("user{number}");
            let recipients = [format!("{user}@{}", family.domain()), format!("{user}@customer.test")];
            customer.submit("sender@customer.test", &recipients.each_ref().map(String::as_str), HAM)?;
            let stored = destination.wait_stored(&user)?;
            assert!(stored.came_by_tls(), "{}", stored.trace());
            assert!(stored.came_from(family.customer()), "{}", stored.trace());
            assert_eq!(stored.as_received(), customer.wait_stored(&user)?.content, "not the same bytes");
        }
        wait_until("both messages' lines: they were intercepted", PATIENCE, || {
            Ok(agent.messages().len() == 2)
        })?;
        let lines = agent.messages();
        assert!(lines.iter().all(|line| line.field("tls").starts_with("TLSv1.3 ")), "{lines:?}");
        agent.stop()
    })
}
