//! The command line's side of the status socket.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{DIRECTORY, pid_of};

/// A daemon that does not answer in this time hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Longer answers are cut, and then are no JSON.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// Why there is no status.
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
    #[error("{}: the answer is not JSON: {cause}", path.display())]
    Answer { path: PathBuf, cause: serde_json::Error },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("\n  {}", path.display())).collect()
}

/// Asks the running daemon for its status: the one at `socket`, else the only live one of this
/// `program` in the caller's network namespace, else the only live one of all.
///
/// # Errors
/// If none is running, if it is not clear which is meant, or if it does not answer.
pub fn query(program: &str, socket: Option<&Path>) -> Result<Value, Error> {
    match socket {
        Some(path) => ask(path),
        None => query_in(Path::new(DIRECTORY), program),
    }
}

pub(super) fn query_in(directory: &Path, program: &str) -> Result<Value, Error> {
    let live = live(directory, program);
    let own = namespace("self");
    let near: Vec<_> =
        live.iter().filter(|(pid, _)| own.is_some() && namespace(&pid.to_string()) == own).collect();
    let candidates = if near.is_empty() { live.iter().collect() } else { near };
    match candidates.as_slice() {
        [] => Err(Error::NotRunning { program: program.to_string(), directory: directory.to_path_buf() }),
        [(_, path)] => ask(path),
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

fn ask(path: &Path) -> Result<Value, Error> {
    let failed = |cause| Error::Socket { path: path.to_path_buf(), cause };
    let stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(READ_TIMEOUT)).map_err(failed)?;
    let mut text = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut text).map_err(failed)?;
    serde_json::from_str(&text).map_err(|cause| Error::Answer { path: path.to_path_buf(), cause })
}
