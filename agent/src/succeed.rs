//! `weir-agent take-over`: for services, whose reload is to end when it is done.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use weir_agent::control::Request;
use weir_daemon::control;

/// Longer than a new agent that hangs is waited for by the old one.
const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(50);

/// Starts an agent that takes over, which outlives this process, and waits until it is in charge.
pub fn take_over(config: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("the path of this program")?;
    let mut command = Command::new(program);
    command.args(["run", "--take-over", "--config"]).arg(config);
    // A group of its own: nobody who ends this process means that one.
    let mut agent = command.stdin(Stdio::null()).process_group(0).spawn().context("the new agent")?;
    let pid = agent.id();
    let (begun, socket) = (Instant::now(), control::socket_of("agent", pid));
    while begun.elapsed() < PATIENCE {
        if let Some(status) = agent.try_wait()? {
            bail!("the new agent ended with {status} and did not take over: the one that runs goes on");
        }
        if socket.exists() && control::ask("agent", Some(&socket), &Request::Status {}.to_json()).is_ok() {
            println!("the new agent, process {pid}, is in charge");
            return Ok(());
        }
        sleep(PAUSE);
    }
    agent.kill().context("the new agent cannot be ended")?;
    agent.wait()?;
    bail!(
        "the new agent was not in charge after {} s and was ended: `weir-agent status` says whether the one before it goes on",
        PATIENCE.as_secs()
    );
}
