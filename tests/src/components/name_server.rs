//! dnsmasq as a host's own name server.

use std::process::Command;

use anyhow::Result;

use crate::lab::{Host, Process};
use crate::wait::{PATIENCE, wait_until};

/// Starts one that knows these records (dnsmasq's options) and no others, and has the host's programs ask it.
pub fn name_server(host: &Host, records: &[String]) -> Result<Process> {
    host.install("dnsmasq")?;
    host.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")?;
    host.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
    let mut command = Command::new("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
    ]);
    command.args(["--local=/test/", "--listen-address=127.0.0.1", "--bind-interfaces"]).args(records);
    let process = host.spawn("dnsmasq", command)?;
    wait_until("the name server to listen", PATIENCE, || Ok(!host.sh("ss -Huln 'sport = :53'")?.is_empty()))?;
    Ok(process)
}
