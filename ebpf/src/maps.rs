//! What the agent fills in, and what it reads.

use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LpmTrie, PerCpuArray, SockMap};
use weir_ebpf_common::{IpVersion, Verdict, WithoutListener};

/// The agent sets the real size when it loads the program.
const PREFIXES: u32 = 1;

#[map]
static CUSTOMERS_V4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(PREFIXES, 0);

#[map]
static CUSTOMERS_V6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(PREFIXES, 0);

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

#[inline(always)]
pub(crate) fn count(verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict.index()) {
        // SAFETY: the map holds a valid `u64` at this index, this CPU's own; the program cannot be
        // interrupted by itself on one CPU.
        unsafe { *counter += 1 };
    }
}
