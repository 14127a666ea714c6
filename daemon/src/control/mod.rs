//! The control socket of a running daemon: a Unix socket in /run/weir-agent or /run/weir-filter, for its owner alone. Each connection carries
//! one request and one answer, each a line of JSON:
//!
//! ```text
//! {"request": "status"}
//! {"ok": {"program": "weir-agent", ...}}       or  {"error": "what is wrong"}
//! ```
//!
//! Several instances may run on one machine, in network namespaces that share the file system, so
//! each socket carries its process's number.

mod client;
mod server;
mod summary;

use std::path::{Path, PathBuf};

pub use client::{Error, ask, status};
pub use server::{Server, remove_directory, remove_remains, serve};
pub use summary::summary;

/// Where the sockets of a program are: nowhere that the other one could make some.
pub fn directory(program: &str) -> PathBuf {
    Path::new("/run").join(format!("weir-{program}"))
}

/// Of the process with this number.
pub fn socket_of(program: &str, pid: u32) -> PathBuf {
    socket_path(&directory(program), program, pid)
}

fn socket_path(directory: &Path, program: &str, pid: u32) -> PathBuf {
    directory.join(format!("{program}.{pid}.sock"))
}

/// The process number in a socket's name, if it is one of this program.
fn pid_of(name: &str, program: &str) -> Option<u32> {
    name.strip_prefix(program)?.strip_prefix('.')?.strip_suffix(".sock")?.parse().ok()
}

#[cfg(test)]
mod tests;
