//! Calls of nft(8), in JSON both ways (libnftables-json(5)) wherever it can say it. One call is one transaction of the kernel's.

use std::io::{self, ErrorKind, Write};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::steer::SteerError;

/// How often a change is tried, and what lies between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// The first nft whose JSON has all that the table needs: of an older one `stmt` in a `set` statement is no error, and no limit.
const VERSION: [u32; 3] = [1, 0, 6];

/// Whether nft is here, and new enough.
pub(super) fn look() -> Result<(), SteerError> {
    let output = run(&["--version"], b"")?;
    if !output.status.success() {
        return Err(failure("does not tell its version", &output));
    }
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match version(&said) {
        Some(version) if version >= VERSION => Ok(()),
        _ => Err(SteerError::OldNft { said }),
    }
}

/// `nftables v1.0.6 (Lester Gooch #5)`
fn version(said: &str) -> Option<[u32; 3]> {
    let number = said.split_whitespace().find_map(|word| word.strip_prefix('v'))?;
    let mut parts = number.split('.').map(str::parse);
    let mut part = || parts.next().unwrap_or(Ok(0)).ok();
    Some([part()?, part()?, part()?])
}

/// Applies commands: all, or none of them.
///
/// Changes of our own come one after the other. The kernel turns one down, and nft has no words for it, when somebody
/// else's comes between nft's look at the rules and its change: then it is tried again.
pub(super) fn apply(commands: &[Value]) -> Result<(), SteerError> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let input = json!({ "nftables": commands }).to_string();
    let mut tries = TRIES;
    loop {
        let output = run(&["-j", "-f", "-"], input.as_bytes())?;
        tries -= 1;
        if output.status.success() {
            return Ok(());
        }
        if tries == 0 || said(&output).is_some() {
            return Err(failure("refused the rules", &output));
        }
        tracing::debug!(status = %output.status, "nft changed nothing and said nothing");
        thread::sleep(PAUSE);
    }
}

/// What `nft list` says of an object; `None` if there is no such object.
pub(super) fn list(object: &[&str]) -> Result<Option<Vec<Value>>, SteerError> {
    let arguments = [&["-j", "-t", "list"], object].concat();
    let output = run(&arguments, b"")?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return if reason.contains("No such file or directory") {
            Ok(None)
        } else {
            Err(failure("could not list the rules", &output))
        };
    }
    let answer: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| SteerError::Nft { action: "answered what is no JSON", reason: error.to_string() })?;
    Ok(Some(answer["nftables"].as_array().cloned().unwrap_or_default()))
}

/// Whether the host has the program at all.
pub(super) fn is_installed() -> bool {
    Command::new("nft").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// nft with nothing of ours: what an environment can change in a program is not wanted here.
pub(super) fn program() -> Command {
    let mut nft = Command::new("nft");
    nft.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    // Where an interactive one would leave a history.
    nft.env("HOME", "/nonexistent");
    nft
}

fn run(arguments: &[&str], input: &[u8]) -> Result<Output, SteerError> {
    let start = || -> io::Result<Output> {
        let mut child = program()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input) {
                // It has ended early: its own words say why.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                outcome => outcome?,
            }
        }
        child.wait_with_output()
    };
    start().map_err(|source| SteerError::NoNft { source })
}

fn failure(action: &'static str, output: &Output) -> SteerError {
    let reason = said(output).unwrap_or_else(|| format!("nft ended with {} and said nothing", output.status));
    SteerError::Nft { action, reason }
}

/// What nft said is wrong: it repeats its input under each error, and the first line has the words.
fn said(output: &Output) -> Option<String> {
    let words = String::from_utf8_lossy(&output.stderr);
    let error = words.lines().find(|line| line.contains("rror"));
    error.or_else(|| words.lines().find(|line| !line.trim().is_empty())).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("nftables v1.0.6 (Lester Gooch #5)"), Some([1, 0, 6]));
        assert_eq!(version("nftables v1.1 (Commodore Bullmoose)"), Some([1, 1, 0]));
        assert!(version("nftables v0.9.8 (E.D.S.)") < Some(VERSION));
        assert_eq!((version("sh: nft: not found"), version("nftables v1.x")), (None, None));
    }
}
