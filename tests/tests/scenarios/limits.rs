//! Limits of one source, in the kernel program: what is beyond them never reaches the agent.

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{Way, is_dropped, is_reset, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

fn limited(lines: &str) -> AgentConfig {
    AgentConfig { customer_lines: format!("[limits]\n{lines}"), ..AgentConfig::new(Backend::Ebpf) }
}

fn counted(lab: &Lab, section: &str, name: &str) -> Result<u64> {
    WeirAgent::status(&lab.gateway)?[section][name].as_u64().with_context(|| format!("{section}.{name}"))
}

/// As the agent counts them: a connection that is closed makes room for another.
#[test]
fn connections_at_a_time() -> Result<()> {
    Lab::run("limits-connections", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &limited("connections = 3\nbeyond = \"reset\"\n"))?;
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            let mut open = Vec::new();
            for _ in 0..3 {
                let mut client = Client::connect_from(&lab.customer, from, (to, 25).into())?;
                client.greet("mail.customer.test")?;
                open.push(client);
            }
            let sessions = counted(lab, "counters", "sessions")?;
            for _ in 0..4 {
                ensure!(is_reset(&lab.customer, from, to)?, "{family:?}: the fourth is taken");
            }
            ensure!(counted(lab, "counters", "sessions")? == sessions, "the agent saw something");
            // A source is an IPv4 address, or an IPv6 /64 with all that is in it.
            match family {
                Family::V4 => ensure!(way(&lab.customer, family.other_customer(), to)? == Way::Intercepted),
                Family::V6 => ensure!(is_reset(&lab.customer, family.other_customer(), to)?),
            }
            // He just vanishes: no FIN is needed.
            drop(open.pop());
            wait_until("room for one more", PATIENCE, || Ok(!is_reset(&lab.customer, from, to)?))?;
            for mut client in open {
                client.command("QUIT")?.expect(221)?;
            }
        }
        ensure!(counted(lab, "steering", "too_many_reset")? >= 9);
        ensure!(counted(lab, "counters", "overload_customer")? == 0, "the agent had to say it");
        agent.stop()
    })
}

#[test]
fn new_connections_a_second() -> Result<()> {
    Lab::run("limits-rate", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        // So slow that no other drips in while the test runs, but for one customer.
        let fast = "[[limits.overrides]]\nprefixes = [\"10.1.0.3/32\"]\nnew_per_second = 0\n";
        let one_in_a_while = "new_per_second = 1\nburst = 5\n";
        let mut agent = WeirAgent::start(&lab.gateway, &limited(&format!("{one_in_a_while}{fast}")))?;
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        // Answers come back: from now on all are taken.
        ensure!(way(&lab.customer, Family::V4.other_customer(), to)? == Way::Intercepted);
        let mut taken = 0;
        while way_at_once(lab, from, to)? {
            taken += 1;
            ensure!(taken < 200, "no limit");
        }
        ensure!(taken >= 5, "{taken} of 5 that may come at once");
        ensure!(counted(lab, "steering", "too_fast_dropped")? >= 1);
        for _ in 0..20 {
            ensure!(
                way(&lab.customer, Family::V4.other_customer(), to)? == Way::Intercepted,
                "no limit for him"
            );
        }
        // A SYN is sent again, and by then there is room.
        ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "it only waits");
        // Without a restart: no limit, and nobody else is disturbed.
        WeirAgent::configure(&lab.gateway, &AgentConfig::new(Backend::Ebpf).to_toml())?;
        agent.process().signal(nix::sys::signal::Signal::SIGHUP)?;
        agent.process().wait_output("the configuration is reloaded", PATIENCE)?;
        for _ in 0..20 {
            ensure!(way_at_once(lab, from, to)?, "no limit any more");
        }
        agent.stop()
    })
}

/// Whether the first SYN is answered.
fn way_at_once(lab: &Lab, from: std::net::IpAddr, to: std::net::IpAddr) -> Result<bool> {
    let patience = std::time::Duration::from_millis(800);
    Ok(Client::connect_within(&lab.customer, from, (to, 25).into(), patience).is_ok())
}

/// The agent that they protect is dead: nobody is limited, in `open`.
#[test]
fn limits_end_with_the_agent() -> Result<()> {
    Lab::run("limits-dead", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent =
            WeirAgent::start(&lab.gateway, &limited("new_per_second = 1\nburst = 1\nconnections = 1\n"))?;
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        // So that the program stays when the agent is killed.
        let said = WeirAgent::command(&lab.gateway, &["block", "10.1.77.0/24"])?;
        ensure!(said.success, "{}", said.output);
        let _open = Client::connect_from(&lab.customer, from, (to, 25).into())?;
        ensure!(is_dropped(&lab.customer, from, to)?, "the second is taken");
        agent.kill()?;
        for _ in 0..5 {
            ensure!(way(&lab.customer, from, to)? == Way::Straight);
        }
        WeirAgent::cleanup(&lab.gateway)
    })
}

#[test]
fn nftables_has_none() -> Result<()> {
    Lab::run("limits-tproxy", NarrowLink::Nowhere, |lab| {
        let config = AgentConfig { backend: Backend::Tproxy, ..limited("connections = 3\n") };
        let checked = WeirAgent::check(&lab.gateway, &config.to_toml())?;
        ensure!(!checked.success, "{}", checked.output);
        for part in ["limits.connections", "\"ebpf\" only"] {
            ensure!(checked.output.contains(part), "{}", checked.output);
        }
        Ok(())
    })
}
