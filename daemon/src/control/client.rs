//! The command line's side of the control socket.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{directory, pid_of};

/// A daemon that does not answer in this time hangs: to replace a million prefixes takes a fifth of it.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// One that hands over to another, and that other, are both there for moments.
const HANDING_OVER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// Longer answers are cut, and then are no JSON.
const MAX_ANSWER: u64 = 128 * 1024 * 1024;

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("weir-{program} is not running here: no live socket {program}.PID.sock in {}", directory.display())]
    NotRunning { program: String, directory: PathBuf },
    #[error(
        "several instances of weir-{program} run here; choose one with --socket PATH:{}",
        list(candidates)
    )]
    Several { program: String, candidates: Vec<PathBuf> },
    #[error("{}: {cause}", path.display())]
    Socket { path: PathBuf, cause: io::Error },
    #[error(
        "{}: no answer within {} s: the daemon hangs, or the machine is overloaded; what was asked may be done all the same",
        path.display(),
        READ_TIMEOUT.as_secs()
    )]
    Silent { path: PathBuf },
    #[error("{}: the answer is not JSON: {cause}", path.display())]
    Answer { path: PathBuf, cause: serde_json::Error },
    #[error("{}: the answer is of another version of weir: restart the daemon", path.display())]
    Version { path: PathBuf },
    #[error("{reason}")]
    Refused { reason: String },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("\n  {}", path.display())).collect()
}

/// Asks the running daemon for its status, as [`ask`] does.
///
/// # Errors
/// As those of [`ask`].
pub fn status(program: &str, socket: Option<&Path>) -> Result<Value, Error> {
    ask(program, socket, &json!({ "request": "status" }))
}

/// Sends a request to the running daemon: the one at `socket`, else the only live one of this
/// `program` in the caller's network namespace, else the only live one of all.
///
/// # Errors
/// If none is running, if it is not clear which is meant, if it does not answer, or if it refuses.
pub fn ask(program: &str, socket: Option<&Path>, request: &Value) -> Result<Value, Error> {
    match socket {
        Some(path) => ask_at(path, request),
        None => ask_in(&directory(program), program, request),
    }
}

pub(super) fn ask_in(directory: &Path, program: &str, request: &Value) -> Result<Value, Error> {
    let deadline = Instant::now() + HANDING_OVER;
    loop {
        match choose_in(directory, program) {
            Err(Error::Several { .. }) if Instant::now() < deadline => thread::sleep(PAUSE),
            chosen => return ask_at(&chosen?, request),
        }
    }
}

fn choose_in(directory: &Path, program: &str) -> Result<PathBuf, Error> {
    let live = live(directory, program);
    let own = namespace("self");
    let near: Vec<_> =
        live.iter().filter(|(pid, _)| own.is_some() && namespace(&pid.to_string()) == own).collect();
    let candidates = if near.is_empty() { live.iter().collect() } else { near };
    match candidates.as_slice() {
        [] => Err(Error::NotRunning { program: program.to_string(), directory: directory.to_path_buf() }),
        [(_, path)] => Ok(path.clone()),
        several => Err(Error::Several {
            program: program.to_string(),
            candidates: several.iter().map(|(_, path)| path.clone()).collect(),
        }),
    }
}

/// Sockets of this program whose process exists, by process number.
fn live(directory: &Path, program: &str) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut live: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((pid_of(entry.file_name().to_str()?, program)?, entry.path())))
        .filter(|(pid, path)| {
            let gone = || {
                UnixStream::connect(path).is_err_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
            };
            Path::new(&format!("/proc/{pid}")).exists() && !gone()
        })
        .collect();
    live.sort();
    live
}

/// The network namespace of a process; none if it may not be known.
fn namespace(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/net")).ok()
}

fn ask_at(path: &Path, request: &Value) -> Result<Value, Error> {
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Silent { path: path.to_path_buf() },
        _ => Error::Socket { path: path.to_path_buf(), cause },
    };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(READ_TIMEOUT)).map_err(failed)?;
    stream.write_all(format!("{request}\n").as_bytes()).map_err(failed)?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text).map_err(failed)?;
    let mut answer: Value =
        serde_json::from_str(&text).map_err(|cause| Error::Answer { path: path.to_path_buf(), cause })?;
    if let Some(reason) = answer["error"].as_str() {
        return Err(Error::Refused { reason: reason.to_string() });
    }
    match answer.get_mut("ok") {
        Some(answer) => Ok(answer.take()),
        None => Err(Error::Version { path: path.to_path_buf() }),
    }
}
