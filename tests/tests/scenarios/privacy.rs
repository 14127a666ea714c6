//! What is logged of people: no mail addresses unless the operator wants them, and nothing that docs/privacy-agent.md does not have.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, LogLine, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::smtp::{Client, Script, Server};

const PAGE: &str = include_str!("../../../docs/privacy-agent.md");
const REFUSAL: &str = "550 5.1.1 <somebody@destination.test> is not here";

/// The fields of the section about log lines.
fn described() -> Result<BTreeSet<&'static str>> {
    let section =
        PAGE.split("\n## ").find(|section| section.starts_with("Log lines")).context("no section")?;
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    Ok(rows.filter_map(|row| row.split('`').next()).collect())
}

#[test]
fn addresses_are_logged_only_if_the_operator_wants_it() -> Result<()> {
    Lab::run("privacy", NarrowLink::Nowhere, |lab| {
        let mut script = Script::default();
        script.answers.insert(".", REFUSAL.into());
        let _destination = Server::start(&lab.internet, Family::V4.destination(), script)?;
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let config = AgentConfig::new(Backend::Ebpf).to_toml();
        let logged = |config: &str| -> Result<LogLine> {
            let agent = WeirAgent::start_with(&lab.gateway, config)?;
            let to = (Family::V4.destination(), 25).into();
            let mut client = Client::connect_from(&lab.customer, Family::V4.customer(), to)?;
            client.greet("mail.customer.test")?;
            client.send_message("sender@customer.test", &["somebody@destination.test"], HAM)?.expect(550)?;
            let line = agent.wait_message("the message", |line| line.has("reply"))?;
            agent.stop()?;
            Ok(line)
        };
        let line = logged(&config)?;
        ensure!(line.field("reply") == "550 5.1.1 [address] is not here", "{line:?}");
        ensure!(!format!("{line:?}").contains('@'), "{line:?}");
        let described = described()?;
        let strange: Vec<_> = line.names().into_iter().filter(|name| !described.contains(name)).collect();
        ensure!(strange.is_empty(), "docs/privacy-agent.md does not have {strange:?}");
        let line = logged(&config.replace("[log]\n", "[log]\naddresses = true\n"))?;
        ensure!(line.field("reply") == REFUSAL, "{line:?}");
        Ok(())
    })
}
