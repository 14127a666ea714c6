//! Sockets that the kernel lends us: each must be given back on every path, which `Drop` sees to.

use core::mem::{MaybeUninit, size_of};
use core::ptr::{NonNull, from_ref};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::{
    bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie,
};
use aya_ebpf::programs::TcContext;
use weir_ebpf_common::{Flow, IpVersion};

use crate::maps::LISTENER;

// TCP states of include/net/tcp_states.h.
const SYN_SENT: u32 = 2;
const LISTEN: u32 = 10;

/// A socket of this host, referenced.
pub(crate) struct Socket(NonNull<bpf_sock>);

impl Socket {
    /// The socket to which packets of this flow belong; a listener may be found as well.
    #[inline(always)]
    pub(crate) fn find(context: &TcContext, flow: &Flow) -> Option<Self> {
        let mut tuple = MaybeUninit::<bpf_sock_tuple>::uninit();
        let pointer = tuple.as_mut_ptr();
        let size = match flow.version {
            IpVersion::V4 => {
                // SAFETY: `pointer` is valid for writes, and these four fields are all the kernel reads of it
                // for an IPv4 tuple, as told by the size.
                unsafe {
                    let v4 = &raw mut (*pointer).__bindgen_anon_1.ipv4;
                    (*v4).saddr = flow.source[0];
                    (*v4).daddr = flow.destination[0];
                    (*v4).sport = flow.source_port;
                    (*v4).dport = flow.destination_port;
                }
                12
            }
            IpVersion::V6 => {
                // SAFETY: as above, for an IPv6 tuple.
                unsafe {
                    let v6 = &raw mut (*pointer).__bindgen_anon_1.ipv6;
                    (*v6).saddr = flow.source;
                    (*v6).daddr = flow.destination;
                    (*v6).sport = flow.source_port;
                    (*v6).dport = flow.destination_port;
                }
                size_of::<bpf_sock_tuple>() as u32
            }
        };
        // SAFETY: context and tuple are valid for the call; the reference is released by `Drop`.
        let socket = unsafe {
            bpf_skc_lookup_tcp(context.as_ptr(), pointer, size, BPF_F_CURRENT_NETNS as i64 as u64, 0)
        };
        NonNull::new(socket).map(Self)
    }

    /// The agent's listener.
    #[inline(always)]
    pub(crate) fn listener() -> Option<Self> {
        let index = 0u32;
        // SAFETY: `LISTENER` is a socket map with a `u32` key: the kernel returns a referenced socket, released
        // by `Drop`. aya-ebpf has no look-up for socket maps; it too hands the kernel the address of the static.
        let socket =
            unsafe { bpf_map_lookup_elem(from_ref(&LISTENER).cast_mut().cast(), from_ref(&index).cast()) };
        NonNull::new(socket.cast()).map(Self)
    }

    #[inline(always)]
    fn state(&self) -> u32 {
        // SAFETY: a referenced socket, and the verifier lets `state` be read of every kind of it.
        unsafe { (&raw const (*self.0.as_ptr()).state).read() }
    }

    #[inline(always)]
    pub(crate) fn is_listening(&self) -> bool {
        self.state() == LISTEN
    }

    #[inline(always)]
    pub(crate) fn is_opening(&self) -> bool {
        self.state() == SYN_SENT
    }

    /// Gives the packet to this socket; the kernel's error otherwise.
    #[inline(always)]
    pub(crate) fn assign(&self, context: &TcContext) -> Result<(), i64> {
        // SAFETY: context and socket are valid; the kernel takes a reference of its own.
        match unsafe { bpf_sk_assign(context.as_ptr(), self.0.as_ptr().cast(), 0) } {
            0 => Ok(()),
            error => Err(error),
        }
    }

    /// Whether the packet with these headers acknowledges a SYN cookie of this listener.
    #[inline(always)]
    pub(crate) fn confirms_cookie<const N: usize>(
        &self,
        ip_header: &mut [u32; N],
        tcp_header: &mut [u32; 5],
    ) -> bool {
        // SAFETY: both headers are valid for reads of the lengths given; the kernel does not write them.
        let answer = unsafe {
            bpf_tcp_check_syncookie(
                self.0.as_ptr().cast(),
                ip_header.as_mut_ptr().cast(),
                (N * 4) as u32,
                tcp_header.as_mut_ptr().cast(),
                20,
            )
        };
        answer == 0
    }
}

impl Drop for Socket {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the reference was taken when this value was made, and is given back once.
        unsafe { bpf_sk_release(self.0.as_ptr().cast()) };
    }
}
