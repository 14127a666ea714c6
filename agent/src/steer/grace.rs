//! The kernel's own word that no processor is at an older packet any more.

use std::thread;
use std::time::Duration;

use nix::libc;

/// Far longer than the program needs for a packet.
const LONG_ENOUGH: Duration = Duration::from_millis(100);

/// Waits until the program has ended for every packet that it had begun.
pub(super) fn wait() {
    const GLOBAL: libc::c_int = libc::MEMBARRIER_CMD_GLOBAL;
    // membarrier(2) is not made for this, but waits for what is needed: programs run inside an RCU read-side section,
    // and this command waits until all of those that there are have ended.
    #[expect(unsafe_code, reason = "no library wraps this system call")]
    // SAFETY: the call takes three integers and touches no memory of ours.
    let outcome = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if outcome != 0 {
        // Refused where processors are set apart for one task (nohz_full).
        thread::sleep(LONG_ENOUGH);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_comes_back() {
        super::wait();
    }
}
