//! Customers and destinations as prefixes: exempt ones, by command and as configured, and a reload of all of them while
//! mail flows.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::probe::{Way, is_dropped, time_until, way};
use weir_tests::wait::{PATIENCE, patient, wait_until};

on_both_back_ends!(
    exempt_by_command,
    exempt_as_configured,
    fifty_reloads_under_way_lose_and_leak_nothing,
    what_a_reload_cannot_change_changes_nothing,
);

const RELOADED: &str = "the configuration is reloaded";

fn exempt_by_command(backend: Backend) -> Result<()> {
    Lab::run("prefixes-command", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(backend).closed();
        let mut agent = WeirAgent::start(&lab.gateway, &config)?;
        for (family, customers, destinations) in
            [(Family::V4, "10.1.0.0/31", "10.2.0.0/24"), (Family::V6, "fd01::2/127", "fd02::/64")]
        {
            let (from, other, to) = (family.customer(), family.other_customer(), family.destination());
            // Not 10.1.0.2; the two of IPv6 are both in theirs.
            let customers = if family == Family::V4 { "10.1.0.2/32" } else { customers };
            succeed(&lab.gateway, &["exempt", customers, "--reason", "a mail provider"])?;
            ensure!(way(&lab.customer, from, to)? == Way::Straight, "{family:?}");
            let others = if family == Family::V4 { Way::Intercepted } else { Way::Straight };
            ensure!(way(&lab.customer, other, to)? == others, "{family:?}");
            let listed = list(&lab.gateway)?;
            ensure!(listed.len() == 1 && listed[0]["reason"] == "a mail provider", "{listed:?}");
            ensure!(listed[0]["kind"] == "exempt_customer" && listed[0]["prefix"] == customers, "{listed:?}");
            // With the agent dead as well, and after it.
            agent.kill()?;
            ensure!(way(&lab.customer, from, to)? == Way::Straight, "{family:?}");
            agent = WeirAgent::start(&lab.gateway, &config)?;
            ensure!(way(&lab.customer, from, to)? == Way::Straight, "{family:?}");
            succeed(&lab.gateway, &["unexempt", customers])?;
            ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "{family:?}");

            succeed(&lab.gateway, &["exempt", "--destination", destinations, "--for", "1h"])?;
            for from in [from, other] {
                ensure!(way(&lab.customer, from, to)? == Way::Straight, "{family:?}");
            }
            succeed(&lab.gateway, &["exempt", "--destination", destinations, "--for", "2s"])?;
            time_until(Way::Intercepted, &lab.customer, from, to)?;
            wait_until("an empty list", PATIENCE, || Ok(list(&lab.gateway)?.is_empty()))?;
        }
        let steering = WeirAgent::status(&lab.gateway)?["steering"].clone();
        ensure!(steering["exempt_destination"].as_u64() >= Some(2), "{steering}");
        agent.stop()
    })
}

fn exempt_as_configured(backend: Backend) -> Result<()> {
    Lab::run("prefixes-configured", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let customers = "exempt = [\"10.1.0.2/32\", \"fd01::2/128\"]".to_owned();
        let destinations = "exempt_destinations = [\"10.2.0.0/16\", \"fd02::/32\"]".to_owned();
        let with = |customer_lines: &str| AgentConfig {
            customer_lines: customer_lines.to_owned(),
            ..AgentConfig::new(backend).closed()
        };
        let mut agent = WeirAgent::start(&lab.gateway, &with(&customers))?;
        let ways = |customer: Way, other: Way, when: &str| {
            for family in Family::BOTH {
                for (from, expected) in [(family.customer(), customer), (family.other_customer(), other)] {
                    let found = way(&lab.customer, from, family.destination())?;
                    ensure!(found == expected, "{from} {when}: {found:?}");
                }
            }
            anyhow::Ok(())
        };
        ways(Way::Straight, Way::Intercepted, "at the start")?;
        reload(lab, &mut agent, &with(&destinations))?;
        ways(Way::Straight, Way::Straight, "by destination")?;
        reload(lab, &mut agent, &with(""))?;
        ways(Way::Intercepted, Way::Intercepted, "without exemptions")?;
        // The command's word is not the configuration's.
        succeed(&lab.gateway, &["exempt", "10.1.0.3"])?;
        reload(lab, &mut agent, &with(&customers))?;
        ensure!(way(&lab.customer, Family::V4.other_customer(), Family::V4.destination())? == Way::Straight);
        succeed(&lab.gateway, &["unexempt", "10.1.0.3"])?;
        ways(Way::Straight, Way::Intercepted, "as configured")?;
        agent.kill()?;
        for family in Family::BOTH {
            ensure!(way(&lab.customer, family.customer(), family.destination())? == Way::Straight);
            ensure!(is_dropped(&lab.customer, family.other_customer(), family.destination())?);
        }
        WeirAgent::cleanup(&lab.gateway)
    })
}

/// Customers that are customers before and after are so all the time, and those that are none never are, whatever is
/// around them in the tables.
fn fifty_reloads_under_way_lose_and_leak_nothing(backend: Backend) -> Result<()> {
    const RELOADS: usize = 50;
    Lab::run("prefixes-reload", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        // The same customers in two ways, beside two thousand others that come and go.
        let others = |from: usize| {
            (0..2000).map(move |number| format!("\"100.{}.{}.0/25\"", 64 + from + number / 250, number % 250))
        };
        let text = |mine: &[&str], from: usize| {
            let mine = mine.iter().map(|prefix| format!("{prefix:?}"));
            let all: Vec<String> = others(from).chain(mine).collect();
            let prefixes = format!("prefixes = [{}]", all.join(", "));
            let plain = AgentConfig::new(backend).to_toml();
            plain.replace("prefixes = [\"10.1.0.0/16\", \"fd01::/32\"]", &prefixes)
        };
        let texts = [
            text(&["10.1.0.0/16", "fd01::/32"], 0),
            text(&["10.1.0.2/31", "10.1.7.0/24", "fd01::/64", "fd01:7::/32"], 16),
        ];
        let mut agent = WeirAgent::start_with(&lab.gateway, &texts[0])?;
        let (over, made) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut open =
            weir_tests::smtp::Client::connect(&lab.customer, (Family::V6.destination(), 25).into())?;
        open.greet("mail.customer.test")?;
        thread::scope(|scope| {
            let customer = |from: IpAddr, to: IpAddr, expected: Way| {
                while !over.load(Relaxed) {
                    let found = way(&lab.customer, from, to)?;
                    ensure!(found == expected, "{from} to {to}: {found:?}");
                    made.fetch_add(1, Relaxed);
                    // Who does nothing but connect leaves an emulated processor no time for the reloads.
                    thread::sleep(patient(Duration::from_millis(20)));
                }
                anyhow::Ok(())
            };
            let mut customers = Vec::new();
            for family in Family::BOTH {
                let to = family.destination();
                for (from, expected) in
                    [(family.customer(), Way::Intercepted), (family.outsider(), Way::Straight)]
                {
                    customers.push(scope.spawn(move || customer(from, to, expected)));
                }
            }
            let worked =
                (0..RELOADS).try_for_each(|number| reload_with(lab, &mut agent, &texts[(number + 1) % 2]));
            over.store(true, Relaxed);
            for customer in customers {
                customer.join().map_err(|_| anyhow!("a customer panicked"))??;
            }
            worked
        })?;
        open.command("QUIT")?.expect(221)?;
        let made = made.into_inner();
        eprintln!("{made} connections during {RELOADS} reloads, each went the way it should");
        ensure!(made > RELOADS, "only {made} connections");
        agent.stop()
    })
}

fn what_a_reload_cannot_change_changes_nothing(backend: Backend) -> Result<()> {
    Lab::run("prefixes-refused", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let both = AgentConfig::new(backend).to_toml();
        let v4_only = both.replace(", \"fd01::/32\"", "");
        let mut agent = WeirAgent::start_with(&lab.gateway, &v4_only)?;
        WeirAgent::configure(&lab.gateway, &both.replace("10.1.0.0/16", "10.9.0.0/16"))?;
        agent.process().signal(Signal::SIGHUP)?;
        agent.process().wait_output("IPv6 needs a restart", PATIENCE)?;
        let (v4, v6) = (Family::V4, Family::V6);
        ensure!(way(&lab.customer, v4.customer(), v4.destination())? == Way::Intercepted);
        ensure!(way(&lab.customer, v4.outsider(), v4.destination())? == Way::Straight);
        ensure!(way(&lab.customer, v6.customer(), v6.destination())? == Way::Straight);
        reload_with(lab, &mut agent, &v4_only.replace("10.1.0.0/16", "10.9.0.0/16"))?;
        ensure!(way(&lab.customer, v4.customer(), v4.destination())? == Way::Straight);
        ensure!(way(&lab.customer, v4.outsider(), v4.destination())? == Way::Intercepted);
        // Commands know the customers that there are now.
        let said = WeirAgent::command(&lab.gateway, &["block", "10.1.0.2"])?;
        ensure!(!said.success && said.output.contains("nothing in common"), "{}", said.output);
        succeed(&lab.gateway, &["mode", "bypass", "--prefix", "10.9.0.2"])?;
        agent.stop()
    })
}

fn reload(lab: &Lab, agent: &mut WeirAgent, config: &AgentConfig) -> Result<()> {
    reload_with(lab, agent, &config.to_toml())
}

fn reload_with(lab: &Lab, agent: &mut WeirAgent, text: &str) -> Result<()> {
    WeirAgent::configure(&lab.gateway, text)?;
    let said = |agent: &WeirAgent| agent.output().matches(RELOADED).count();
    let before = said(agent);
    agent.process().signal(Signal::SIGHUP)?;
    wait_until(RELOADED, PATIENCE, || Ok(said(agent) > before))
}

fn list(gateway: &Host) -> Result<Vec<Value>> {
    serde_json::from_str(&succeed(gateway, &["list", "--json"])?).context("the list")
}

fn succeed(gateway: &Host, arguments: &[&str]) -> Result<String> {
    let said = WeirAgent::command(gateway, arguments)?;
    ensure!(said.success, "{arguments:?}: {}", said.output);
    Ok(said.output)
}
