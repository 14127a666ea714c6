//! Redis: the counts that filter nodes share.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::lab::{Host, Process};
use crate::wait::{PATIENCE, wait_until};

const PORT: u16 = 6379;

pub struct Redis {
    process: Process,
    address: SocketAddr,
}

impl Redis {
    /// Starts an empty one, that keeps nothing, and waits until it answers.
    pub fn start(host: &Host, address: IpAddr) -> Result<Self> {
        host.install("redis")?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", &address.to_string(), "--port", &PORT.to_string(), "--protected-mode", "no"]);
        command.args(["--save", "", "--appendonly", "no", "--dir", "/tmp"]);
        let mut process = host.spawn("redis", command)?;
        let address = SocketAddr::new(address, PORT);
        wait_until("Redis' answer", PATIENCE, || {
            ensure!(process.exited()?.is_none(), "redis-server ended:\n{}", process.output());
            Ok(host.in_network(|| ping(address)).unwrap_or(false))
        })?;
        Ok(Self { process, address })
    }

    /// For filter.toml.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn ping(address: SocketAddr) -> Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG\r\n")
}
