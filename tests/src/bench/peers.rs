//! What weir is compared with, set up as its users do: haproxy and nginx as relays that know no SMTP, and proxsmtpd, alone and with
//! haproxy in front of filter nodes.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Result, ensure};
use weir_tests::components::FILTER_PORT;
use weir_tests::lab::{CUSTOMER_INTERFACE, Family, Host, Process};
use weir_tests::wait::{PATIENCE, wait_until};

use crate::submit;

pub(crate) const HAPROXY_PORT: u16 = 2611;
pub(crate) const PROXSMTPD_PORT: u16 = 2612;
pub(crate) const NGINX_PORT: u16 = 2613;

/// How customers' connections come to a program's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// With the address that the customer wants.
    Tproxy,
    /// The same, with connection tracking, of which proxsmtpd asks that address.
    Tracked,
    /// With the gateway's own, for a program that cannot listen on others': connection tracking has part in it.
    Redirect,
}

/// A rule that asks has connections tracked.
const TRACK: &str =
    "chain track { type filter hook prerouting priority filter; ct state established accept\n }";

/// Rules by which customers' port 25 goes to a program. Gone when dropped.
pub(crate) struct Rules<'a>(&'a Host);

impl<'a> Rules<'a> {
    pub(crate) fn add(gateway: &'a Host, by: By, port: u16) -> Result<Self> {
        let steer = match by {
            By::Tproxy | By::Tracked => format!(
                "iifname {CUSTOMER_INTERFACE} tcp dport 25 tproxy ip to :{port} meta mark set 1 accept\n \
                 iifname {CUSTOMER_INTERFACE} tcp dport 25 tcp flags syn / syn,ack drop\n }}\n{}",
                if by == By::Tracked { TRACK } else { "" }
            ),
            By::Redirect => format!(
                "}}\n chain nat {{ type nat hook prerouting priority dstnat;\n\
                 iifname {CUSTOMER_INTERFACE} tcp dport 25 redirect to :{port}\n }}"
            ),
        };
        let table = format!(
            "table inet bench {{ chain steer {{ type filter hook prerouting priority mangle;\n\
             meta l4proto tcp socket transparent 1 meta mark set 1 accept\n {steer}\n}}\n"
        );
        gateway.write("/etc/bench.nft", table)?;
        // Taken back whatever becomes of the rest.
        let rules = Self(gateway);
        gateway.sh(
            "nft -f /etc/bench.nft && ip rule add fwmark 1 lookup 100 && ip route add local default dev lo table 100",
        )?;
        Ok(rules)
    }

    pub(crate) fn gateway(&self) -> &Host {
        self.0
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        let undo =
            "nft delete table inet bench && ip rule del fwmark 1 lookup 100 && ip route flush table 100";
        if let Err(error) = self.0.sh(undo) {
            eprintln!("rules are left on the gateway: {error:#}");
        }
    }
}

/// haproxy in TCP mode, with the customer's address towards the destination. It takes what its descriptors are enough for.
pub(crate) fn haproxy(gateway: &Host) -> Result<Process> {
    let config = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n\
         listen relay\n bind 0.0.0.0:{HAPROXY_PORT} transparent backlog 8192\n \
         server destination 0.0.0.0: source 0.0.0.0 usesrc clientip\n"
    );
    start_haproxy(gateway, "haproxy", &config, HAPROXY_PORT)
}

/// haproxy in front of both filter nodes, as proxsmtpd's users have it.
pub(crate) fn haproxy_for_nodes(gateway: &Host) -> Result<Process> {
    let mut config = format!(
        "global\n maxconn 4000\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n\
         listen nodes\n bind 127.0.0.1:{}\n balance leastconn\n",
        submit::PORT
    );
    for node in [0, 1] {
        // Writing to a String cannot fail.
        let _ = writeln!(config, " server node{node} {}:{FILTER_PORT}", Family::V4.filter_node(node));
    }
    start_haproxy(gateway, "haproxy-nodes", &config, submit::PORT)
}

fn start_haproxy(gateway: &Host, name: &str, config: &str, port: u16) -> Result<Process> {
    gateway.install("haproxy")?;
    let file = format!("/etc/haproxy/{name}.cfg");
    gateway.write(&file, config)?;
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f", &file]);
    listening(gateway, name, command, port)
}

/// nginx as a stream proxy, with the customer's address towards the destination.
pub(crate) fn nginx(gateway: &Host) -> Result<Process> {
    gateway.install("nginx")?;
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\ndaemon off;\nworker_processes auto;\n\
         pid /run/bench-nginx.pid;\nerror_log stderr error;\nworker_rlimit_nofile 20000;\n\
         events {{ worker_connections 60000; }}\n\
         stream {{ server {{ listen 0.0.0.0:{NGINX_PORT} backlog=8192; proxy_pass {}; \
         proxy_bind $remote_addr transparent; proxy_timeout 300s; tcp_nodelay on; }} }}\n",
        crate::stage::destination()
    );
    gateway.write("/etc/bench-nginx.conf", config)?;
    gateway.sh("mkdir -p /var/log/nginx /var/lib/nginx")?;
    let mut command = Command::new("nginx");
    command.args(["-c", "/etc/bench-nginx.conf"]);
    listening(gateway, "nginx", command, NGINX_PORT)
}

/// proxsmtpd, with or without its filter path.
pub(crate) fn proxsmtpd(gateway: &Host, with_filter: bool) -> Result<Process> {
    gateway.install("proxsmtp")?;
    let mut config = format!(
        "OutAddress: {}\nTransparentProxy: full\nListen: 0.0.0.0:{PROXSMTPD_PORT}\nMaxConnections: 400\n",
        crate::stage::destination()
    );
    if with_filter {
        let submitter = std::env::current_exe()?;
        let _ = write!(
            config,
            "FilterType: file\nFilterCommand: {} submit\nFilterTimeout: 60\nTempDirectory: /tmp\n",
            submitter.display()
        );
    }
    gateway.write("/etc/bench-proxsmtpd.conf", config)?;
    let mut command = Command::new("proxsmtpd");
    command.args(["-d", "1", "-f", "/etc/bench-proxsmtpd.conf"]);
    listening(gateway, "proxsmtpd", command, PROXSMTPD_PORT)
}

fn listening(gateway: &Host, name: &str, command: Command, port: u16) -> Result<Process> {
    let mut process = gateway.spawn(name, command)?;
    wait_until(&format!("{name} to listen"), PATIENCE, || {
        ensure!(process.exited()?.is_none(), "{name} ended:\n{}", process.output());
        Ok(gateway.sh("ss -Hltn")?.contains(&format!(":{port} ")))
    })?;
    Ok(process)
}
