//! rspamd with the rules of its Debian package, and nothing that asks the network.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::lab::{Host, Process};
use crate::wait::{PATIENCE, wait_until};

pub const RSPAMD_PORT: u16 = 11333;

/// They ask name servers, or a store that is not there.
const OFF: [&str; 13] = [
    "arc",
    "asn",
    "dkim",
    "dkim_signing",
    "dmarc",
    "fuzzy_check",
    "greylist",
    "mx_check",
    "neural",
    "phishing",
    "rbl",
    "spf",
    "surbl",
];

pub struct Rspamd {
    process: Process,
    address: SocketAddr,
}

impl Rspamd {
    /// Starts rspamd and waits until it answers a ping.
    pub fn start(host: &Host, address: IpAddr) -> Result<Self> {
        host.install("rspamd")?;
        host.sh(
            "grep -q '^_rspamd:' /etc/passwd || { echo '_rspamd:x:991:991::/var/lib/rspamd:/bin/false' >>/etc/passwd; \
             echo '_rspamd:x:991:' >>/etc/group; }; mkdir -p /var/lib/rspamd /run/rspamd && \
             chown _rspamd:_rspamd /var/lib/rspamd /run/rspamd",
        )?;
        for module in OFF {
            host.write(&format!("/etc/rspamd/local.d/{module}.conf"), "enabled = false;\n")?;
        }
        let unknown = "symbols { HFILTER_HOSTNAME_UNKNOWN { score = 0.0; } }\n";
        host.write("/etc/rspamd/local.d/hfilter_group.conf", unknown)?;
        let address = SocketAddr::new(address, RSPAMD_PORT);
        // Compiling all patterns at once takes longer than any message here.
        host.write(
            "/etc/rspamd/lab.conf",
            format!(
                ".include \"$CONFDIR/common.conf\"\n\
                 options {{\n.include \"$CONFDIR/options.inc\"\ndisable_hyperscan = true;\n\
                 dns {{ nameserver = [\"127.0.0.1:53:1\"]; timeout = 1s; retransmits = 1; }}\n}}\n\
                 logging {{ type = \"console\"; level = \"notice\"; }}\n\
                 worker \"normal\" {{ bind_socket = \"{address}\"; count = 1; }}\n\
                 worker \"controller\" {{ bind_socket = \"127.0.0.1:11334\"; count = 1; }}\n"
            ),
        )?;
        let mut command = Command::new("rspamd");
        command.args(["-f", "-u", "_rspamd", "-g", "_rspamd", "-c", "/etc/rspamd/lab.conf"]);
        let mut process = host.spawn("rspamd", command)?;
        wait_until("rspamd's answer", 4 * PATIENCE, || {
            anyhow::ensure!(process.exited()?.is_none(), "rspamd ended:\n{}", process.output());
            let asked = host.sh(&format!("curl --silent --max-time 5 http://{address}/ping || true"))?;
            Ok(asked.contains("pong"))
        })?;
        Ok(Self { process, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        self.process.signal_all(signal)
    }
}
