//! One agent steers in a network namespace at a time: rules and routes of two could not be told apart.

use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::{Duration, Instant};

use super::SteerError;

/// An abstract name: it belongs to the network namespace, as steering does, and is free again in the moment in
/// which the process dies.
const NAME: &str = "weir-agent/steering";

/// How long a process that was killed, or a child it was starting, may still hold the name.
const PATIENCE: Duration = Duration::from_millis(500);

/// The right to change what steers on this host, until dropped.
#[derive(Debug)]
pub(super) struct Claim(#[expect(dead_code, reason = "held open")] UnixDatagram);

impl Claim {
    pub(super) fn take() -> Result<Self, SteerError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match bind() {
                Ok(socket) => return Ok(Self(socket)),
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(SteerError::AgentRunning),
                Err(source) => {
                    return Err(SteerError::System { what: format!("abstract socket {NAME}"), source });
                }
            }
        }
    }
}

fn bind() -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(NAME)?)
}
