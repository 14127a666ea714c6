//! Another process, known by a descriptor (Linux 5.3 or newer): its number may be another's one day.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    descriptor: OwnedFd,
}

impl Process {
    /// # Errors
    /// If there is none with this number, or the kernel is too old.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "no library at hand opens a process")]
        // SAFETY: numbers go in, and a number comes out.
        let number = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let number = RawFd::try_from(number).map_err(io::Error::other)?;
        #[expect(unsafe_code, reason = "pidfd_open(2) gives a number")]
        // SAFETY: the descriptor is new, and nobody else's.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(Self { pid, descriptor })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ends_within(PollTimeout::ZERO)
    }

    /// Until it has ended.
    pub(super) fn wait(&self) {
        while !self.ends_within(PollTimeout::NONE) {}
    }

    fn ends_within(&self, limit: PollTimeout) -> bool {
        let mut ended = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
        // An error is a signal that came: it is asked again.
        poll(&mut ended, limit).is_ok_and(|count| count > 0)
    }

    /// SIGTERM.
    pub(super) fn terminate(&self) -> io::Result<()> {
        let (descriptor, nothing) = (self.descriptor.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        #[expect(unsafe_code, reason = "no library at hand signals a process by its descriptor")]
        // SAFETY: the descriptor is open, and no more is said than the signal's number.
        let outcome =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, descriptor, libc::SIGTERM, nothing, 0) };
        Ok(Errno::result(outcome).map(drop)?)
    }
}
