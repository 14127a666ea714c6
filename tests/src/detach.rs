//! Takes the programs off an interface, as tools do that know nothing of weir (`bpftool net detach`; `tc filter del` where the
//! kernel has no TCX).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::net::if_::if_nametoindex;

use crate::lab::Host;
use crate::other_program::has_tcx;

// Commands of bpf(2).
const PROG_QUERY: libc::c_int = 16;
const LINK_GET_FD_BY_ID: libc::c_int = 30;
const LINK_DETACH: libc::c_int = 34;

/// `BPF_TCX_INGRESS`.
const TCX_INGRESS: u32 = 46;

const MAX: u32 = 64;

/// The part of `union bpf_attr` that is for the question.
#[repr(C)]
#[derive(Default)]
struct Query {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    links: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// All programs at the ingress of the host's interface, of which there must be some.
pub fn detach(host: &Host, interface: &str) -> Result<()> {
    if !has_tcx() {
        let filters = host.sh(&format!("tc filter show dev {interface} ingress"))?;
        ensure!(filters.contains("bpf"), "there is no program on {interface}");
        return host.sh(&format!("tc filter del dev {interface} ingress")).map(|_| ());
    }
    host.in_network(|| {
        let links = links(if_nametoindex(interface)?).context("ask for links")?;
        ensure!(!links.is_empty(), "there is no program on {interface}");
        for id in links {
            let link = bpf(LINK_GET_FD_BY_ID, &mut [id, 0, 0]).context("open the link")?;
            #[expect(unsafe_code, reason = "a descriptor from a system call")]
            // SAFETY: the command answers with a new descriptor, which is nobody else's.
            let link = unsafe { OwnedFd::from_raw_fd(link) };
            bpf(LINK_DETACH, &mut link.as_raw_fd()).context("detach the link")?;
        }
        Ok(())
    })
}

fn links(interface: u32) -> io::Result<Vec<u32>> {
    let (mut programs, mut links) = (vec![0_u32; MAX as usize], vec![0_u32; MAX as usize]);
    let mut query = Query {
        interface,
        attach_type: TCX_INGRESS,
        programs: programs.as_mut_ptr() as u64,
        count: MAX,
        links: links.as_mut_ptr() as u64,
        ..Query::default()
    };
    bpf(PROG_QUERY, &mut query)?;
    links.truncate(query.count as usize);
    Ok(links)
}

#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]
fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads and writes `attributes`, whose size is given, and arrays in it as long as it says.
    let outcome =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    match libc::c_int::try_from(outcome) {
        Ok(outcome) if outcome >= 0 => Ok(outcome),
        _ => Err(io::Error::last_os_error()),
    }
}
