//! What both daemons and their doctors ask of the host.

use std::path::Path;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{AccessFlags, Gid, Uid, faccessat, setfsgid, setfsuid};

/// Whether files can be made in a directory. Asked, not tried: a trial may leave its traces. As the daemon has it: it runs as
/// the user of the process `pid`, or if none is named as whoever asks, and root's power over files is no use to it.
///
/// # Errors
/// Why not.
pub fn writable(directory: &Path, pid: Option<u64>) -> std::io::Result<()> {
    let directory = directory.to_owned();
    let user = pid.and_then(user_of);
    let ask = move || {
        // Of this thread alone. The group first: who is not root cannot change it.
        if let Some((user, group)) = user {
            setfsgid(group);
            setfsuid(user);
        }
        for power in [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH] {
            // An error means that this thread does not have it.
            let _ = caps::drop(None, CapSet::Effective, power);
        }
        // Not access(2), which asks for the user as whom the process was started (faccessat2(2): Linux 5.8).
        faccessat(AT_FDCWD, &directory, AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)
    };
    Ok(std::thread::spawn(ask).join().unwrap_or(Err(Errno::EIO))?)
}

/// The user and the group as whom a process opens files.
fn user_of(pid: u64) -> Option<(Uid, Gid)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    // Real, effective, saved, and of the file system.
    let last = |name: &str| -> Option<u32> {
        status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().last()?.parse().ok()
    };
    Some((Uid::from_raw(last("Uid:")?), Gid::from_raw(last("Gid:")?)))
}

/// How many files a process may have open, of `/proc/PID/limits`: as it is (soft), and as it may make it (hard).
pub fn open_files(limits: &str) -> Option<(u64, u64)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut columns = line.split_whitespace();
    Some((columns.next()?.parse().ok()?, columns.next()?.parse().ok()?))
}

/// Has this process have as many files open as it may (the soft limit becomes the hard one). How many that is.
///
/// # Errors
/// If the system refuses.
pub fn raise_open_files() -> std::io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_directories_asked() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some((1024, 524_288)));
        assert!(writable(&std::env::temp_dir(), None).is_ok());
        assert!(writable(&std::env::temp_dir(), Some(std::process::id().into())).is_ok());
        assert!(writable(Path::new("/nowhere/at/all"), None).is_err());
    }
}
