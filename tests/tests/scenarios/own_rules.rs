//! `external`: the rules that `weir-agent router-config` prints, as they are printed.

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, is_dropped, time_until, way};
use weir_tests::smtp::Client;

const CONFIG: &str = "/etc/weir/agent.toml";

#[test]
fn nftables_open() -> Result<()> {
    steers("nftables", "open")
}

#[test]
fn nftables_closed() -> Result<()> {
    steers("nftables", "closed")
}

#[test]
fn iptables_closed() -> Result<()> {
    steers("iptables", "closed")
}

fn steers(recipe: &str, when_agent_dies: &str) -> Result<()> {
    Lab::run(&format!("own-{recipe}-{when_agent_dies}"), NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(Backend::Ebpf)
            .to_toml()
            .replace("backend = \"ebpf\"", "backend = \"external\"")
            .replace("when_agent_dies = \"open\"", &format!("when_agent_dies = {when_agent_dies:?}"));
        WeirAgent::configure(&lab.gateway, &config)?;
        let before = left(lab)?;
        let print = |more: &[&str]| {
            let words = [&["router-config", recipe, "--config", CONFIG], more].concat();
            let printed = WeirAgent::command(&lab.gateway, &words)?;
            ensure!(printed.success, "{}", printed.output);
            Ok(printed.output)
        };
        // Run again it takes the place of what it made.
        let rules = print(&[])?;
        lab.gateway.sh(&rules)?;
        let once = left(lab)?;
        lab.gateway.sh(&rules)?;
        ensure!(left(lab)? == once, "{}", left(lab)?);

        let agent = WeirAgent::start_with(&lab.gateway, &config)?;
        for family in Family::BOTH {
            let to = family.destination();
            ensure!(way(&lab.customer, family.customer(), to)? == Way::Intercepted, "{family:?}");
            ensure!(way(&lab.customer, family.outsider(), to)? == Way::Straight, "{family:?}");
            let mut client = Client::connect_from(&lab.customer, family.customer(), (to, 25).into())?;
            client.greet("mail.customer.test")?;
            let recipient = format!("user@{}", family.domain());
            client.send_message("sender@customer.test", &[&recipient], HAM)?.expect(250)?;
        }
        agent.kill()?;
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            if when_agent_dies == "closed" {
                ensure!(is_dropped(&lab.customer, from, to)?, "{family:?}: closed");
            } else {
                time_until(Way::Straight, &lab.customer, from, to)?;
            }
        }
        lab.gateway.sh(&print(&["--undo"])?)?;
        ensure!(left(lab)? == before, "{}", left(lab)?);
        for family in Family::BOTH {
            time_until(Way::Straight, &lab.customer, family.customer(), family.destination())?;
        }
        Ok(())
    })
}

/// Rules and routes of the gateway.
fn left(lab: &Lab) -> Result<String> {
    lab.gateway.sh(
        "nft -s list ruleset inet; iptables -w -t mangle -S; ip6tables -w -t mangle -S; ip -4 rule; ip -6 rule; \
         ip -4 route show table 100 2>/dev/null; ip -6 route show table 100 2>/dev/null; true",
    )
}
