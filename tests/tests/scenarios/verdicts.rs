//! What the filter node refuses, and how the customer hears of it.

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, FilterConfig, Postfix, Spamd, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(spam_is_refused_in_the_session, a_sender_over_the_limit_is_deferred);

/// GTUBE is refused with reason and id; the bounce is made by, and stays at, the customer's server.
fn spam_is_refused_in_the_session(backend: Backend) -> Result<()> {
    Lab::run("spam", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        let filters = WeirFilter::start_both(&lab.filter, |config| config.asking(spamd.address()))?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let customer = Postfix::customer(&lab.customer)?;
        for (family, sender) in [(Family::V4, "four"), (Family::V6, "six")] {
            let from = format!("{sender}@customer.test");
            customer.submit(&from, &[&format!("user@{}", family.domain())], GTUBE)?;

            let bounce = customer.wait_stored(sender)?;
            let bounce = String::from_utf8_lossy(&bounce.content).into_owned();
            let line = agent.wait_message("the rejected message's line", |line| {
                line.field("verdict") == "reject"
                    && line.field("customer").contains(&family.customer().to_string())
            })?;
            let id = line.field("id");
            let unfolded = bounce.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(unfolded.contains(&id), "no id {id} in the bounce:\n{bounce}");
            assert!(unfolded.to_lowercase().contains("spam"), "no reason in the bounce:\n{bounce}");
            assert!(unfolded.contains(" 550"), "no reply in the bounce:\n{bounce}");
            let judged = filters.iter().flat_map(WeirFilter::messages).filter(|line| line.field("id") == id);
            assert_eq!(judged.map(|line| line.field("verdict")).collect::<Vec<_>>(), ["reject"]);
            wait_until("an empty queue", PATIENCE, || Ok(customer.queue()?.is_empty()))?;
        }
        assert!(destination.stored_users()?.is_empty(), "the destination got something");
        // A harmless message of the same customer passes: the rejections were for the content.
        customer.submit("four@customer.test", &["user@v4.destination.test"], HAM)?;
        destination.wait_stored("user").map(|_| ())
    })
}

/// The limit counts per address: the one over it is deferred and keeps its mail, another is not touched.
fn a_sender_over_the_limit_is_deferred(backend: Backend) -> Result<()> {
    Lab::run("limit", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        // One node: counters are not shared between nodes yet.
        let _filter = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0).limited_to(2))?;
        let mut config = AgentConfig::new(backend);
        config.nodes.truncate(1);
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        let customer = Postfix::customer(&lab.customer)?;
        for (family, user) in [(Family::V4, "four"), (Family::V6, "six")] {
            for number in 1..=3 {
                customer.submit(
                    "sender@customer.test",
                    &[&format!("{user}{number}@{}", family.domain())],
                    HAM,
                )?;
                if number < 3 {
                    destination.wait_stored(&format!("{user}{number}"))?;
                }
            }
            let over = format!("{user}3@{}", family.domain());
            let queued = customer.wait_deferred(&over)?;
            assert!(queued.reason.contains(" 451 "), "{}", queued.reason);
            let line = agent.wait_message("the deferred message's line", |line| {
                line.field("verdict") == "defer" && queued.reason.contains(&line.field("id"))
            })?;
            assert!(line.field("customer").contains(&family.customer().to_string()));
            assert!(!destination.stored_users()?.contains(&format!("{user}3")));
            // Another IPv4 address is another source; another IPv6 address of the same /64 is not.
            let to = (family.destination(), 25).into();
            let mut other = Client::connect_from(&lab.customer, family.other_customer(), to)?;
            other.greet("mail.customer.test")?;
            let reply = other.send_message("a@customer.test", &["other@v4.destination.test"], HAM)?;
            assert_eq!(reply.code, if family == Family::V4 { 250 } else { 451 }, "{}", other.transcript());
        }
        Ok(())
    })
}
