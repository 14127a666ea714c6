//! Which programs run on an interface, by their numbers. aya opens each of them to say so, for which the kernel wants
//! CAP_SYS_ADMIN; the numbers it tells to CAP_NET_ADMIN.

use std::io;

use nix::libc;

/// bpf(2): `BPF_PROG_QUERY`.
const PROG_QUERY: libc::c_int = 16;
/// `BPF_TCX_INGRESS`.
const TCX_INGRESS: u32 = 46;

/// More programs than anybody puts on one interface (the kernel's `BPF_MPROG_MAX`).
const MAX: usize = 64;

/// The part of `union bpf_attr` that is for this question.
#[repr(C)]
#[derive(Default)]
struct Query {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Programs at the TCX ingress of the interface with this index.
pub(super) fn programs(interface: u32) -> io::Result<Vec<u32>> {
    ask(interface).map(|(programs, _)| programs)
}

/// With the links that they are there by.
pub(super) fn attached(interface: u32) -> io::Result<Vec<(u32, u32)>> {
    ask(interface).map(|(programs, links)| programs.into_iter().zip(links).collect())
}

#[expect(unsafe_code, reason = "bpf(2) has no safe wrapper for this question")]
fn ask(interface: u32) -> io::Result<(Vec<u32>, Vec<u32>)> {
    let (mut ids, mut links) = (vec![0_u32; MAX], vec![0_u32; MAX]);
    let mut query = Query {
        interface,
        attach_type: TCX_INGRESS,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        link_ids: links.as_mut_ptr() as u64,
        ..Query::default()
    };
    // SAFETY: the kernel writes into `query`, whose size is given, and at most `count` numbers into `ids` and `links`.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    ids.truncate(query.count as usize);
    links.truncate(query.count as usize);
    Ok((ids, links))
}
