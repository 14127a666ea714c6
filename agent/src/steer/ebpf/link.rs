//! TCX links, by descriptors of our own: another process may be given one, which aya's links do not allow.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

// Commands of bpf(2).
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_GET_FD_BY_ID: libc::c_int = 30;
const LINK_DETACH: libc::c_int = 34;

/// `BPF_TCX_INGRESS`.
const TCX_INGRESS: u32 = 46;

/// `BPF_F_BEFORE`, and nothing before which: before all others.
const FIRST: u32 = 1 << 3;

/// A program's place on an interface. It ends when no process has it and no file holds it.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

/// The parts of `union bpf_attr` that are for these commands.
#[repr(C)]
#[derive(Default)]
struct Create {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    padding: u32,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct Update {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    descriptor: u32,
    flags: u32,
}

impl From<OwnedFd> for Link {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// Before all other programs on the interface with this index: one that passes packets on for good would hide them
    /// from ours. `EINVAL` on kernels before 6.6.
    pub(super) fn create(program: BorrowedFd<'_>, interface: u32) -> io::Result<Self> {
        let attach_type = TCX_INGRESS;
        let (program, flags) = (number(program), FIRST);
        let mut attributes = Create { program, interface, attach_type, flags, ..Create::default() };
        descriptor(LINK_CREATE, &mut attributes).map(Self)
    }

    /// Puts the program in the place of the one that it runs, in one step.
    pub(super) fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let (link, program) = (number(self.0.as_fd()), number(program));
        bpf(LINK_UPDATE, &mut Update { link, program, ..Update::default() }).map(drop)
    }

    /// Has a file hold it.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let (path, descriptor) = (c_string(path)?, number(self.0.as_fd()));
        bpf(OBJ_PIN, &mut Object { path: path.as_ptr() as u64, descriptor, flags: 0 }).map(drop)
    }

    /// The one that a file holds.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = c_string(path)?;
        descriptor(OBJ_GET, &mut Object { path: path.as_ptr() as u64, ..Object::default() }).map(Self)
    }
}

/// Takes the program of the link with this number off its interface, whoever holds the link. Needs CAP_SYS_ADMIN.
pub(super) fn detach(id: u32) -> io::Result<()> {
    let link = descriptor(LINK_GET_FD_BY_ID, &mut [id, 0, 0])?;
    bpf(LINK_DETACH, &mut number(link.as_fd())).map(drop)
}

fn c_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn number(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

#[expect(unsafe_code, reason = "aya keeps the descriptors of its links to itself")]
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `attributes`, whose size is given; a path in it lives until the call is over.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    match libc::c_int::try_from(outcome) {
        Ok(outcome) if outcome >= 0 => Ok(outcome),
        _ => Err(io::Error::last_os_error()),
    }
}

#[expect(unsafe_code, reason = "as above")]
fn descriptor<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    let number = bpf(command, attributes)?;
    // SAFETY: these commands answer with a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
