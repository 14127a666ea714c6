//! FRR: a router's zebra and pbrd.

use std::process::Command;

use anyhow::Result;

use crate::lab::{Host, Process};
use crate::wait::{PATIENCE, wait_until};

/// Runs until dropped.
pub struct Frr {
    daemons: [Process; 2],
}

impl Frr {
    /// Starts them with nothing configured, and waits until they can be told something.
    pub fn start(host: &Host) -> Result<Self> {
        host.install("frr")?;
        // What the package's maintainer script does on a real machine.
        host.sh("grep -q ^frr: /etc/passwd || {
                 echo 'frr:x:5041:5041::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
                 printf 'frr:x:5041:\\nfrrvty:x:5042:frr\\n' >>/etc/group
             }
             mkdir -p /run/frr /var/log/frr && chown -R frr:frr /etc/frr /run/frr /var/log/frr")?;
        let start = |daemon: &str| {
            let mut command = Command::new(format!("/usr/lib/frr/{daemon}"));
            command.args(["--log", "stdout"]);
            host.spawn(daemon, command)
        };
        let zebra = start("zebra")?;
        wait_until("zebra's socket", PATIENCE, || Ok(host.path("/run/frr/zserv.api").exists()))?;
        let pbrd = start("pbrd")?;
        for socket in ["zebra.vty", "pbrd.vty"] {
            wait_until(socket, PATIENCE, || Ok(host.path("/run/frr").join(socket).exists()))?;
        }
        Ok(Self { daemons: [zebra, pbrd] })
    }

    /// As its service does.
    pub fn stop(mut self) -> Result<()> {
        for daemon in self.daemons.iter_mut().rev() {
            daemon.terminate(PATIENCE)?;
        }
        Ok(())
    }
}
