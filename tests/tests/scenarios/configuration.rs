//! Wrong configurations: every error at once, with line and key, and nothing done.

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, WeirAgent, WeirFilter};
use weir_tests::lab::{Lab, NarrowLink, Snapshot};
use weir_tests::wait::PATIENCE;

const AGENT: &str = r#"[steering]
backend = "magic"
customer_interfaces = ["cust0"]
internet_interfaces = "inet0"
listen_port = 70000
[customers]
prefixes = ["10.1.0.0/16", "10.1.0.0/40"]
[filter]
nodes = ["10.3.0.11"]
when_unavailable = "discard"
colour = "blue"
[log]
format = "json"
"#;

const AGENT_ERRORS: [(u32, &str); 7] = [
    (2, "steering.backend"),
    (4, "steering.internet_interfaces"),
    (5, "steering.listen_port"),
    (7, "customers.prefixes"),
    (9, "filter.nodes"),
    (10, "filter.when_unavailable"),
    (11, "filter.colour"),
];

const FILTER: &str = r#"[smtp]
listen = ["10.3.0.11"]
proxies = ["10.3.0.1/33"]
[limits]
messages_per_minute = -1
messages_per_day = 5
[spamassassin]
address = "nowhere"
"#;

const FILTER_ERRORS: [(u32, &str); 5] = [
    (2, "smtp.listen"),
    (3, "smtp.proxies"),
    (5, "limits.messages_per_minute"),
    (6, "limits.messages_per_day"),
    (8, "spamassassin.address"),
];

#[test]
fn check_tells_every_error_with_line_and_key() -> Result<()> {
    Lab::run("check", NarrowLink::Nowhere, |lab| {
        let agent = WeirAgent::check(&lab.gateway, AGENT)?;
        ensure!(agent.code == Some(1), "weir-agent check ended with {:?}", agent.code);
        tells("agent.toml", &agent.output, &AGENT_ERRORS)?;
        let filter = WeirFilter::check(&lab.filter, FILTER)?;
        ensure!(filter.code == Some(1), "weir-filter check ended with {:?}", filter.code);
        tells("filter.toml", &filter.output, &FILTER_ERRORS)
    })
}

#[test]
fn check_accepts_what_is_right() -> Result<()> {
    Lab::run("check-right", NarrowLink::Nowhere, |lab| {
        for backend in Backend::BOTH {
            let agent = WeirAgent::check(&lab.gateway, &AgentConfig::new(backend).to_toml())?;
            ensure!(agent.code == Some(0), "{}", agent.output);
        }
        let filter =
            WeirFilter::check(&lab.filter, &weir_tests::components::FilterConfig::node(0).to_toml())?;
        ensure!(filter.code == Some(0), "{}", filter.output);
        Ok(())
    })
}

#[test]
fn a_wrong_configuration_changes_nothing_on_the_host() -> Result<()> {
    Lab::run("wrong", NarrowLink::Nowhere, |lab| {
        WeirAgent::configure(&lab.gateway, AGENT)?;
        let before = Snapshot::of(&lab.gateway)?;
        let mut process = WeirAgent::launch(&lab.gateway, AGENT)?;
        let status = process.wait_exit(PATIENCE)?;
        ensure!(!status.success(), "it started with a wrong configuration");
        tells("agent.toml", &process.output(), &AGENT_ERRORS)?;
        WeirAgent::check(&lab.gateway, AGENT)?;
        let changes = Snapshot::of(&lab.gateway)?.changes_since(&before);
        ensure!(changes.is_empty(), "changed on the gateway:\n{changes}");
        Ok(())
    })
}

fn tells(file: &str, output: &str, errors: &[(u32, &str)]) -> Result<()> {
    for (line, key) in errors {
        let place = format!("{file}:{line}: {key}");
        ensure!(output.contains(&place), "no error at {place} in:\n{output}");
    }
    Ok(())
}
