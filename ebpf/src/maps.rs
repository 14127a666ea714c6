//! What the agent fills in, and what it reads.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, SockMap};
use weir_ebpf_common::{
    Exemption, Flow, IpVersion, MAX_EXEMPT, Verdict, WithoutListener, is_released, pair_v4, pair_v6,
};

/// The agent sets the real size when it loads the program.
const PREFIXES: u32 = 1;

#[map]
static CUSTOMERS_V4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(PREFIXES, 0);

#[map]
static CUSTOMERS_V6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(PREFIXES, 0);

// Memory for pairs that there are, not for as many as there may be.
#[map]
static EXEMPT_V4: HashMap<[u32; 2], Exemption> = HashMap::with_max_entries(MAX_EXEMPT, BPF_F_NO_PREALLOC);

#[map]
static EXEMPT_V6: HashMap<[u32; 8], Exemption> = HashMap::with_max_entries(MAX_EXEMPT, BPF_F_NO_PREALLOC);

#[map]
static RELEASED: Array<u32> = Array::with_max_entries(1, 0);

#[map]
static HEART: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static ADMITTED: Array<u32> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static LISTENER: SockMap = SockMap::with_max_entries(1, 0);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::COUNT, 0);

#[unsafe(no_mangle)]
static MARK: Global<u32> = Global::new(0x4d58_0000);

#[unsafe(no_mangle)]
static MARK_MASK: Global<u32> = Global::new(0xffff_0000);

#[unsafe(no_mangle)]
static CLOSED: Global<u32> = Global::new(0);

/// The mark of steered packets: our bits over the others' bits of `mark`.
#[inline(always)]
pub(crate) fn marked(mark: u32) -> u32 {
    mark & !MARK_MASK.load() | MARK.load()
}

#[inline(always)]
pub(crate) fn without_listener() -> WithoutListener {
    if CLOSED.load() == 0 { WithoutListener::Pass } else { WithoutListener::Drop }
}

#[inline(always)]
pub(crate) fn is_customer(version: IpVersion, address: &[u32; 4]) -> bool {
    use aya_ebpf::maps::lpm_trie::Key;
    match version {
        IpVersion::V4 => CUSTOMERS_V4.get(Key::new(32, address[0])).is_some(),
        IpVersion::V6 => CUSTOMERS_V6.get(Key::new(128, *address)).is_some(),
    }
}

/// Whether the new connection belongs to an exempt pair; if so, it counts against the pair's limit.
#[inline(always)]
pub(crate) fn is_exempt(flow: &Flow) -> bool {
    let exemption = match flow.version {
        IpVersion::V4 => EXEMPT_V4.get_ptr_mut(&pair_v4(flow)),
        IpVersion::V6 => EXEMPT_V6.get_ptr_mut(&pair_v6(flow)),
    };
    let Some(exemption) = exemption else {
        return false;
    };
    let now = now();
    // SAFETY: the map holds a valid value of this type there, which lives as long as the program runs. Another CPU
    // may change it meanwhile: it is plain words, of which `admit` may then miss one connection.
    unsafe { (*exemption).admit(now) }
}

/// Whether all new connections go straight now.
#[inline(always)]
pub(crate) fn released() -> bool {
    RELEASED.get(0).is_some_and(|until| is_released(*until, now()))
}

/// Whether the agent has shown lately that it lives.
#[inline(always)]
pub(crate) fn is_alive() -> bool {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    HEART.get(0).is_some_and(|last| weir_ebpf_common::is_alive(*last, now))
}

/// Whether one more new connection is taken.
#[inline(always)]
pub(crate) fn admits() -> bool {
    let Some(admitted) = ADMITTED.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the map holds a valid `u32` there. Two processors may take the last one together, which does no harm.
    unsafe {
        match *admitted {
            u32::MAX => true,
            0 => false,
            left => {
                *admitted = left - 1;
                true
            }
        }
    }
}

/// In seconds of CLOCK_BOOTTIME.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_ktime_get_boot_ns() } / 1_000_000_000) as u32
}

#[inline(always)]
pub(crate) fn count(verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict.index()) {
        // SAFETY: the map holds a valid `u64` at this index, this CPU's own; the program cannot be
        // interrupted by itself on one CPU.
        unsafe { *counter += 1 };
    }
}
