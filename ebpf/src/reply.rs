//! The answer to a SYN that is refused, sent from here: no socket has a part in it, so none of the gateway's own can
//! take the connection.

use core::mem::size_of_val;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{
    bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use weir_ebpf_common::{Bytes, Reset, reset_v4, reset_v6};

use crate::host::{Kernel, PacketKind};

const ETHERNET: u32 = 14;

/// A frame that was sent to this host alone.
const PACKET_HOST: u32 = 0;

/// Makes the SYN its own answer and sends it back on the interface on which it came; the program's return value.
/// `None` where that is not possible: what is left of the packet is to be dropped.
#[inline(always)]
pub(crate) fn reset(kernel: &Kernel) -> Option<i32> {
    if kernel.packet_type() != PACKET_HOST {
        return None;
    }
    match kernel.kind() {
        PacketKind::V4 => {
            let mut reset = Reset::<5>::NONE;
            if !reset_v4(kernel, &mut reset) {
                return None;
            }
            answer(kernel, &reset)
        }
        PacketKind::V6 => {
            let mut reset = Reset::<10>::NONE;
            if !reset_v6(kernel, &mut reset) {
                return None;
            }
            answer(kernel, &reset)
        }
        PacketKind::OtherHost | PacketKind::NestedTag | PacketKind::NotIp => None,
    }
}

#[inline(always)]
fn answer<const IP: usize>(kernel: &Kernel, reset: &Reset<IP>) -> Option<i32> {
    let skb = kernel.context().as_ptr().cast();
    let network = network_offset(kernel)?;
    // SAFETY: the context is valid while the program runs.
    done(unsafe { bpf_skb_change_tail(skb, network + Reset::<IP>::LENGTH, 0) })?;
    if network == ETHERNET {
        let [a, b, c] = load::<3>(kernel, 0)?;
        // Source and destination change places: 6 bytes each, in memory order.
        let bytes = [a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes()];
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l]] = bytes;
        store(kernel, 0, &[[g, h, i, j], [k, l, a, b], [c, d, e, f]], 0)?;
    }
    let recompute = u64::from(BPF_F_RECOMPUTE_CSUM);
    store(kernel, network, &reset.ip, recompute)?;
    store(kernel, network + Reset::<IP>::TCP, &reset.tcp, recompute)?;
    let checksum = network + Reset::<IP>::CHECKSUM;
    // SAFETY: as above.
    unsafe {
        done(bpf_l4_csum_replace(skb, checksum, 0, u64::from(reset.difference), 0))?;
        let pseudo = u64::from(reset.pseudo_difference);
        done(bpf_l4_csum_replace(skb, checksum, 0, pseudo, u64::from(BPF_F_PSEUDO_HDR)))?;
        // Out of the interface, as other packets are: programs at its egress see it.
        Some(bpf_redirect(kernel.interface(), 0) as i32)
    }
}

/// Where the IP header starts in the frame: behind an Ethernet header (a VLAN's tag is not in the frame here), or, on
/// interfaces without one, at its start.
#[inline(always)]
fn network_offset(kernel: &Kernel) -> Option<u32> {
    let header = kernel.words::<5>(0)?;
    [ETHERNET, 0]
        .into_iter()
        .find(|offset| load::<5>(kernel, *offset).is_some_and(|words| same(words, header)))
}

/// Word by word: the compiler's comparison of arrays is a function, which the verifier would have to follow.
#[inline(always)]
const fn same([a, b, c, d, e]: [u32; 5], [f, g, h, i, j]: [u32; 5]) -> bool {
    a == f && b == g && c == h && d == i && e == j
}

#[inline(always)]
fn load<const N: usize>(kernel: &Kernel, offset: u32) -> Option<[u32; N]> {
    let mut words = [0u32; N];
    // SAFETY: the destination is valid for writes of its own size.
    done(unsafe {
        bpf_skb_load_bytes(
            kernel.context().as_ptr(),
            offset,
            words.as_mut_ptr().cast(),
            size_of_val(&words) as u32,
        )
    })?;
    Some(words)
}

#[inline(always)]
fn store<T>(kernel: &Kernel, offset: u32, bytes: &T, flags: u64) -> Option<()> {
    // SAFETY: the source is valid for reads of its own size, without padding in all uses.
    done(unsafe {
        bpf_skb_store_bytes(
            kernel.context().as_ptr().cast(),
            offset,
            core::ptr::from_ref(bytes).cast(),
            size_of_val(bytes) as u32,
            flags,
        )
    })
}

#[inline(always)]
const fn done(result: i64) -> Option<()> {
    if result == 0 { Some(()) } else { None }
}
