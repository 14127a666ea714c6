//! Prometheus, which scrapes what the daemons say of themselves.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Host, Process};
use crate::wait::{PATIENCE, wait_until};

const LISTEN: &str = "127.0.0.1:9090";

pub struct Prometheus<'a> {
    host: &'a Host,
    _process: Process,
}

impl<'a> Prometheus<'a> {
    /// With these jobs, each with its targets, and the rules in a text; waits until it answers.
    pub fn start(host: &'a Host, jobs: &[(&str, &[SocketAddr])], rules: &str) -> Result<Self> {
        host.install("prometheus")?;
        let jobs: Vec<_> = jobs
            .iter()
            .map(|(name, targets)| {
                let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
                serde_json::json!({ "job_name": name, "static_configs": [{ "targets": targets }] })
            })
            .collect();
        // What is JSON is YAML.
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": ["/etc/weir.rules.yml"],
            "scrape_configs": jobs,
        });
        host.write("/etc/weir.rules.yml", rules)?;
        host.write("/etc/prometheus.yml", config.to_string())?;
        host.sh("mkdir -p /var/lib/prometheus")?;
        let mut command = Command::new("prometheus");
        command.args(["--config.file=/etc/prometheus.yml", "--storage.tsdb.path=/var/lib/prometheus"]);
        command.arg(format!("--web.listen-address={LISTEN}"));
        let mut process = host.spawn("prometheus", command)?;
        wait_until("Prometheus' answer", PATIENCE, || {
            ensure!(process.exited()?.is_none(), "prometheus ended:\n{}", process.output());
            Ok(host.sh(&format!("curl -sSf http://{LISTEN}/-/ready")).is_ok())
        })?;
        Ok(Self { host, _process: process })
    }

    /// What an expression gives: rows of labels and a value.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        self.host.write("/tmp/query", expression)?;
        let answer = self.get("query", "--get --data-urlencode query@/tmp/query")?;
        Ok(answer["result"].as_array().cloned().unwrap_or_default())
    }

    /// Every metric's name.
    pub fn names(&self) -> Result<Vec<String>> {
        let answer = self.get("label/__name__/values", "")?;
        let names = answer.as_array().context("no list of names")?;
        Ok(names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Rules with their health.
    pub fn rules(&self) -> Result<Vec<Value>> {
        let answer = self.get("rules", "")?;
        let groups = answer["groups"].as_array().context("no groups of rules")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }

    fn get(&self, what: &str, arguments: &str) -> Result<Value> {
        let answer = self.host.sh(&format!("curl -sS {arguments} http://{LISTEN}/api/v1/{what}"))?;
        let mut answer: Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        ensure!(answer["status"] == "success", "{what}: {answer}");
        Ok(answer["data"].take())
    }
}
