//! SpamAssassin's daemon, with the rules of its Debian package, no network tests, no learning.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::lab::{Host, Process};
use crate::wait::{PATIENCE, wait_until};

pub const SPAMD_PORT: u16 = 783;

pub struct Spamd {
    process: Process,
    address: SocketAddr,
}

impl Spamd {
    /// Starts spamd and waits until it answers a ping.
    pub fn start(host: &Host, address: IpAddr) -> Result<Self> {
        host.install("spamassassin")?;
        host.write("/etc/spamassassin/local.cf", "use_bayes 0\nreport_safe 0\nlock_method flock\n")?;
        let home = "/var/lib/spamd-home";
        host.sh(&format!("mkdir -p {home} && chown nobody {home}"))?;
        let mut command = Command::new("spamd");
        command.args(["-L", "-x", "-m", "3", "-u", "nobody", "-H", home, "-s", "stderr"]);
        command.args(["-i", &address.to_string(), "-p", &SPAMD_PORT.to_string()]);
        // Its clients are on the same host, with one of the host's addresses.
        command.args(["-A", "0.0.0.0/0,::/0"]);
        let mut process = host.spawn("spamd", command)?;
        let address = SocketAddr::new(address, SPAMD_PORT);
        wait_until("spamd's answer", PATIENCE, || {
            anyhow::ensure!(process.exited()?.is_none(), "spamd ended:\n{}", process.output());
            Ok(host.in_network(|| ping(address)).unwrap_or(false))
        })?;
        Ok(Self { process, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Also to its children, which scan.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        self.process.signal_all(signal)
    }
}

fn ping(address: SocketAddr) -> Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PING SPAMC/1.5\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.contains("PONG"))
}
