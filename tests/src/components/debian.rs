//! A whole Debian, with systemd as its first process, in a host's network: what is installed and started there is as on
//! a machine of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use anyhow::{Context, Result, ensure};

use crate::lab::{Host, Process, paths};
use crate::wait::{PATIENCE, wait_for, wait_until};

/// Run first: what systemd makes of control groups is all below one of ours, `$1`.
const ENTER: &str = r#"
set -e
groups=/run/control-groups
mkdir -p $groups
mountpoint -q $groups || mount -t cgroup2 cgroup2 $groups
mkdir $groups/$1
echo $$ >$groups/$1/cgroup.procs
exec unshare --pid --mount --cgroup --uts --ipc --fork --kill-child sh -c "$2" boot "$3"
"#;

/// Takes that one away again, when nothing is left in it.
const LEAVE: &str = "find /run/control-groups/{} -depth -type d -exec rmdir {} +";

/// Run in namespaces of its own, above those of the host; the clean Debian stays as it is. A BPF file system of its own is what
/// a machine has.
const BOOT: &str = r#"
set -e
clean=$1
top=/run/debian
mkdir -p $top
mount -t tmpfs tmpfs $top
mkdir $top/root $top/upper $top/work
mount -t overlay overlay -o "lowerdir=$clean,upperdir=$top/upper,workdir=$top/work" $top/root
cd $top/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . mnt
umount -l mnt
# A container loads no modules.
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin setpriv --bounding-set -sys_module /sbin/init --log-target=console --show-status=0
"#;

pub struct Debian<'a> {
    host: &'a Host,
    process: Option<Process>,
    group: String,
    /// Of systemd, as the machine counts.
    init: u32,
    /// And as the host does.
    init_in_host: u32,
}

impl<'a> Debian<'a> {
    /// Boots one, and waits until nothing more is to be started. It is Debian 12, or what `WEIR_DEBIAN` names below
    /// target/packages.
    pub fn boot(host: &'a Host) -> Result<Self> {
        let clean = paths::packages(&std::env::var("WEIR_DEBIAN").unwrap_or_else(|_| "debian".into()))?;
        // Its first process's number is nobody else's.
        let group = format!("weir-lab-{}", host.pid());
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "enter", &group, BOOT]).arg(&clean);
        let mut process = host.spawn("debian", command)?;
        let parent = process.pid();
        let init = wait_for("systemd", PATIENCE, || {
            ensure!(process.exited()?.is_none(), "Debian did not boot:\n{}", process.output());
            let children =
                fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            let child: Option<u32> = children.split_whitespace().next().and_then(|child| child.parse().ok());
            let is_systemd = |pid: &u32| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd")
            };
            Ok(child.filter(is_systemd))
        })?;
        let status = fs::read_to_string(format!("/proc/{init}/status"))?;
        // Outermost first; the last is 1.
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).context("no NSpid")?;
        let numbers: Vec<u32> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let init_in_host = *numbers.iter().rev().nth(1).context("systemd has no process id in the host")?;
        let debian = Self { host, process: Some(process), group, init, init_in_host };
        let mut last = Ok(String::new());
        wait_until("the end of Debian's start", PATIENCE, || {
            last = debian.sh("systemctl is-system-running || { systemctl --failed; exit 1; }");
            Ok(last.as_ref().is_ok_and(|state| state.trim() == "running"))
        })
        .with_context(|| format!("{last:?}"))?;
        Ok(debian)
    }

    /// Runs a shell command to its end and returns what it printed; fails if it fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        let path = "/tmp/.sh";
        self.write(path, script)?;
        self.host.sh(&format!(
            "nsenter --target {} --pid --mount --cgroup --uts --ipc --root --wd env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
             DEBIAN_FRONTEND=noninteractive sh {path} 2>&1",
            self.init_in_host
        ))
        .with_context(|| script.to_owned())
    }

    /// A path of it as the test process reaches it. Not for paths with absolute symbolic links.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.init)).join(inside.trim_start_matches('/'))
    }

    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.path(inside), content).with_context(|| format!("write {inside}"))
    }

    /// Copies a file of the machine to its /root.
    pub fn bring(&self, file: &Path) -> Result<()> {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(file, self.path("/root").join(name)).with_context(|| file.display().to_string())?;
        Ok(())
    }

    /// All files, sockets and links below these directories, those of /proc and /sys left out.
    pub fn files(&self, directories: &[&str]) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for directory in directories {
            list(&self.path(directory), directory, &mut all)?;
        }
        all.sort();
        Ok(all)
    }
}

impl Drop for Debian<'_> {
    fn drop(&mut self) {
        drop(self.process.take());
        // Left where something in it lives on, which ends with the host.
        let leave = LEAVE.replacen("{}", &self.group, 1);
        let _ =
            wait_until("the end of Debian's control groups", PATIENCE, || Ok(self.host.sh(&leave).is_ok()));
    }
}

fn list(outside: &Path, inside: &str, all: &mut Vec<String>) -> Result<()> {
    let entries = match fs::read_dir(outside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = format!("{}/{}", inside.trim_end_matches('/'), entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &name, all)?;
        }
        all.push(name);
    }
    Ok(())
}
