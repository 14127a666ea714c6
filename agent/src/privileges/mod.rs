//! What the agent may do. One thread, which loads the kernel program and then ends, keeps what the process was started
//! with; all others have from the first on only what running needs.

mod files;

use std::io;
use std::path::Path;
use std::sync::{OnceLock, mpsc};
use std::thread;

use anyhow::{Context, ensure};
use caps::Capability;
use nix::unistd::{AccessFlags, eaccess};
use tracing::{info, warn};
use weir_daemon::privileges;

use crate::config::{Backend, Config};

pub use weir_daemon::privileges::status;

/// What this kernel can do to restrict where the agent writes, found out by trying; nothing of it stays.
pub(crate) fn write_access() -> Result<landlock::RulesetStatus, String> {
    files::trial()
}

/// What running needs, once that is settled.
static NEEDED: OnceLock<Vec<Capability>> = OnceLock::new();

type Job = Box<dyn FnOnce() + Send>;

/// The thread that may still do everything; it ends when this is dropped.
#[derive(Debug)]
pub struct Starter(mpsc::Sender<Job>);

impl Starter {
    /// With what the caller may do.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let work = move || received.iter().for_each(|job| job());
        thread::Builder::new().name("start".into()).spawn(work)?;
        Ok(Self(jobs))
    }

    /// Does `work` on that thread, and waits for it. `None`: it panicked.
    pub async fn perform<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = tokio::sync::oneshot::channel();
        // Who waits may have gone away.
        let job: Job = Box::new(move || drop(done.send(work())));
        self.0.send(job).ok()?;
        result.await.ok()
    }
}

/// Gives up what running does not need. To be called before any other thread is started.
///
/// # Errors
/// If it cannot be given up, or the agent could not do its work without it.
pub fn settle(config: &Config, path: &Path) -> anyhow::Result<Starter> {
    let starter = Starter::start().context("no thread to be had")?;
    let needed = NEEDED.get_or_init(|| needed(config));
    privileges::keep_only(needed).context("capabilities cannot be given up")?;
    let files = files::restrict(config);
    can_work(config)?;
    if let Err(error) = std::fs::File::open(path) {
        warn!(%error, file = %path.display(), "without the capabilities given up it cannot be read: no reload");
    }
    info!(
        user = nix::unistd::geteuid().as_raw(),
        capabilities = privileges::held().join(" "),
        no_new_privileges = privileges::no_new(),
        files,
        "privileges while running"
    );
    Ok(starter)
}

/// For a thread that the start has begun and that goes on.
pub fn settle_this_thread() {
    // Nothing is given up in tests of steering alone.
    let Some(needed) = NEEDED.get() else { return };
    if let Err(error) = privileges::keep_only(needed) {
        warn!(%error, "a thread keeps the capabilities of the start");
    }
}

/// What running needs.
fn needed(config: &Config) -> Vec<Capability> {
    // Sockets with others' addresses; rules, routes, nft and tc when somebody else has removed them.
    let mut needed = vec![Capability::CAP_NET_ADMIN];
    if config.steering.backend == Backend::Ebpf {
        // To put the program on interfaces that come, or from which somebody took it; and kernels before 5.19 want it for
        // every change of a map.
        needed.push(Capability::CAP_BPF);
    }
    if config.steering.listen_port < 1024 {
        needed.push(Capability::CAP_NET_BIND_SERVICE);
    }
    needed
}

/// Root without capabilities meets the permissions of files like anybody else; better now than at the first message.
fn can_work(config: &Config) -> anyhow::Result<()> {
    let user = nix::unistd::geteuid();
    let directories =
        [("spool.directory", &config.spool.directory), ("state.directory", &config.state.directory)];
    for (key, directory) in directories.into_iter().filter(|(_, directory)| directory.exists()) {
        let access = eaccess(directory.as_path(), AccessFlags::W_OK | AccessFlags::X_OK);
        ensure!(
            access.is_ok(),
            "{key}: {} cannot be written by user {user}, as who the agent runs, without CAP_DAC_OVERRIDE, which it gives \
             up: chown {user} {}",
            directory.display(),
            directory.display()
        );
    }
    Ok(())
}
