//! haproxy in front of the filter nodes, for comparison: as it is set up where there is no weir.

use std::process::Command;

use anyhow::{Result, ensure};

use super::filter::PORT;
use crate::lab::{Family, Host, Process};
use crate::wait::{PATIENCE, wait_until};

/// As ready to leave a dead node as it can be: a check every half second, one failure or success decides, and a
/// connection that is refused goes to the other node.
const CONFIG: &str = "\
global
    maxconn 4000
defaults
    mode tcp
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    retries 3
    option redispatch 1
";

pub struct Haproxy {
    _process: Process,
}

impl Haproxy {
    /// Starts it and waits until it answers on the port of the filter nodes.
    pub fn start(host: &Host) -> Result<Self> {
        host.install("haproxy")?;
        let nodes =
            [0, 1].map(|node| format!("    server node{node} {}:{PORT}\n", Family::V4.filter_node(node)));
        let listen = format!(
            "listen nodes\n    bind :{PORT}\n    balance leastconn\n    option smtpchk EHLO haproxy.provider.test\n    \
             default-server check inter 500ms fall 1 rise 1\n{}",
            nodes.concat()
        );
        host.write("/etc/haproxy/lab.cfg", format!("{CONFIG}{listen}"))?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f", "/etc/haproxy/lab.cfg"]);
        let mut process = host.spawn("haproxy", command)?;
        wait_until("haproxy to listen", PATIENCE, || {
            ensure!(process.exited()?.is_none(), "haproxy ended:\n{}", process.output());
            Ok(host.sh("ss -Hltn")?.contains(&format!(":{PORT} ")))
        })?;
        Ok(Self { _process: process })
    }

    /// Where customers find it.
    pub fn address() -> std::net::SocketAddr {
        (Family::V4.gateway(), PORT).into()
    }
}
