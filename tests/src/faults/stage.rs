//! What faults happen to: agent, two nodes with their scanner, and a destination, in a lab.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::components::{AgentConfig, Backend, FilterConfig, WeirAgent, WeirFilter, name_server};
use weir_tests::lab::{Family, Host, Lab, Process};
use weir_tests::wait::PATIENCE;

const SCANNER_PORT: u16 = 783;
const SPOOL: &str = "/var/spool/weir-faults";
const BOOK: &str = "/var/tmp/book";
const CLOCK: &str = "/var/tmp/clock";

/// Customers have so many addresses of IPv4, beside those of the lab: source ports are not enough otherwise.
const MORE_CUSTOMERS: u8 = 60;

/// How the stage is set.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) backend: Backend,
    /// Time of one scan, and scans at a time on each node.
    pub(crate) scan: Duration,
    pub(crate) scans_at_a_time: usize,
    pub(crate) agent: bool,
    /// What follows each node's address in agent.toml.
    pub(crate) node_settings: &'static str,
    pub(crate) relay_lines: String,
}

impl Setting {
    pub(crate) fn new(backend: Backend) -> Self {
        Self {
            backend,
            scan: Duration::ZERO,
            scans_at_a_time: 64,
            agent: true,
            node_settings: "",
            relay_lines: String::new(),
        }
    }
}

pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    config: AgentConfig,
    filter: FilterConfig,
    scan: Duration,
    pub(crate) agent: Option<WeirAgent>,
    pub(crate) nodes: [Option<WeirFilter>; 2],
    pub(crate) scanner: Option<Process>,
    pub(crate) destination: Option<Process>,
    pub(crate) names: Option<Process>,
}

impl<'a> Stage<'a> {
    pub(crate) fn set(lab: &'a Lab, setting: &Setting) -> Result<Self> {
        let scanner = SocketAddr::new(Family::V4.filter_node(0), SCANNER_PORT);
        let mut filter = FilterConfig::node(0).asking(scanner);
        // No answer of the scanner is no verdict: what it would have refused must not pass.
        filter.spamd_lines = format!(
            "when_away = \"defer\"\nconcurrency = {}\nmax_wait = 10\ntimeout = 8",
            setting.scans_at_a_time
        );
        let mut stage = Self {
            lab,
            config: config(setting),
            filter,
            scan: setting.scan,
            agent: None,
            nodes: [None, None],
            scanner: None,
            destination: None,
            names: None,
        };
        prepare(lab)?;
        fake_clocks(lab)?;
        stage.set_clocks("+0")?;
        stage.start_names()?;
        stage.start_destination()?;
        stage.start_scanner()?;
        stage.start_node(0)?;
        stage.start_node(1)?;
        if setting.agent {
            stage.start_agent()?;
        }
        Ok(stage)
    }

    pub(crate) fn start_agent(&mut self) -> Result<()> {
        let mut config = self.config.to_toml();
        for node in 0..2 {
            config = config.replace(&Family::V4.filter_node(node).to_string(), &node_name(node));
        }
        self.agent = Some(WeirAgent::start_with(&self.lab.gateway, &config)?);
        Ok(())
    }

    pub(crate) fn start_node(&mut self, node: u8) -> Result<()> {
        let FilterConfig { listen, counters_file, events_directory, .. } = FilterConfig::node(node);
        let config = FilterConfig { listen, counters_file, events_directory, ..self.filter.clone() };
        self.nodes[usize::from(node)] = Some(WeirFilter::start(&self.lab.filter, node, &config)?);
        Ok(())
    }

    pub(crate) fn start_scanner(&mut self) -> Result<()> {
        let delay = self.scan.as_millis().to_string();
        let port = SCANNER_PORT.to_string();
        self.scanner =
            Some(own(&self.lab.filter, "scanner", &["scanner", "--port", &port, "--delay", &delay])?);
        Ok(())
    }

    pub(crate) fn start_destination(&mut self) -> Result<()> {
        self.destination =
            Some(own(&self.lab.internet, "destination", &["destination", "--port", "25", "--book", BOOK])?);
        Ok(())
    }

    pub(crate) fn start_names(&mut self) -> Result<()> {
        let record = |node| format!("--host-record={},{}", node_name(node), Family::V4.filter_node(node));
        self.names = Some(name_server(&self.lab.gateway, &[record(0), record(1)])?);
        Ok(())
    }

    /// By so many seconds `agent` and nodes are mistaken about the time of day from now on.
    pub(crate) fn set_clocks(&self, offset: &str) -> Result<()> {
        [&self.lab.gateway, &self.lab.filter].into_iter().try_for_each(|host| host.write(CLOCK, offset))
    }

    pub(crate) fn book(&self) -> PathBuf {
        self.lab.internet.path(BOOK)
    }

    /// Leaves no octet free where the agent spools.
    pub(crate) fn fill_spool(&self) -> Result<()> {
        // dd ends with an error: the disk is full.
        self.lab.gateway.sh(&format!("dd if=/dev/zero of={SPOOL}/full bs=64k 2>/dev/null; true")).map(drop)
    }

    pub(crate) fn empty_spool(&self) -> Result<()> {
        self.lab.gateway.sh(&format!("rm {SPOOL}/full")).map(drop)
    }

    /// What `ls` and `df` find where the agent spools: nothing, one hopes.
    pub(crate) fn spooled(&self) -> Result<(String, u64)> {
        let names = self.lab.gateway.sh(&format!("ls -A {SPOOL}"))?.trim().to_owned();
        let used = self.lab.gateway.sh(&format!("df --output=used {SPOOL} | tail -1"))?;
        Ok((names, used.trim().parse().context("what df says")?))
    }
}

/// Strict: what the filter refused must never be delivered, so there is no way past a dead agent (`closed`), and none
/// past dead nodes (`defer`). Times are short, so that what hangs is seen to end.
fn config(setting: &Setting) -> AgentConfig {
    let mut config = AgentConfig::new(setting.backend).closed();
    config.node_settings = setting.node_settings;
    config.filter_lines =
        "resolve_interval = 1\nprobe_interval = 1\nverdict_budget = 20\nconnect_timeout = 2\nreply_timeout = 5".into();
    config.relay_lines = format!(
        "connect_timeout = 8\nreply_timeout = 15\nend_of_data_timeout = 20\nidle_timeout = 20\nshutdown_timeout = 5\n{}",
        setting.relay_lines
    );
    config.spool_lines = format!("directory = \"{SPOOL}\"\nmemory_per_message = 8192");
    config
}

fn node_name(node: u8) -> String {
    format!("node{node}.provider.test")
}

/// What agent and nodes take for the time of day is in a file, read anew each second.
fn fake_clocks(lab: &Lab) -> Result<()> {
    for host in [&lab.gateway, &lab.filter] {
        host.install("faketime")?;
        let library = host.sh("ls /usr/lib/*/faketime/libfaketimeMT.so.1")?;
        host.set_environment("LD_PRELOAD", library.trim());
        host.set_environment("FAKETIME_TIMESTAMP_FILE", CLOCK);
        host.set_environment("FAKETIME_CACHE_DURATION", "1");
        // The clock that times are measured with does not jump: the kernel promises that (clock_gettime(2)).
        host.set_environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        host.write(CLOCK, "+3600")?;
        let [theirs, ours] = [host.sh("date +%s")?, lab.internet.sh("date +%s")?];
        let ahead = theirs.trim().parse::<i64>()? - ours.trim().parse::<i64>()?;
        ensure!(ahead > 3500, "the clock of {} does not jump: {ahead} s ahead", host.name());
    }
    Ok(())
}

fn prepare(lab: &Lab) -> Result<()> {
    lab.gateway.sh(&format!("mkdir -p {SPOOL} && mount -t tmpfs -o size=64m tmpfs {SPOOL}"))?;
    // A link that goes down keeps its IPv6 addresses, as its IPv4 ones.
    lab.gateway.sh("for each in /proc/sys/net/ipv6/conf/*/keep_addr_on_down; do echo 1 >$each; done")?;
    let more = (1..=MORE_CUSTOMERS)
        .map(|host| format!("ip addr add 10.1.1.{host}/16 dev eth0"))
        .collect::<Vec<_>>()
        .join(" && ");
    lab.customer.sh(&more).map(drop)
}

/// The addresses that customers send from, of one family.
pub(crate) fn customers(family: Family) -> Vec<IpAddr> {
    let mut customers = vec![family.customer(), family.other_customer()];
    if family == Family::V4 {
        customers.extend((1..=MORE_CUSTOMERS).map(|host| IpAddr::from([10, 1, 1, host])));
    }
    customers
}

/// This program in another part.
fn own(host: &Host, log: &str, arguments: &[&str]) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments);
    let mut process = host.spawn(log, command)?;
    process.wait_output("ready", PATIENCE)?;
    ensure!(process.exited()?.is_none(), "{log} ended at once");
    Ok(process)
}
