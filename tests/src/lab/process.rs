//! A program running in a host.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::wait::{PATIENCE, wait_for, wait_until};

/// Killed when dropped, with its children.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Length of the log when the process started: a restarted program goes on with the old one's.
    log_start: u64,
}

impl Process {
    pub(super) fn new(name: String, child: Child, log: PathBuf, log_start: u64) -> Self {
        Self { name, child, log, log_start }
    }

    /// The program's own process id, as the machine counts.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What this process has printed so far, standard output and standard error.
    pub fn output(&self) -> String {
        let all = fs::read(&self.log).unwrap_or_default();
        let start = usize::try_from(self.log_start).unwrap_or(usize::MAX).min(all.len());
        String::from_utf8_lossy(&all[start..]).into_owned()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(&format!("the end of {name}"), limit, || self.exited())
    }

    /// Waits until the process has printed `text`; fails at once if it ends before.
    pub fn wait_output(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("`{text}` in the output of {}", self.name);
        wait_until(&what, limit, || {
            let ended = self.exited()?;
            if self.output().contains(text) {
                return Ok(true);
            }
            match ended {
                Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.output()),
                None => Ok(false),
            }
        })
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// To the process and its children.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        let group = Pid::from_raw(i32::try_from(self.pid())?);
        killpg(group, signal).with_context(|| format!("send {signal} to {} and its children", self.name))
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        let status = self.child.wait()?;
        if status.signal() != Some(Signal::SIGKILL as i32) {
            bail!("{} had ended by itself with {status}:\n{}", self.name, self.output());
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_exit(limit)
    }

    pub(super) fn forget_log(&self) {
        // A log that cannot be removed stays beside the others; nothing depends on it.
        let _ = fs::remove_file(&self.log);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that they have ended already.
        if let Ok(group) = i32::try_from(self.pid()) {
            let group = Pid::from_raw(group);
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.child.wait();
            // Its children may hold ports that the next program needs.
            let _ = wait_until("the end of its children", PATIENCE, || Ok(killpg(group, None).is_err()));
        }
    }
}
