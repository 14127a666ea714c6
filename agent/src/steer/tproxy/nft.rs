//! Calls of nft(8), in JSON both ways (libnftables-json(5)) wherever it can say it. One call is one transaction of the kernel's.

use std::io::{self, ErrorKind, Write};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::steer::SteerError;

/// Applies commands: all, or none of them.
pub(super) fn apply(commands: &[Value]) -> Result<(), SteerError> {
    let input = json!({ "nftables": commands }).to_string();
    let output = run(&["-j", "-f", "-"], input.as_bytes())?;
    if output.status.success() { Ok(()) } else { Err(failure("refused the rules", &output)) }
}

/// A command in nft's own language.
pub(super) fn command(command: &str) -> Result<(), SteerError> {
    let output = run(&["-f", "-"], command.as_bytes())?;
    if output.status.success() { Ok(()) } else { Err(failure("refused the command", &output)) }
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

fn run(arguments: &[&str], input: &[u8]) -> Result<Output, SteerError> {
    let start = || -> io::Result<Output> {
        let mut child = Command::new("nft")
            .args(arguments)
            .env("LC_ALL", "C")
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
    // nft repeats its input under each error; the first line says what is wrong.
    let words = String::from_utf8_lossy(&output.stderr);
    let reason = words.lines().find(|line| line.contains("rror")).unwrap_or("(no reason given)").to_owned();
    SteerError::Nft { action, reason }
}
