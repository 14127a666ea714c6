//! All customers' new connections go straight, for a while, on the operator's word.

use std::thread;

use anyhow::{Result, ensure};
use serde_json::Value;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, is_dropped, time_until, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(
    open_sessions_finish_and_new_ones_go_straight,
    it_is_the_same_in_closed,
    it_outlives_a_killed_agent_in_closed,
    a_new_agent_goes_on_with_it,
);

/// The bound that is promised, of which the first second is the kernel's and the command's.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(1);

fn open_sessions_finish_and_new_ones_go_straight(backend: Backend) -> Result<()> {
    withdrawn_and_back("release", &AgentConfig::new(backend))
}

fn it_is_the_same_in_closed(backend: Backend) -> Result<()> {
    withdrawn_and_back("release-closed", &AgentConfig::new(backend).closed())
}

fn withdrawn_and_back(name: &str, config: &AgentConfig) -> Result<()> {
    Lab::run(name, NarrowLink::Nowhere, |lab| {
        let destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, config)?;
        for family in Family::BOTH {
            let (from, to) = (family.customer(), family.destination());
            let user = format!("{family:?}").to_lowercase();
            let mut open = begin(lab, family, &format!("open-{user}"))?;
            succeed(&lab.gateway, &["release"])?;
            let straight = time_until(Way::Straight, &lab.customer, from, to)?;
            ensure!(straight < WITHIN, "{family:?} went straight after {straight:?}");
            ensure!(status(&lab.gateway)?["released"]["seconds_left"].as_u64() > Some(1700));
            // For messages too, and with the customer's own address.
            let mut client = Client::connect(&lab.customer, (to, 25).into())?;
            client.greet("mail.customer.test")?;
            let recipient = format!("{user}@v4.destination.test");
            client.send_message("a@customer.test", &[&recipient], HAM)?.expect(250)?;
            ensure!(destination.wait_stored(&user)?.came_from(from), "{family:?}");
            open.send(b"ended after\r\n.\r\n")?;
            open.expect(250)?;
            destination.wait_stored(&format!("open-{user}"))?;

            let said = succeed(&lab.gateway, &["release", "--end"])?;
            ensure!(said.contains("intercepted again"), "{said}");
            ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "{family:?} after the end");
            ensure!(status(&lab.gateway)?["released"].is_null());
            // By itself, too.
            succeed(&lab.gateway, &["release", "--for", "2s"])?;
            ensure!(way(&lab.customer, from, to)? == Way::Straight, "{family:?} for two seconds");
            time_until(Way::Intercepted, &lab.customer, from, to)?;
            let is_over = || Ok(status(&lab.gateway)?["released"].is_null());
            wait_until("the end in the status", PATIENCE, is_over)?;
        }
        ensure!(agent.messages().len() == 2, "only the open sessions' messages went through the agent");
        ensure!(status(&lab.gateway)?["steering"]["released"].as_u64() >= Some(6), "counted");
        for (arguments, words) in [
            (&["release", "--end"][..], "nothing is released"),
            (&["release", "--for", "8d"], "no duration of a release"),
            (&["release", "--for", "1h", "--end"], "cannot be used with"),
        ] {
            let refused = WeirAgent::command(&lab.gateway, arguments)?;
            ensure!(!refused.success && refused.output.contains(words), "{arguments:?}: {}", refused.output);
        }
        let audit = lab.gateway.read("/var/lib/weir-agent/agent-audit.jsonl");
        let actions = audit.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?));
        let actions = actions.collect::<Result<Vec<_>>>()?;
        ensure!(actions.iter().any(|line| line["action"] == "release" && line["user"] == "root"), "{audit}");
        ensure!(actions.iter().any(|line| line["action"] == "release --end"), "{audit}");
        for said in ["released by the operator's command", "its time is over"] {
            wait_until(said, PATIENCE, || Ok(agent.output().contains(said)))?;
        }
        agent.stop()
    })
}

/// It is the kernel that ends it: then customers' connections are dropped, as without a release.
fn it_outlives_a_killed_agent_in_closed(backend: Backend) -> Result<()> {
    Lab::run("release-killed", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend).closed())?;
        succeed(&lab.gateway, &["release", "--for", "5s"])?;
        agent.kill()?;
        let (from, to) = (Family::V4.customer(), Family::V4.destination());
        ensure!(way(&lab.customer, from, to)? == Way::Straight, "the agent is dead");
        wait_until("the end of the release", PATIENCE, || is_dropped(&lab.customer, from, to))?;
        ensure!(is_dropped(&lab.customer, Family::V6.customer(), Family::V6.destination())?);
        WeirAgent::cleanup(&lab.gateway)
    })
}

fn a_new_agent_goes_on_with_it(backend: Backend) -> Result<()> {
    Lab::run("release-restart", NarrowLink::Nowhere, |lab| {
        let _destination = Postfix::destination(&lab.internet)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        for config in [AgentConfig::new(backend), AgentConfig::new(backend).closed()] {
            let (from, to) = (Family::V4.customer(), Family::V4.destination());
            let agent = WeirAgent::start(&lab.gateway, &config)?;
            succeed(&lab.gateway, &["release", "--for", "1h"])?;
            agent.kill()?;
            // No SYN of all that come meanwhile meets the new agent, or nobody.
            let agent = thread::scope(|scope| {
                let start = scope.spawn(|| WeirAgent::start(&lab.gateway, &config));
                while !start.is_finished() {
                    ensure!(way(&lab.customer, from, to)? == Way::Straight, "while the new agent starts");
                }
                start.join().map_err(|_| anyhow::anyhow!("the start panicked"))?
            })?;
            ensure!(way(&lab.customer, from, to)? == Way::Straight, "after the start");
            ensure!(agent.output().contains("released by the operator's command"), "{}", agent.output());
            succeed(&lab.gateway, &["release", "--end"])?;
            ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "after the end");
            agent.kill()?;
            let agent = WeirAgent::start(&lab.gateway, &config)?;
            ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "it does not come back");
            agent.stop()?;
            WeirAgent::cleanup(&lab.gateway)?;
        }
        Ok(())
    })
}

/// A message as far as its first line.
fn begin(lab: &Lab, family: Family, user: &str) -> Result<Client> {
    let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
    client.greet("mail.customer.test")?;
    client.command("MAIL FROM:<a@customer.test>")?.expect(250)?;
    client.command(&format!("RCPT TO:<{user}@v4.destination.test>"))?.expect(250)?;
    client.command("DATA")?.expect(354)?;
    client.send(b"Subject: begun before\r\n\r\n")?;
    Ok(client)
}

fn status(gateway: &Host) -> Result<Value> {
    WeirAgent::status(gateway)
}

fn succeed(gateway: &Host, arguments: &[&str]) -> Result<String> {
    let said = WeirAgent::command(gateway, arguments)?;
    ensure!(said.success, "{arguments:?}: {}", said.output);
    Ok(said.output)
}
