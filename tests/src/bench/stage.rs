//! Customers with smtp-source, a destination with smtp-sink, and hosts with room for many connections.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use weir_tests::lab::{Family, Lab, Process};
use weir_tests::wait::{PATIENCE, wait_until};

/// Sessions that the destination takes at a time.
const SINK_SESSIONS: u32 = 60_000;

/// Customers' addresses beside the lab's: the source ports of one are not enough for many connections.
const MORE_CUSTOMERS: u8 = 60;

pub(crate) struct Stage<'a> {
    pub(crate) lab: &'a Lab,
    _sink: Process,
}

impl<'a> Stage<'a> {
    pub(crate) fn set(lab: &'a Lab) -> Result<Self> {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        for host in [&lab.customer, &lab.gateway, &lab.internet, &lab.filter] {
            // A port may be used again after a second, not a minute (tcp_tw_reuse); queues are long enough for what is begun at once.
            host.sh("cd /proc/sys/net && echo 1 >ipv4/tcp_tw_reuse && echo 8192 >core/somaxconn && \
                 echo 8192 >ipv4/tcp_max_syn_backlog && echo 1024 32767 >ipv4/ip_local_port_range")?;
        }
        // Where connections are tracked, a customer's and the gateway's with his address must not have the same port.
        lab.customer.sh("echo 32768 65000 >/proc/sys/net/ipv4/ip_local_port_range")?;
        // As `weir-agent doctor` wants it: or the first connections that go straight are taken for those of before.
        lab.gateway.sh("echo 0 >/proc/sys/net/ipv4/tcp_early_demux")?;
        lab.customer.install("postfix")?;
        lab.internet.install("postfix")?;
        let more = (1..=MORE_CUSTOMERS).map(|host| format!("ip addr add 10.1.1.{host}/16 dev eth0"));
        lab.customer.sh(&more.collect::<Vec<_>>().join(" && "))?;
        let mut command = Command::new("smtp-sink");
        command.args([
            "-u",
            "nobody",
            "-m",
            &SINK_SESSIONS.to_string(),
            // Seconds: idle sessions stay.
            "-t",
            "7200",
            &format!("inet:{}", destination()),
            "8192",
        ]);
        let mut sink = lab.internet.spawn("smtp-sink", command)?;
        wait_until("smtp-sink to listen", PATIENCE, || {
            ensure!(sink.exited()?.is_none(), "smtp-sink ended:\n{}", sink.output());
            Ok(lab.internet.sh("ss -Hltn")?.contains(":25 "))
        })?;
        Ok(Self { lab, _sink: sink })
    }
}

/// The addresses that customers send from.
pub(crate) fn customers() -> Vec<IpAddr> {
    (1..=MORE_CUSTOMERS).map(|host| IpAddr::from([10, 1, 1, host])).collect()
}

pub(crate) fn destination() -> SocketAddr {
    SocketAddr::new(Family::V4.destination(), 25)
}
