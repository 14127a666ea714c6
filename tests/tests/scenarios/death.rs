//! Weir dead is not port 25 dead; or it is, where that was chosen.

use std::time::Duration;

use anyhow::Result;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, is_dropped, time_until, way};
use weir_tests::smtp::Client;

on_both_back_ends!(
    killed_and_open_within_a_second,
    stopped_and_open,
    closed_until_cleanup,
    a_stop_finishes_what_is_in_flight
);

/// The bound that is promised.
const OPEN_WITHIN: Duration = Duration::from_secs(1);

fn killed_and_open_within_a_second(backend: Backend) -> Result<()> {
    Lab::run("killed", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend);
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            let agent = WeirAgent::start(&lab.gateway, &config)?;
            assert_eq!(way(&lab.customer, from, to)?, Way::Intercepted);
            agent.kill()?;
            let open = time_until(Way::Straight, &lab.customer, from, to)?;
            assert!(open < OPEN_WITHIN, "{family:?} was open after {open:?}");
            // For messages too, not just for greetings.
            let mut client = Client::connect(&lab.customer, (to, 25).into())?;
            client.greet("mail.customer.test")?;
            let user = format!("{family:?}").to_lowercase();
            client
                .send_message("a@customer.test", &[&format!("{user}@v4.destination.test")], HAM)?
                .expect(250)?;
            assert!(destination.wait_stored(&user)?.came_from(from));

            let back = WeirAgent::start(&lab.gateway, &config)?;
            assert_eq!(way(&lab.customer, from, to)?, Way::Intercepted, "after the restart");
            back.stop()?;
        }
        Ok(())
    })
}

fn stopped_and_open(backend: Backend) -> Result<()> {
    Lab::run("stopped", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        for family in Family::BOTH {
            assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Intercepted);
        }
        agent.stop()?;
        for family in Family::BOTH {
            assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Straight);
        }
        Ok(())
    })
}

/// In `closed` a dead and a stopped agent alike leave port 25 shut for customers, and for them only.
fn closed_until_cleanup(backend: Backend) -> Result<()> {
    Lab::run("closed", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend).closed();
        let is_shut = |when: &str| {
            for family in Family::BOTH {
                let to = family.destination();
                assert!(is_dropped(&lab.customer, family.customer(), to)?, "{family:?} {when}");
                assert_eq!(way(&lab.customer, family.outsider(), to)?, Way::Straight, "{family:?} {when}");
            }
            anyhow::Ok(())
        };
        let is_served = || {
            for family in Family::BOTH {
                assert_eq!(way(&lab.customer, family.customer(), family.destination())?, Way::Intercepted);
            }
            anyhow::Ok(())
        };
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        is_served()?;
        agent.kill()?;
        is_shut("after kill -9")?;
        let agent = WeirAgent::start(&lab.gateway, &config)?;
        is_served()?;
        agent.stop()?;
        is_shut("after a stop")?;
        WeirAgent::cleanup(&lab.gateway)?;
        for family in Family::BOTH {
            assert_eq!(
                way(&lab.customer, family.customer(), family.destination())?,
                Way::Straight,
                "after cleanup"
            );
        }
        Ok(())
    })
}

/// SIGTERM in the middle of a message: nothing new is accepted, this one is delivered.
fn a_stop_finishes_what_is_in_flight(backend: Backend) -> Result<()> {
    Lab::run("in-flight", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        let mut client = Client::connect(&lab.customer, (to, 25).into())?;
        client.greet("mail.customer.test")?;
        client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
        client.command("RCPT TO:<user@v4.destination.test>")?.expect(250)?;
        client.command("DATA")?.expect(354)?;
        client.send(b"Subject: begun before the stop\r\n\r\n")?;
        agent.process().signal(nix::sys::signal::Signal::SIGTERM)?;
        time_until(Way::Straight, &lab.customer, from, to)?;
        client.send(b"ended after it\r\n.\r\n")?;
        client.expect(250)?;
        destination.wait_stored("user")?;
        drop(client);
        let status = agent.process().wait_exit(2 * weir_tests::wait::PATIENCE)?;
        anyhow::ensure!(status.success(), "{status}");
        Ok(())
    })
}
