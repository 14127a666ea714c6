//! What a daemon may do: capabilities are given up as early as possible. They belong to a thread, and threads that it
//! starts inherit them, so this comes before all others are started.

use std::fs;
use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use serde_json::{Value, json};

/// From now on this thread, and those that it starts, have none but these capabilities (of those that they had), and neither
/// they nor programs that they start can get others.
///
/// # Errors
/// If the kernel does not take them away.
pub fn keep_only(kept: &[Capability]) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    let held = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let kept: CapsHashSet = kept.iter().copied().filter(|one| held.contains(one)).collect();
    if held.contains(&Capability::CAP_SETPCAP) {
        for lost in caps::read(None, CapSet::Bounding).map_err(io::Error::other)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *lost).map_err(io::Error::other)?;
        }
    }
    caps::set(None, CapSet::Inheritable, &kept).map_err(io::Error::other)?;
    // For nft, where the daemon is not root's. A service may forbid it, and does not need it then.
    if let Err(error) = caps::set(None, CapSet::Ambient, &kept) {
        tracing::debug!(%error, "capabilities are not passed on to programs");
    }
    caps::set(None, CapSet::Effective, &kept).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &kept).map_err(io::Error::other)
}

/// The names of the capabilities that this thread has, in order.
pub fn held() -> Vec<String> {
    let mut held: Vec<Capability> =
        caps::read(None, CapSet::Effective).unwrap_or_default().into_iter().collect();
    held.sort_by_key(Capability::index);
    held.iter().map(ToString::to_string).collect()
}

/// Whether this thread and what it starts can get no more.
pub fn no_new() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("NoNewPrivs:").is_some_and(|value| value.trim() == "1"))
}

/// For `status`.
pub fn status() -> Value {
    json!({ "user": nix::unistd::geteuid().as_raw(), "capabilities": held(), "no_new_privileges": no_new() })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_and_its_children_keep_what_is_named_and_no_more() {
        // Its capabilities are a thread's own.
        let before = held();
        let outcome = thread::spawn(|| {
            keep_only(&[Capability::CAP_NET_ADMIN]).unwrap();
            let after = held();
            let child = std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
            keep_only(&[]).unwrap();
            (after, String::from_utf8_lossy(&child.stdout).into_owned(), held(), no_new())
        });
        let (after, child, at_last, no_new) = outcome.join().unwrap();
        let expected: Vec<String> = before.iter().filter(|name| *name == "CAP_NET_ADMIN").cloned().collect();
        assert_eq!((after, at_last, no_new), (expected.clone(), Vec::new(), true));
        let effective = if expected.is_empty() { "0" } else { "1000" };
        assert!(child.contains(&format!("CapEff:\t{effective:0>16}")), "{child}");
        assert_eq!(held(), before, "other threads keep theirs");
    }
}
