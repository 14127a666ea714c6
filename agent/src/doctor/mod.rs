//! `weir-agent doctor`: looks at the configuration and the host, whether or not the agent runs, and says what is wrong and
//! what mends it. It changes nothing: what a start would install is tried in a network namespace of its own.

mod firewall;
mod kernel;
mod network;
mod nodes;
mod resources;
mod settings;

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::Value;
use weir_daemon::config::load;
use weir_daemon::control;
use weir_daemon::finding;

use crate::config::Config;
use crate::steer::{Plan, view};
pub use weir_daemon::finding::{Finding, Report, State};

const CONFIGURATION: &str = "configuration";
const AGENT: &str = "agent";

/// What the checks look at.
struct Host {
    config: Config,
    plan: Plan,
    samples: Samples,
    /// The agent that runs here.
    agent: Option<Agent>,
}

/// A running agent.
struct Agent {
    pid: u32,
    status: Value,
}

/// An address of a customer, in each family that customers have.
struct Samples {
    customers: Vec<IpAddr>,
}

impl Samples {
    fn new(prefixes: &[IpNet]) -> Self {
        let first = |v6: bool| {
            let mut prefixes = prefixes.iter().filter(|prefix| prefix.addr().is_ipv6() == v6);
            network::addresses(*prefixes.next()?).next()
        };
        Self { customers: [false, true].into_iter().filter_map(first).collect() }
    }

    fn of(&self, v6: bool) -> Option<IpAddr> {
        self.customers.iter().copied().find(|address| address.is_ipv6() == v6)
    }
}

/// Checks everything that can be checked.
pub async fn examine(path: &Path) -> Report {
    let config = match load::<Config>(path) {
        Ok(config) => config,
        Err(problems) => {
            let mut findings: Vec<Finding> = problems
                .to_string()
                .lines()
                .map(|problem| {
                    if path.exists() {
                        Finding::problem(CONFIGURATION, problem)
                    } else {
                        Finding::unknown(CONFIGURATION, format!("{problem} (--config FILE says where it is)"))
                    }
                })
                .collect();
            findings.push(Finding::skipped("host", "cannot be checked before the configuration is read"));
            return Report::new(findings);
        }
    };
    let agent = running();
    let mut findings = vec![Finding::ok(CONFIGURATION, format!("{} has no problems", path.display()))];
    findings.extend(agent_findings(agent.as_ref().map_err(String::as_str)));
    // Of patterns, the interfaces that fit now.
    let plan = Plan::new(&config).resolved(&view::links().unwrap_or_default());
    let samples = Samples::new(plan.tables.prefixes.all());
    let host = Host { plan, samples, config, agent: agent.ok() };
    findings.extend(nodes::check(&host).await);
    // They talk to the kernel and start programs, and nothing else goes on in this process.
    for check in [kernel::check, settings::check, network::check, firewall::check, resources::check] {
        findings.extend(check(&host));
    }
    Report::new(findings)
}

/// The agent in this network namespace, or why there is none.
fn running() -> Result<Agent, String> {
    let status = control::status("agent", None).map_err(|error| error.to_string())?;
    let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if namespace("self") == namespace(&pid.to_string()) {
        Ok(Agent { pid, status })
    } else {
        Err(format!("none in this network namespace (process {pid} is in another)"))
    }
}

fn agent_findings(agent: Result<&Agent, &str>) -> Vec<Finding> {
    let agent = match agent {
        Ok(agent) => agent,
        Err(reason) => return vec![Finding::skipped(AGENT, reason)],
    };
    let (pid, version) = (agent.pid, agent.status["version"].as_str().unwrap_or("?"));
    let mut findings = vec![Finding::ok(AGENT, format!("runs (process {pid}, version {version})"))];
    let problems = agent.status["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
    findings.extend(problems.map(|problem| Finding::problem(AGENT, format!("says: {problem}"))));
    let warnings = agent.status["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    findings.extend(warnings.map(|warning| Finding::warning(AGENT, format!("says: {warning}"))));
    if !agent.status["released"].is_null() {
        let words = "customers' new connections go straight, unjudged: released by the operator's command";
        findings.push(Finding::warning(AGENT, words).mended_by("weir-agent release --end"));
    }
    if agent.status["switched_modes"].as_array().is_some_and(|modes| !modes.is_empty()) {
        let words = "the mode is switched by the operator's command (see `weir-agent status`)";
        findings.push(Finding::warning(AGENT, words).mended_by("weir-agent mode configured"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn every_problem_of_the_file_is_a_finding() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[steering]\nbackend = \"epbf\"\n[customers]\nprefixes = []\n").unwrap();
        let report = examine(file.path()).await;
        assert_eq!(report.exit_status(), 1);
        let table = report.to_table();
        assert!(table.contains("steering.backend") && table.contains("customers.prefixes"), "{table}");
        assert_eq!(examine(Path::new("/nowhere/agent.toml")).await.exit_status(), 2);
    }

    #[test]
    fn what_the_agent_says_of_itself_is_passed_on() {
        let status = json!({
            "version": "1", "problems": ["x is gone"], "warnings": ["nothing fits"], "released": {"seconds_left": 1}
        });
        let found = agent_findings(Ok(&Agent { pid: 7, status }));
        let states: Vec<State> = found.iter().map(|finding| finding.state).collect();
        assert_eq!(states, [State::Ok, State::Problem, State::Warning, State::Warning]);
        assert_eq!(agent_findings(Err("none"))[0].state, State::Skipped);
    }
}
