//! weir-filter, one process a node.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::agent::Finished;
use super::logs::{self, LogLine};
use crate::lab::{Family, Host, Process, SECOND_PROXY, paths};
use crate::wait::{PATIENCE, wait_for};

pub const PORT: u16 = 10025;

/// The parts of filter.toml that scenarios vary.
#[derive(Debug, Clone)]
pub struct FilterConfig {
    pub listen: Vec<SocketAddr>,
    /// Further lines of the section `[smtp]`, and sections below it.
    pub smtp_lines: String,
    pub messages_per_minute: u32,
    pub messages_per_hour: u32,
    pub spamd: Option<SocketAddr>,
    /// SpamAssassin's score from which messages are rejected.
    pub reject_at: f64,
    /// Further lines of the section `[spamassassin]`.
    pub spamd_lines: String,
    /// Further lines of the section `[counters]`.
    pub counters_lines: String,
    /// Where it keeps counts; nodes on one host need one each.
    pub counters_file: String,
    /// Where it keeps events; nodes on one host need one each.
    pub events_directory: String,
    /// Further sections.
    pub sections: String,
}

impl FilterConfig {
    /// A node of the lab on its IPv4 and IPv6 address, with limits nobody meets and without SpamAssassin.
    pub fn node(number: u8) -> Self {
        Self {
            listen: Family::BOTH.map(|family| SocketAddr::new(family.filter_node(number), PORT)).to_vec(),
            smtp_lines: String::new(),
            messages_per_minute: 100_000,
            messages_per_hour: 1_000_000,
            spamd: None,
            reject_at: 6.0,
            spamd_lines: String::new(),
            counters_lines: String::new(),
            counters_file: format!("/var/lib/weir-filter/counters{number}.sqlite"),
            events_directory: format!("/var/lib/weir-filter/events{number}"),
            sections: String::new(),
        }
    }

    pub fn asking(mut self, spamd: SocketAddr) -> Self {
        self.spamd = Some(spamd);
        self
    }

    pub fn limited_to(mut self, messages_per_minute: u32) -> Self {
        self.messages_per_minute = messages_per_minute;
        self
    }

    pub fn to_toml(&self) -> String {
        let listen: Vec<_> = self.listen.iter().map(ToString::to_string).collect();
        let proxies = [Family::V4.proxy(), Family::V6.proxy(), SECOND_PROXY.into()]
            .map(|proxy| format!("{proxy}/{}", if proxy.is_ipv4() { 32 } else { 128 }));
        let mut text = format!(
            "[smtp]\nlisten = {listen:?}\nproxies = {proxies:?}\n{}\n\
             [policy]\npreset = \"reject\"\nreject_at = {:?}\n\
             [limits]\nmessages_per_minute = {}\nmessages_per_hour = {}\nbulk_messages = 0\n\
             [counters]\nfile = {:?}\n{}\n[events]\ndirectory = {:?}\n\
             [blocks]\nfile = {:?}\ncontact = \"abuse@provider.test\"\n{}\n",
            self.smtp_lines,
            self.reject_at,
            self.messages_per_minute,
            self.messages_per_hour,
            self.counters_file,
            self.counters_lines,
            self.events_directory,
            self.counters_file.replace("counters", "blocks"),
            self.sections
        );
        if let Some(spamd) = self.spamd {
            // Writing to a String cannot fail.
            let lines = &self.spamd_lines;
            let _ = write!(text, "[spamassassin]\naddress = \"{spamd}\"\n{lines}\n");
        }
        text
    }
}

/// A running filter node.
pub struct WeirFilter {
    process: Process,
    node: u8,
}

impl WeirFilter {
    /// Starts node `node` and waits until it says that it is ready.
    pub fn start(host: &Host, node: u8, config: &FilterConfig) -> Result<Self> {
        Self::start_as(host, node, &config.to_toml())
    }

    /// With this configuration.
    pub fn start_as(host: &Host, node: u8, text: &str) -> Result<Self> {
        let path = format!("/etc/weir/filter{node}.toml");
        host.write(&path, text)?;
        let mut command = Command::new(paths::program("weir-filter")?);
        command.args(["run", "--config", &path]);
        let mut process = host.spawn(&format!("weir-filter{node}"), command)?;
        process.wait_output("ready", PATIENCE)?;
        Ok(Self { process, node })
    }

    /// Both nodes of the lab, alike.
    pub fn start_both(host: &Host, change: impl Fn(FilterConfig) -> FilterConfig) -> Result<[Self; 2]> {
        Ok([
            Self::start(host, 0, &change(FilterConfig::node(0)))?,
            Self::start(host, 1, &change(FilterConfig::node(1)))?,
        ])
    }

    /// `weir-filter check` of a configuration's text.
    pub fn check(host: &Host, config: &str) -> Result<Finished> {
        host.write("/etc/weir/filter.toml", config)?;
        super::run_to_end(host, "weir-filter", &["check", "--config", "/etc/weir/filter.toml"])
    }

    /// `weir-filter` with these arguments, to its end.
    pub fn command(host: &Host, arguments: &[&str]) -> Result<Finished> {
        super::run_to_end(host, "weir-filter", arguments)
    }

    /// What it says of a configuration with which it does not start.
    pub fn refused(host: &Host, node: u8, config: &FilterConfig) -> Result<String> {
        let path = format!("/etc/weir/filter{node}.toml");
        host.write(&path, config.to_toml())?;
        let finished = super::run_to_end(host, "weir-filter", &["run", "--config", &path])?;
        ensure!(!finished.success, "it started:\n{}", finished.output);
        Ok(finished.output)
    }

    /// `weir-filter status --json`, where but one runs.
    pub fn status(host: &Host) -> Result<Value> {
        let finished = super::run_to_end(host, "weir-filter", &["status", "--json"])?;
        ensure!(finished.success, "status failed:\n{}", finished.output);
        Ok(serde_json::from_str(finished.output.trim())?)
    }

    /// The same of this one, where several run.
    pub fn own_status(&self, host: &Host) -> Result<Value> {
        Ok(serde_json::from_str(self.ask_own(host, &["status", "--json"])?.trim())?)
    }

    /// What a command about this one prints, where several run.
    pub fn ask_own(&self, host: &Host, arguments: &[&str]) -> Result<String> {
        // As it is called on its own host.
        let output = self.output();
        let ready = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let pid = ready.filter(|line| line["message"] == "ready").find_map(|line| line["pid"].as_u64());
        let socket = format!("/run/weir-filter/filter.{}.sock", pid.context("the process's number")?);
        Self::ask(host, &[arguments, &["--socket", &socket]].concat())
    }

    /// What a command of weir-filter prints.
    pub fn ask(host: &Host, arguments: &[&str]) -> Result<String> {
        let finished = Self::command(host, arguments)?;
        ensure!(finished.success, "weir-filter {arguments:?} failed:\n{}", finished.output);
        Ok(finished.output)
    }

    pub fn node(&self) -> u8 {
        self.node
    }

    pub fn output(&self) -> String {
        self.process.output()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// SIGTERM; must end with status 0.
    pub fn stop(mut self) -> Result<()> {
        let status = self.process.terminate(2 * PATIENCE)?;
        ensure!(status.success(), "weir-filter ended with {status} on SIGTERM:\n{}", self.process.output());
        Ok(())
    }

    /// The log lines of messages it judged.
    pub fn messages(&self) -> Vec<LogLine> {
        logs::messages(&self.process.output())
    }

    /// The line of the message with this id, once there is one.
    pub fn wait_message(&self, id: &str) -> Result<LogLine> {
        wait_for(&format!("a line of filter node {} for message {id}", self.node), PATIENCE, || {
            Ok(self.messages().into_iter().find(|line| line.field("id") == id))
        })
    }
}
