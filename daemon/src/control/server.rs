//! The daemon's side of the control socket.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream as AsyncUnixStream};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use super::{directory, pid_of, socket_path};
use crate::audit::Actor;

/// A client that does not write its request, or does not read the answer, is left after this time.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of a request.
const MAX_REQUEST: u64 = 64 * 1024;

/// After a failed accept (no descriptors left, as a rule) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The answer to a request of somebody; an error is what the client is told.
type Handler = dyn Fn(&Value, Actor) -> Result<Value, String> + Send + Sync;

/// The running server; its socket is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
        remove_if_empty(&self.path);
    }
}

/// Answers requests to `program` (`agent`, `filter`) until the returned server is dropped; needs tokio. The
/// handler has a thread of its own and may block, and learns who asks. A daemon without this socket is better than none: a failure is a
/// warning in the log and `None`.
pub fn serve(
    program: &str,
    handler: impl Fn(&Value, Actor) -> Result<Value, String> + Send + Sync + 'static,
) -> Option<Server> {
    let directory = directory(program);
    match serve_in(&directory, program, Arc::new(handler)) {
        Ok(server) => Some(server),
        Err(cause) => {
            warn!(%cause, directory = %directory.display(), "no control socket: `status` will not find this process");
            None
        }
    }
}

pub(super) fn serve_in(directory: &Path, program: &str, handler: Arc<Handler>) -> io::Result<Server> {
    remove_stale(directory, program);
    let path = socket_path(directory, program, std::process::id());
    // Left by an earlier process with this number.
    let _ = fs::remove_file(&path);
    let listener = bind(directory, &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let task = tokio::spawn(accept(listener, handler));
    Ok(Server { path, task })
}

/// Another instance may stop, and remove the directory that it leaves empty, while this one starts.
fn bind(directory: &Path, path: &Path) -> io::Result<UnixListener> {
    let mut tries_left = 3;
    loop {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        match UnixListener::bind(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && tries_left > 0 => tries_left -= 1,
            bound => return bound,
        }
    }
}

async fn accept(listener: UnixListener, handler: Arc<Handler>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(cause) => {
                warn!(%cause, "control socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One at a time: the owner alone may connect, and each is cut off after PATIENCE.
        if let Err(cause) = converse(stream, &handler).await {
            debug!(%cause, "control client");
        }
    }
}

/// One request and its answer.
async fn converse(mut stream: AsyncUnixStream, handler: &Arc<Handler>) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let actor = Actor::peer(peer.uid(), peer.pid());
    let mut line = Vec::new();
    let mut limited = BufReader::new((&mut stream).take(MAX_REQUEST));
    tokio::time::timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await??;
    let answer = match serde_json::from_slice::<Value>(&line) {
        Ok(request) => {
            let handler = handler.clone();
            tokio::task::spawn_blocking(move || handler(&request, actor))
                .await
                .unwrap_or_else(|_| Err("the request failed: a defect of weir".to_string()))
        }
        Err(cause) => Err(format!("the request is no line of JSON: {cause}")),
    };
    let answer = match answer {
        Ok(answer) => json!({ "ok": answer }),
        Err(reason) => json!({ "error": reason }),
    };
    tokio::time::timeout(PATIENCE, stream.write_all(format!("{answer}\n").as_bytes())).await?
}

/// Removes what instances of `program` left that died, and returns the paths.
pub fn remove_remains(program: &str) -> Vec<PathBuf> {
    let removed = remove_stale(&directory(program), program);
    removed.iter().for_each(|path| remove_if_empty(path));
    removed
}

/// Removes the directory of the sockets, if there is nothing in it: after a start that failed.
pub fn remove_directory(program: &str) {
    let _ = fs::remove_dir(directory(program));
}

/// The directory is the operator's as long as anything else is in it.
fn remove_if_empty(socket: &Path) {
    if let Some(directory) = socket.parent() {
        let _ = fs::remove_dir(directory);
    }
}

/// Removes sockets of this program on which nobody listens any more.
fn remove_stale(directory: &Path, program: &str) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return removed };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| pid_of(name, program)) else { continue };
        let dead = !Path::new(&format!("/proc/{pid}")).exists();
        let refused = || {
            UnixStream::connect(entry.path())
                .is_err_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
        };
        if (dead || refused()) && fs::remove_file(entry.path()).is_ok() {
            removed.push(entry.path());
        }
    }
    removed
}
