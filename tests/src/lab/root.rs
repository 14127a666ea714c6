//! The root file system of a host: the machine's own, seen through an overlay in memory.
//!
//! Programs run unchanged and use their default paths; whatever they write is in the overlay's upper
//! layer and gone with the host. The upper layer can be read at [`UPPER`].

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pivot_root;

/// Where a host sees everything written to its file system.
pub(super) const UPPER: &str = "/mnt/upper";

const STAGE: &str = "/mnt";
const ROOT: &str = "/mnt/root";
const OLD_ROOT: &str = "run/old-root";

/// Makes the calling thread's mount namespace, which must be its own, a host's: the machine's root under an overlay,
/// with the `visible` directories, which may be on other file systems. `/proc` is left to the host's first process, which is in the right PID namespace.
pub(super) fn enter_new_root(visible: &[PathBuf]) -> Result<()> {
    mount_on("/", None, None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    // Opened first: the mounts below may hide them.
    let visible = visible.iter().map(|path| Ok((path, File::open(path)?))).collect::<Result<Vec<_>>>()?;
    mount_on(STAGE, Some("tmpfs"), Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    for directory in [UPPER, "/mnt/work", ROOT] {
        fs::create_dir(directory)?;
    }
    let options = format!("lowerdir=/,upperdir={UPPER},workdir=/mnt/work");
    mount_on(ROOT, Some("overlay"), Some("overlay"), MsFlags::empty(), Some(&options))?;
    let root = Path::new(ROOT);
    bind(Path::new("/dev"), &root.join("dev"))?;
    bind(Path::new(STAGE), &root.join("mnt"))?;
    mount_on("/mnt/root/sys", Some("sysfs"), Some("sysfs"), MsFlags::empty(), None)?;
    // A BPF file system of its own: pins must not meet those of another lab or of the machine.
    mount_on("/mnt/root/sys/fs/bpf", Some("bpf"), Some("bpf"), MsFlags::empty(), None)?;
    mount_on("/mnt/root/run", Some("tmpfs"), Some("tmpfs"), MsFlags::empty(), Some("mode=755"))?;
    mount_on("/mnt/root/tmp", Some("tmpfs"), Some("tmpfs"), MsFlags::empty(), Some("mode=1777"))?;
    for (path, directory) in visible {
        let open = format!("/proc/thread-self/fd/{}", directory.as_raw_fd());
        bind(Path::new(&open), &root.join(path.strip_prefix("/")?))?;
    }
    change_root(root)
}

fn change_root(root: &Path) -> Result<()> {
    let old = root.join(OLD_ROOT);
    fs::DirBuilder::new().mode(0o700).create(&old)?;
    pivot_root(root, &old).context("pivot_root")?;
    std::env::set_current_dir("/")?;
    let old = Path::new("/").join(OLD_ROOT);
    umount2(&old, MntFlags::MNT_DETACH).context("detach the machine's root")?;
    fs::remove_dir(old)?;
    Ok(())
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("bind {} to {}", from.display(), to.display()))
}

fn mount_on(
    target: &str,
    source: Option<&str>,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<()> {
    mount(source, target, kind, flags, options)
        .with_context(|| format!("mount {} on {target}", kind.unwrap_or("flags")))
}
