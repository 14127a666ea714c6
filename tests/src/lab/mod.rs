//! Four hosts in network namespaces: customer, gateway, filter, internet.

mod address;
mod host;
mod network;
pub mod paths;
mod process;
mod root;
mod snapshot;

use std::fs;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;

pub use address::{CUSTOMER_PREFIXES, Family, SECOND_PROXY};
pub use host::Host;
pub use network::{cable, ip};
pub use process::Process;
pub use snapshot::Snapshot;

use crate::components::MAIL_LOG;
use crate::wait::{PATIENCE, wait_until};

/// Interfaces of the gateway.
pub const CUSTOMER_INTERFACE: &str = "cust0";
pub const INTERNET_INTERFACE: &str = "inet0";
pub const FILTER_INTERFACE: &str = "filt0";

const NARROW_MTU: u32 = 1300;
const SHOWN_LINES: usize = 60;

/// Where the path has a link with an MTU of 1,300 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NarrowLink {
    Nowhere,
    CustomerSide,
    InternetSide,
}

/// Characters of why a lab failed that are said at once.
const MAX_REASON: usize = 4000;

/// The hosts, connected. Gone when dropped.
pub struct Lab {
    pub customer: Host,
    pub gateway: Host,
    pub filter: Host,
    pub internet: Host,
    routers: Vec<Host>,
    logs: PathBuf,
    keep_logs: bool,
}

impl Lab {
    pub fn new(name: &str) -> Result<Self> {
        Self::with_narrow_link(name, NarrowLink::Nowhere)
    }

    pub fn with_narrow_link(name: &str, narrow: NarrowLink) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let logs = paths::log_directory(&format!("{name}-{number}"))?;
        let start = |host| Host::start(host, &logs);
        let routers = match narrow {
            NarrowLink::Nowhere => vec![],
            _ => vec![start("router1")?, start("router2")?],
        };
        let lab = Self {
            customer: start("customer")?,
            gateway: start("gateway")?,
            filter: start("filter")?,
            internet: start("internet")?,
            routers,
            logs,
            keep_logs: false,
        };
        lab.connect(narrow)?;
        Ok(lab)
    }

    /// Does `work` in a new lab; when it fails, says what was logged there.
    pub fn run(name: &str, narrow: NarrowLink, work: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let mut lab = Self::with_narrow_link(name, narrow)?;
        let result = catch_unwind(AssertUnwindSafe(|| work(&lab)));
        if !matches!(result, Ok(Ok(()))) {
            lab.keep_logs();
            eprintln!("{}", lab.report());
        }
        if let Ok(Err(error)) = &result {
            // Past the capture of tests' output: what failed is said at once, and not only at the end of the suite.
            let reason: String = format!("{error:#}").chars().take(MAX_REASON).collect();
            let _ = writeln!(io::stderr(), "in the lab {name}: {reason}");
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn connect(&self, narrow: NarrowLink) -> Result<()> {
        let routers_if = |here| if here { self.routers.as_slice() } else { &[] };
        let paths = [
            (&self.customer, CUSTOMER_INTERFACE, 1, narrow == NarrowLink::CustomerSide),
            (&self.internet, INTERNET_INTERFACE, 2, narrow == NarrowLink::InternetSide),
            (&self.filter, FILTER_INTERFACE, 3, false),
        ];
        network::forward(&self.gateway)?;
        for router in &self.routers {
            network::forward(router)?;
        }
        for (end, gateway_interface, network, here) in paths {
            let routers = routers_if(here);
            let gateway = &self.gateway;
            network::Path { end, routers, gateway, gateway_interface, narrow_mtu: NARROW_MTU, network }
                .lay()?;
        }
        self.more_addresses(narrow)?;
        // A cable carries a moment after it was laid, and until then IPv6 addresses cannot be used.
        for host in
            [&self.customer, &self.gateway, &self.filter, &self.internet].into_iter().chain(&self.routers)
        {
            wait_until("IPv6 addresses that can be used", PATIENCE, || {
                Ok(host.sh("ip -6 addr show tentative")?.trim().is_empty())
            })?;
        }
        Ok(())
    }

    /// The customer's second address and the one outside the prefixes; the second filter node's.
    fn more_addresses(&self, narrow: NarrowLink) -> Result<()> {
        // Never chosen by itself (a lifetime of 0 deprecates an IPv6 address; IPv4 prefers the first).
        let add = |address: &str| format!("addr add {address} dev eth0 preferred_lft 0");
        ip(&self.customer, &["10.1.0.3/16", "fd01::3/32", "10.9.0.2/32", "fd09::2/128"].map(add))?;
        ip(&self.filter, &["10.3.0.11/16", "10.3.0.12/16", "fd03::11/32", "fd03::12/32"].map(add))?;
        if narrow == NarrowLink::CustomerSide {
            return Ok(()); // the routers know only the customer's own network
        }
        let outsider = ["route add 10.9.0.0/16 via 10.1.0.2", "route add fd09::/32 via fd01::2"];
        ip(&self.gateway, &outsider.map(String::from))
    }

    /// Another host, without cables.
    pub fn host(&self, name: &str) -> Result<Host> {
        let host = Host::start(name, &self.logs)?;
        network::forward(&host)?;
        Ok(host)
    }

    /// A gateway beside the first, which has the customer's addresses of `prefix` (IPv4) both ways, and goes to the filter
    /// host as the first does.
    pub fn second_gateway(&self, prefix: &str) -> Result<Host> {
        let beside = self.host("gateway2")?;
        network::lay_beside(&beside, [&self.customer, &self.internet, &self.filter], prefix)?;
        Ok(beside)
    }

    /// Keeps the logs when the lab goes: what was done in it has failed.
    pub fn keep_logs(&mut self) {
        self.keep_logs = true;
    }

    /// The ends of everything that was logged in the lab, for the report of a failure.
    pub fn report(&self) -> String {
        let mut report = format!("logs are kept in {}\n", self.logs.display());
        for host in [&self.customer, &self.gateway, &self.filter, &self.internet] {
            let mail_log = host.read(MAIL_LOG);
            if !mail_log.is_empty() {
                // The host's own file goes with the host.
                let _ = fs::write(self.logs.join(format!("{}-mail.log", host.name())), mail_log);
            }
        }
        let mut logs: Vec<_> = fs::read_dir(&self.logs).into_iter().flatten().flatten().collect();
        logs.sort_by_key(fs::DirEntry::path);
        for log in logs {
            report += &format!("--- {}\n{}\n", log.file_name().to_string_lossy(), last_lines(&log.path()));
        }
        report
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep_logs {
            // Logs that cannot be removed stay in the build directory; nothing depends on it.
            let _ = fs::remove_dir_all(&self.logs);
        }
    }
}

fn last_lines(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
