//! A host: namespaces of its own (network, mounts, processes, name, IPC) held by one first process.
//!
//! That process does nothing but read a pipe whose other end only the test process has. However the test
//! process ends, even by kill -9, the pipe closes, the first process exits, and the kernel kills
//! everything in the host and takes down its mounts, interfaces, routes, rules and programs.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use super::process::Process;
use super::{paths, root};
use crate::wait::PATIENCE;

/// One machine of the lab.
pub struct Host {
    name: String,
    first: Child,
    lifeline: Option<ChildStdin>,
    namespaces: Vec<(CloneFlags, File)>,
    logs: PathBuf,
    runs: AtomicU32,
    environment: Mutex<Vec<(String, String)>>,
}

impl Host {
    /// Starts a host that sees the machine's files, and changes only its own.
    pub fn start(name: &str, logs: &Path) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the lab needs root: it makes network namespaces");
        let visible = paths::visible()?;
        let hostname = name.to_owned();
        let mut first = on_own_thread(move || first_process(&hostname, &visible))
            .with_context(|| format!("start host {name}"))?;
        let lifeline = first.stdin.take();
        let namespaces = [
            ("net", CloneFlags::CLONE_NEWNET),
            ("uts", CloneFlags::CLONE_NEWUTS),
            ("ipc", CloneFlags::CLONE_NEWIPC),
            ("pid", CloneFlags::CLONE_NEWPID),
            ("mnt", CloneFlags::CLONE_NEWNS),
        ]
        .into_iter()
        .map(|(file, flag)| Ok((flag, File::open(format!("/proc/{}/ns/{file}", first.id()))?)))
        .collect::<Result<Vec<_>>>()?;
        let host = Self {
            name: name.to_owned(),
            first,
            lifeline,
            namespaces,
            logs: logs.to_path_buf(),
            runs: AtomicU32::new(0),
            environment: Mutex::default(),
        };
        host.prepare()?;
        Ok(host)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, on the machine, of the process that holds the host's namespaces.
    pub fn pid(&self) -> u32 {
        self.first.id()
    }

    /// Does `work` on a thread inside the host: its files, network and processes.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.enter(CloneFlags::all(), work)
    }

    /// Does `work` on a thread inside the host's network only; files are the machine's.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.enter(CloneFlags::CLONE_NEWNET, work)
    }

    fn enter<T: Send>(&self, which: CloneFlags, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_own_thread(|| {
            // A thread that shares its root directory with others may not change it.
            unshare(CloneFlags::CLONE_FS)?;
            for (flag, namespace) in self.namespaces.iter().filter(|(flag, _)| which.contains(*flag)) {
                setns(namespace, *flag).with_context(|| format!("enter {flag:?} of {}", self.name))?;
            }
            work()
        })
    }

    /// Programs that are started from now on have it in their environment.
    pub fn set_environment(&self, name: &str, value: &str) {
        let mut environment = self.environment.lock().unwrap_or_else(PoisonError::into_inner);
        environment.push((name.into(), value.into()));
    }

    /// Starts a program in the host; its output goes to a log of that name.
    pub fn spawn(&self, log: &str, mut command: Command) -> Result<Process> {
        let path = self.logs.join(format!("{}-{log}.log", self.name));
        fs::create_dir_all(&self.logs)?;
        let output = File::options().create(true).append(true).open(&path)?;
        let start = output.metadata()?.len();
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        command.envs(self.environment.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        // A group of its own: ended together, and away from Ctrl-C.
        command.process_group(0);
        let child = self
            .inside(|| Ok(command.spawn()?))
            .with_context(|| format!("start {} on {}", command_name(&command), self.name))?;
        Ok(Process::new(format!("{} {log}", self.name), child, path, start))
    }

    /// Runs a shell command to its end and returns what it printed; fails if it fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let mut process = self.spawn(&format!("sh{number}"), command)?;
        let status = process.wait_exit(PATIENCE)?;
        let output = process.output();
        process.forget_log();
        ensure!(status.success(), "`{script}` on {} ended with {status}:\n{output}", self.name);
        Ok(output)
    }

    /// Installs unpacked Debian packages (see `scripts/install-deps`) on this host, and only here. Programs that run stay
    /// as they are. Below /usr these are links: an emulated processor need not learn each copy of a program anew.
    pub fn install(&self, packages: &str) -> Result<()> {
        let from = paths::packages(packages)?;
        let script = "cp -as --remove-destination {0}/usr / && cp -a --remove-destination {0}/etc {0}/var /";
        self.sh(&script.replace("{0}", &from.display().to_string())).map(|_| ())
    }

    /// A path of the host as the test process reaches it. Not for paths with absolute symbolic links.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid())).join(inside.trim_start_matches('/'))
    }

    /// Writes a file of the host, with the directories above it.
    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) -> Result<()> {
        ensure!(
            !inside.starts_with("/proc/"),
            "{inside}: which host's settings these are depends on who opens them"
        );
        let path = self.path(inside);
        let directory = path.parent().context("a file has a directory")?;
        fs::create_dir_all(directory)?;
        fs::write(&path, content).with_context(|| format!("write {inside} on {}", self.name))
    }

    /// Reads a text file of the host; one that does not exist is empty.
    pub fn read(&self, inside: &str) -> String {
        fs::read(self.path(inside))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// What every host needs before anything starts in it: /proc, loopback, names without DNS.
    fn prepare(&self) -> Result<()> {
        self.sh("mount -t proc proc /proc")?;
        self.write("/etc/resolv.conf", "")?;
        self.write("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")?;
        self.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
        // Addresses are usable at once: nobody else can have them.
        self.sh("for each in all default lo; do echo 0 >/proc/sys/net/ipv6/conf/$each/accept_dad; done; ip link set lo up")?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        // An error means that it is gone already.
        let _ = self.first.wait();
    }
}

/// Makes the host's namespaces and its first process. Runs on a thread of its own, which they outlive.
fn first_process(hostname: &str, visible: &[PathBuf]) -> Result<Child> {
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC,
    )
    .context("unshare")?;
    fs::write("/proc/sys/kernel/hostname", hostname)?;
    root::enter_new_root(visible)?;
    // SIGCHLD ignored: orphans are reaped by the kernel. In a session of its own, away from Ctrl-C.
    let mut command = Command::new("setsid");
    command.args(["env", "--ignore-signal=CHLD", "cat"]).env_clear().env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().context("start the host's first process")
}

fn command_name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// Runs `work` on a new thread: namespaces are a property of the thread that enters them.
fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_| anyhow!("the thread inside the host panicked"))?
}
