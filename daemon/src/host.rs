//! What both daemons and their doctors ask of the host.

use std::path::Path;

use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{AccessFlags, eaccess};

/// Whether files can be made in a directory. Asked, not tried: a trial may leave its traces. As the daemon has it, whom root's
/// power over files is no use.
///
/// # Errors
/// Why not.
pub fn writable(directory: &Path) -> std::io::Result<()> {
    let directory = directory.to_owned();
    let ask = move || {
        for power in [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH] {
            // From both: access(2) asks what could be had. An error means that this thread does not have it.
            let _ = caps::drop(None, CapSet::Effective, power);
            let _ = caps::drop(None, CapSet::Permitted, power);
        }
        eaccess(&directory, AccessFlags::W_OK | AccessFlags::X_OK)
    };
    Ok(std::thread::spawn(ask).join().unwrap_or(Err(Errno::EIO))?)
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
        assert!(writable(&std::env::temp_dir()).is_ok());
        assert!(writable(Path::new("/nowhere/at/all")).is_err());
    }
}
