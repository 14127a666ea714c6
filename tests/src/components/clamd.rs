//! ClamAV's daemon, with one signature of its own: that of the test file of virus engines.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::lab::{Host, Process};
use crate::wait::PATIENCE;

pub const CLAMD_PORT: u16 = 3310;

/// Where it listens besides.
pub const CLAMD_SOCKET: &str = "/run/clamd.sock";

/// The test file, in two pieces: other scanners should not find it in this program.
const EICAR: [&str; 2] = [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-", "STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"];

pub struct Clamd {
    process: Process,
    address: SocketAddr,
}

/// The test file of virus engines.
pub fn eicar() -> Vec<u8> {
    EICAR.concat().into_bytes()
}

impl Clamd {
    /// Starts clamd and waits until it has read its signatures.
    pub fn start(host: &Host, address: IpAddr) -> Result<Self> {
        host.install("clamav")?;
        let hex = eicar().iter().fold(String::new(), |mut hex, octet| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{octet:02x}");
            hex
        });
        host.write("/var/lib/clamd/test.ndb", format!("Eicar-Test-Signature:0:*:{hex}\n"))?;
        host.write(
            "/etc/clamd.conf",
            format!(
                "DatabaseDirectory /var/lib/clamd\nTCPSocket {CLAMD_PORT}\nTCPAddr {address}\nLocalSocket {CLAMD_SOCKET}\n\
                 Foreground true\nUser root\nStreamMaxLength 25M\nFixStaleSocket true\n"
            ),
        )?;
        let mut command = Command::new("clamd");
        command.args(["--config-file", "/etc/clamd.conf"]);
        let mut process = host.spawn("clamd", command)?;
        process.wait_output("Self checking every", PATIENCE)?;
        Ok(Self { process, address: SocketAddr::new(address, CLAMD_PORT) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        self.process.signal_all(signal)
    }
}
