//! c-icap, an ICAP server, with clamd behind it: what commercial engines look like from outside.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::clamd::CLAMD_PORT;
use crate::lab::{Host, Process};
use crate::wait::{PATIENCE, wait_until};

pub const ICAP_PORT: u16 = 1344;

pub struct CIcap {
    process: Process,
    address: SocketAddr,
}

impl CIcap {
    /// Starts it beside a clamd that runs, and waits until it listens. Its service is `virus_scan`.
    pub fn start(host: &Host, address: IpAddr, clamd: IpAddr) -> Result<Self> {
        host.install("c-icap")?;
        let modules = host.sh("dirname $(find /usr/lib -name virus_scan.so | head -n 1)")?;
        let modules = modules.trim();
        host.write(
            "/etc/c-icap/lab.conf",
            format!(
                "PidFile /run/c-icap.pid\nCommandsSocket /run/c-icap.ctl\nPort {address}:{ICAP_PORT}\n\
                 StartServers 1\nMaxServers 4\nMinSpareThreads 1\nMaxSpareThreads 20\nThreadsPerChild 10\n\
                 InterProcessSharedMemScheme mmap\nInterProcessLockingScheme posix\nTmpDir /var/tmp\n\
                 ModulesDir {modules}\nServicesDir {modules}\nLoadMagicFile /etc/c-icap/c-icap.magic\n\
                 TemplateDir /usr/share/c_icap/templates/\nTemplateDefaultLanguage en\n\
                 ServerLog /var/tmp/c-icap.log\nAccessLog /var/tmp/c-icap-access.log\n\
                 Service virus_scan virus_scan.so\nModule common clamd_mod.so\n\
                 clamd_mod.ClamdHost {clamd}\nclamd_mod.ClamdPort {CLAMD_PORT}\n\
                 virus_scan.ScanFileTypes TEXT DATA EXECUTABLE ARCHIVE GIF JPEG MSOFFICE\n\
                 virus_scan.SendPercentData 0\nvirus_scan.Allow204Responces on\nvirus_scan.MaxObjectSize 30M\n\
                 virus_scan.DefaultEngine clamd\nvirus_scan.PassOnError off\n"
            ),
        )?;
        let mut command = Command::new("c-icap");
        command.args(["-N", "-D", "-f", "/etc/c-icap/lab.conf"]);
        let mut process = host.spawn("c-icap", command)?;
        wait_until("the ICAP server to listen", PATIENCE, || {
            anyhow::ensure!(process.exited()?.is_none(), "c-icap ended:\n{}", process.output());
            Ok(!host.sh(&format!("ss -Hltn 'sport = :{ICAP_PORT}'"))?.is_empty())
        })?;
        Ok(Self { process, address: SocketAddr::new(address, ICAP_PORT) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        self.process.signal_all(signal)
    }
}
