//! Metrics: what a real Prometheus makes of them, and of the alerts and the dashboard that weir brings along.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_daemon::reference::check_generated;
use weir_tests::components::{AgentConfig, Backend, FilterConfig, Prometheus, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Lab, NarrowLink};
use weir_tests::probe::HAM;
use weir_tests::smtp::{Client, Script, Server};
use weir_tests::wait::{PATIENCE, wait_until};

const RULES: &str = include_str!("../../../packaging/prometheus/weir.rules.yml");
const DASHBOARD: &str = include_str!("../../../packaging/grafana/weir.json");

on_both_back_ends!(are_scraped);

fn are_scraped(backend: Backend) -> Result<()> {
    Lab::run("metrics", NarrowLink::Nowhere, |lab| {
        let of_agent: SocketAddr = "127.0.0.1:9125".parse()?;
        let of_filter = SocketAddr::new(Family::V4.filter_node(0), 9125);
        let section = |listen: SocketAddr| format!("[metrics]\nlisten = [\"{listen}\"]\n");
        let _destination = Server::start(&lab.internet, Family::V4.destination(), Script::default())?;
        let _filter = WeirFilter::start(&lab.filter, 0, &filter_config(lab, &section(of_filter))?)?;
        let mut config = AgentConfig::new(backend);
        config.nodes.truncate(1);
        config.customer_lines = section(of_agent);
        let _agent = WeirAgent::start(&lab.gateway, &config)?;
        for _ in 0..3 {
            send(lab)?;
        }
        let said = [of_agent, of_filter].map(|address| each_metric_is_well_made(&lab.gateway, address));
        if backend == Backend::Ebpf {
            is_documented(said.into_iter().collect::<Result<_>>()?)?;
        }
        let jobs: [(&str, &[SocketAddr]); 2] = [("weir-agent", &[of_agent]), ("weir-filter", &[of_filter])];
        let prometheus = Prometheus::start(&lab.gateway, &jobs, RULES)?;
        for (expression, value) in [
            ("weir_agent_verdicts_total{verdict=\"accept\"}", "2"),
            ("weir_agent_verdicts_total{verdict=\"defer\"}", "1"),
            ("weir_agent_messages_total{outcome=\"delivered\"}", "2"),
            ("weir_agent_verdict_seconds_count", "3"),
            ("weir_agent_answer_seconds_count", "2"),
            ("weir_agent_node_up", "1"),
            ("weir_filter_messages_total{verdict=\"accept\"}", "2"),
            ("weir_filter_messages_total{verdict=\"defer\"}", "1"),
        ] {
            wait_until(&format!("{expression} is {value}"), PATIENCE, || {
                let rows = prometheus.query(expression)?;
                Ok(rows.iter().any(|row| row["value"][1] == value))
            })?;
        }
        wait_until("all rules were tried", PATIENCE, || {
            Ok(prometheus.rules()?.iter().all(|rule| rule["health"] == "ok"))
        })?;
        let alerts = prometheus.rules()?.len();
        ensure!(alerts == RULES.matches("- alert:").count(), "{alerts} rules");
        expressions_know_their_metrics(&prometheus)
    })
}

/// With a scanner that is away and a script that is only compared: so that there is nothing to be said that is not.
fn filter_config(lab: &Lab, metrics: &str) -> Result<FilterConfig> {
    lab.filter.write("/etc/weir/new.luau", "function data(message) return accept() end")?;
    let config = FilterConfig {
        sections: format!("{metrics}[script]\ncandidate = \"/etc/weir/new.luau\"\n"),
        spamd: Some("127.0.0.1:1".parse()?),
        ..FilterConfig::node(0)
    };
    Ok(config.limited_to(2))
}

fn send(lab: &Lab) -> Result<()> {
    let mut client =
        Client::connect_from(&lab.customer, Family::V4.customer(), (Family::V4.destination(), 25).into())?;
    client.greet("mail.customer.test")?;
    client.send_message("sender@customer.test", &[&format!("user@{}", Family::V4.domain())], HAM)?;
    Ok(())
}

/// By the rules of those who made the format.
fn each_metric_is_well_made(host: &Host, address: SocketAddr) -> Result<String> {
    host.install("prometheus")?;
    let complaints = host.sh(&format!("curl -sSf http://{address}/metrics | promtool check metrics 2>&1"))?;
    ensure!(complaints.trim().is_empty(), "{address}: {complaints}");
    for (arguments, code) in [("/", "404"), ("/metrics -X POST", "405")] {
        let said =
            host.sh(&format!("curl -sS -o /dev/null -w '%{{http_code}}' http://{address}{arguments}"))?;
        ensure!(said == code, "{arguments}: {said}");
    }
    host.sh(&format!("curl -sSf http://{address}/metrics"))
}

/// docs/metrics.md has them all, and no others.
fn is_documented(said: Vec<String>) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let written = std::fs::read_to_string(&path)?;
    let by_hand = written.split("\n## ").next().unwrap_or_default().trim_end();
    let mut text = format!("{by_hand}\n");
    for (program, said) in ["weir-agent", "weir-filter"].iter().zip(said) {
        let _ = write!(text, "\n## {program}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n");
        for line in said.lines().filter_map(|line| line.strip_prefix("# HELP weir_")) {
            let (name, help) = line.split_once(' ').context("a family without words")?;
            let kind = said.lines().find_map(|line| line.strip_prefix(&format!("# TYPE weir_{name} ")));
            let labels = labels(&said, &format!("weir_{name}"));
            let _ = writeln!(text, "| `weir_{name}` | {} | {labels} | {help} |", kind.unwrap_or_default());
        }
    }
    check_generated(&path, &text).map_err(|error| anyhow::anyhow!("{error}"))
}

/// Of a family's first row, but for those of the format itself.
fn labels(said: &str, family: &str) -> String {
    let begins = [format!("{family}{{"), format!("{family}_bucket{{")];
    let is_row = |line: &&str| begins.iter().any(|begin| line.starts_with(begin));
    let row = said.lines().find(is_row).unwrap_or_default();
    let inside =
        row.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
    let names =
        inside.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.trim_matches(','));
    let names: Vec<_> = names.filter(|name| *name != "le").map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// A panel or an alert that names what nobody says shows nothing, for ever.
fn expressions_know_their_metrics(prometheus: &Prometheus<'_>) -> Result<()> {
    let names: BTreeSet<String> = prometheus.names()?.into_iter().collect();
    let dashboard: Value = serde_json::from_str(DASHBOARD)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions = targets.filter_map(|target| target["expr"].as_str());
    // As Grafana fills them in.
    let mut expressions: Vec<String> = expressions
        .map(|one| one.replace("$__rate_interval", "1m").replace("${agent}", ".*").replace("${node}", ".*"))
        .map(|one| one.replace("$agent", ".*").replace("$node", ".*"))
        .collect();
    let rules = RULES.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    expressions.extend(rules.map(str::to_owned));
    ensure!(expressions.len() > 25, "{expressions:?}");
    for expression in expressions {
        prometheus.query(&expression).with_context(|| expression.clone())?;
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for name in words.filter(|word| word.starts_with("weir_") || word.starts_with("process_")) {
            ensure!(names.contains(name), "{expression}: {name} is no metric of weir");
        }
    }
    Ok(())
}
