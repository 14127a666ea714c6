//! One agent steers in a network namespace at a time: rules and routes of two could not be told apart. The claim is
//! also where an agent that wants to take over finds the one in charge (see `handover`).

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Plan, SteerError};
use crate::config::Backend;
use crate::handover;

/// An abstract name: it belongs to the network namespace, as steering does, and is free again in the moment in
/// which the last process that has it dies.
const NAME: &str = "weir-agent/steering";

/// How long a process that was killed, or a child it was starting, may still hold the name.
const PATIENCE: Duration = Duration::from_millis(500);

/// The right to change what steers on this host, until the last copy is dropped.
#[derive(Debug, Clone)]
pub struct Claim(Arc<OwnedFd>);

impl Claim {
    /// What it is called. Where the rules are the operator's own there may be several agents, each with a port.
    pub fn name(plan: &Plan) -> String {
        match plan.backend {
            Backend::Ebpf | Backend::Tproxy => NAME.to_owned(),
            Backend::External => format!("weir-agent/external/{}", plan.listen_port),
        }
    }

    /// # Errors
    /// If somebody has it.
    pub fn take(plan: &Plan) -> Result<Self, SteerError> {
        take(&Self::name(plan))
    }

    /// Whatever the configuration is.
    pub(super) fn to_steer() -> Result<Self, SteerError> {
        take(NAME)
    }

    /// The one that the agent in charge has given.
    pub fn given(descriptor: OwnedFd) -> Self {
        Self(Arc::new(descriptor))
    }
}

impl AsFd for Claim {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn take(name: &str) -> Result<Claim, SteerError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bound(name) {
            Ok(claim) => return Ok(claim),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(SteerError::AgentRunning),
            Err(source) => {
                return Err(SteerError::System { what: format!("abstract socket {name}"), source });
            }
        }
    }
}

fn bound(name: &str) -> io::Result<Claim> {
    handover::bound(name).map(Claim::given)
}
