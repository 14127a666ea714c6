//! A gateway that hides its customers' addresses from the internet.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{CUSTOMER_PREFIXES, Family, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::smtp::Client;
use weir_tests::wait::PATIENCE;

on_both_back_ends!(masquerade, only_those_who_are_named);

/// The gateway, as the internet sees it.
fn gateway(family: Family) -> Result<IpAddr> {
    Ok(match family {
        Family::V4 => "10.2.0.1",
        Family::V6 => "fd02::1",
    }
    .parse()?)
}

/// A message from this address is delivered by weir, and the destination sees that one.
fn is_delivered(
    lab: &Lab,
    destination: &Postfix,
    (from, seen): (IpAddr, IpAddr),
    family: Family,
    user: &str,
) -> Result<()> {
    let mut client =
        Client::connect_within(&lab.customer, from, (family.destination(), 25).into(), PATIENCE)?;
    let extensions = client.greet("mail.customer.test")?;
    ensure!(!extensions.announces("STARTTLS"), "{from} is not intercepted");
    client.send_message("a@customer.test", &[&format!("{user}@{}", family.domain())], HAM)?.expect(250)?;
    client.command("QUIT")?.expect(221)?;
    let stored = destination.wait_stored(user)?;
    ensure!(stored.came_from(seen), "{user}, from {from}: {}", stored.trace());
    Ok(())
}

/// With tproxy nothing need be said: it looks again after NAT has put the addresses of answers back.
fn masquerade(backend: Backend) -> Result<()> {
    Lab::run("masquerade", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        lab.gateway.sh("nft 'add table inet nat
            add chain inet nat post { type nat hook postrouting priority srcnat; }
            add rule inet nat post oifname inet0 masquerade'")?;
        let mut configs = vec![AgentConfig::new(backend)];
        configs[0].customer_lines = format!("masqueraded = {CUSTOMER_PREFIXES:?}");
        if backend == Backend::Tproxy {
            configs.push(AgentConfig::new(backend));
        }
        for (number, config) in configs.iter().enumerate() {
            let agent = WeirAgent::start(&lab.gateway, config)?;
            for family in Family::BOTH {
                let user = format!("{family:?}-{number}").to_lowercase();
                let addresses = (family.customer(), gateway(family)?);
                is_delivered(lab, &destination, addresses, family, &user)?;
                // Whom the filter node judged.
                let customer = family.customer().to_string();
                agent.wait_message("the customer's own address", |line| {
                    line.field("customer").contains(&customer)
                })?;
            }
            agent.stop()?;
        }
        Ok(())
    })
}

/// And others keep their addresses. It can change while the agent runs.
fn only_those_who_are_named(backend: Backend) -> Result<()> {
    Lab::run("masquerade-some", NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let mut config = AgentConfig::new(backend);
        config.customer_lines = "masqueraded = [\"10.1.0.3/32\", \"fd01::3/128\"]".into();
        let mut agent = WeirAgent::start(&lab.gateway, &config)?;
        for family in Family::BOTH {
            let (own, other) = (family.customer(), family.other_customer());
            let user = |name: &str| format!("{family:?}-{name}").to_lowercase();
            is_delivered(lab, &destination, (own, own), family, &user("own"))?;
            is_delivered(lab, &destination, (other, gateway(family)?), family, &user("other"))?;
        }
        config.customer_lines = "masqueraded = [\"10.1.0.2/32\", \"fd01::2/128\"]".into();
        WeirAgent::configure(&lab.gateway, &config.to_toml())?;
        agent.signal(Signal::SIGHUP)?;
        agent.process().wait_output("the configuration is reloaded", PATIENCE)?;
        for family in Family::BOTH {
            let (own, other) = (family.customer(), family.other_customer());
            let user = |name: &str| format!("{family:?}-{name}-later").to_lowercase();
            is_delivered(lab, &destination, (own, gateway(family)?), family, &user("own"))?;
            is_delivered(lab, &destination, (other, other), family, &user("other"))?;
        }
        agent.stop()
    })
}
