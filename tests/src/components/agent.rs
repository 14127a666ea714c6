//! weir-agent on the gateway.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::logs::{self, LogLine};
use crate::lab::{CUSTOMER_INTERFACE, CUSTOMER_PREFIXES, Family, Host, INTERNET_INTERFACE, Process, paths};
use crate::wait::{PATIENCE, wait_for};

const CONFIG: &str = "/etc/weir/agent.toml";

/// How port 25 reaches the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Ebpf,
    Tproxy,
}

impl Backend {
    pub const BOTH: [Self; 2] = [Self::Ebpf, Self::Tproxy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Tproxy => "tproxy",
        }
    }
}

/// The parts of agent.toml that scenarios vary.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    pub backend: Backend,
    pub customer_interfaces: Vec<String>,
    pub internet_interfaces: Vec<String>,
    /// `open` or `closed`.
    pub when_agent_dies: &'static str,
    pub nodes: Vec<SocketAddr>,
    /// What follows the address of each.
    pub node_settings: &'static str,
    /// `defer` or `accept`.
    pub when_unavailable: &'static str,
    pub prefixes: Vec<String>,
    /// Further lines of the section `[customers]`, and sections after it.
    pub customer_lines: String,
    /// Further lines of the section `[filter]`.
    pub filter_lines: String,
    /// Further lines of the section `[relay]`.
    pub relay_lines: String,
    /// Lines of the section `[spool]`.
    pub spool_lines: String,
    /// `may` or `off`: off, so that TLS at the destination shows that a message went past the agent.
    pub destination_tls: &'static str,
}

impl AgentConfig {
    /// Both filter nodes of the lab, over IPv4; everything else as shipped.
    pub fn new(backend: Backend) -> Self {
        let node = |number| SocketAddr::new(Family::V4.filter_node(number), super::filter::PORT);
        Self {
            backend,
            customer_interfaces: vec![CUSTOMER_INTERFACE.into()],
            internet_interfaces: vec![INTERNET_INTERFACE.into()],
            when_agent_dies: "open",
            nodes: vec![node(0), node(1)],
            node_settings: "",
            when_unavailable: "defer",
            prefixes: CUSTOMER_PREFIXES.map(str::to_owned).to_vec(),
            customer_lines: String::new(),
            filter_lines: String::new(),
            relay_lines: String::new(),
            spool_lines: String::new(),
            destination_tls: "off",
        }
    }

    pub fn closed(mut self) -> Self {
        self.when_agent_dies = "closed";
        self
    }

    pub fn accepting_without_nodes(mut self) -> Self {
        self.when_unavailable = "accept";
        self
    }

    pub fn to_toml(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(|node| format!("{node} {}", self.node_settings)).collect();
        format!(
            "[steering]\nbackend = {:?}\ncustomer_interfaces = {:?}\ninternet_interfaces = {:?}\nlisten_port = 2525\n\
             when_agent_dies = {:?}\n[customers]\nprefixes = {:?}\n{}\n[filter]\nnodes = {nodes:?}\nwhen_unavailable = {:?}\n\
             {}\n[relay]\ndestination_tls = {:?}\n{}\n[spool]\n{}\n[log]\nformat = \"json\"\n",
            self.backend.name(),
            self.customer_interfaces,
            self.internet_interfaces,
            self.when_agent_dies,
            self.prefixes,
            self.customer_lines,
            self.when_unavailable,
            self.filter_lines,
            self.destination_tls,
            self.relay_lines,
            self.spool_lines,
        )
    }
}

/// What a short run of a program ended with.
#[derive(Debug)]
pub struct Finished {
    pub success: bool,
    pub code: Option<i32>,
    pub output: String,
}

/// A running agent.
pub struct WeirAgent {
    process: Process,
}

impl WeirAgent {
    /// Starts it and waits until it says that it is ready.
    pub fn start(host: &Host, config: &AgentConfig) -> Result<Self> {
        Self::start_with(host, &config.to_toml())
    }

    /// As `start`, with a configuration's text.
    pub fn start_with(host: &Host, config: &str) -> Result<Self> {
        let mut agent = Self { process: Self::launch(host, config)? };
        agent.process.wait_output("ready", PATIENCE)?;
        Ok(agent)
    }

    /// Only writes the configuration's text, for a snapshot of the host before the agent starts.
    pub fn configure(host: &Host, config: &str) -> Result<()> {
        host.write(CONFIG, config)
    }

    /// Starts it with a configuration's text, and waits for nothing.
    pub fn launch(host: &Host, config: &str) -> Result<Process> {
        Self::launch_by(host, &["env"], config)
    }

    /// As `start_with`, by a program that is given the agent's command line: `setpriv`, say.
    pub fn start_by(host: &Host, by: &[&str], config: &str) -> Result<Self> {
        let mut agent = Self { process: Self::launch_by(host, by, config)? };
        agent.process.wait_output("ready", PATIENCE)?;
        Ok(agent)
    }

    fn launch_by(host: &Host, by: &[&str], config: &str) -> Result<Process> {
        Self::launch_with(host, "weir-agent", by, config, &[])
    }

    fn launch_with(host: &Host, log: &str, by: &[&str], config: &str, arguments: &[&str]) -> Result<Process> {
        Self::configure(host, config)?;
        let mut command = Command::new(by.first().unwrap_or(&"env"));
        command.args(by.iter().skip(1)).arg(paths::program("weir-agent")?);
        command.args(["run", "--config", CONFIG]).args(arguments);
        host.spawn(log, command)
    }

    /// Starts one that takes over from the one that runs, and waits for nothing. `number`: of its log.
    pub fn launch_heir(host: &Host, number: usize, config: &str) -> Result<Self> {
        let process =
            Self::launch_with(host, &format!("weir-agent-heir{number}"), &["env"], config, &["--take-over"])?;
        Ok(Self { process })
    }

    /// As `launch_heir`, and waits until it has taken over.
    pub fn take_over(host: &Host, number: usize, config: &str) -> Result<Self> {
        let mut agent = Self::launch_heir(host, number, config)?;
        agent.process.wait_output("taken over", PATIENCE)?;
        agent.process.wait_output("\"ready\"", PATIENCE)?;
        Ok(agent)
    }

    /// `weir-agent check` of a configuration's text.
    pub fn check(host: &Host, config: &str) -> Result<Finished> {
        host.write(CONFIG, config)?;
        Self::command(host, &["check", "--config", CONFIG])
    }

    /// `weir-agent cleanup`; must succeed.
    pub fn cleanup(host: &Host) -> Result<()> {
        let finished = Self::command(host, &["cleanup", "--config", CONFIG])?;
        ensure!(finished.success, "cleanup failed:\n{}", finished.output);
        Ok(())
    }

    /// `weir-agent status --json`.
    pub fn status(host: &Host) -> Result<Value> {
        let finished = Self::command(host, &["status", "--json"])?;
        ensure!(finished.success, "status failed:\n{}", finished.output);
        Ok(serde_json::from_str(finished.output.trim())?)
    }

    /// One of its commands, run to the end.
    pub fn command(host: &Host, arguments: &[&str]) -> Result<Finished> {
        super::run_to_end(host, "weir-agent", arguments)
    }

    pub fn into_process(self) -> Process {
        self.process
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn output(&self) -> String {
        self.process.output()
    }

    /// kill -9; it is dead when this returns.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }

    /// SIGTERM; must end with status 0.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(2 * PATIENCE)?;
        ensure!(status.success(), "weir-agent ended with {status} on SIGTERM:\n{}", self.process.output());
        Ok(())
    }

    /// The log lines of messages whose fate is known.
    pub fn messages(&self) -> Vec<LogLine> {
        logs::messages(&self.process.output())
    }

    /// The first message's line that satisfies the condition, once there is one.
    pub fn wait_message(&self, what: &str, holds: impl Fn(&LogLine) -> bool) -> Result<LogLine> {
        wait_for(what, PATIENCE, || Ok(self.messages().into_iter().find(|line| holds(line))))
    }
}
