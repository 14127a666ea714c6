//! What the agent fills in, and what it reads.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SockMap};
use weir_ebpf_common::{
    Exemption, Flow, IpVersion, MAX_EXEMPT, MAX_POLICIES, MAX_PREFIX_ENTRIES, MAX_RULES, Policy, Rule,
    RuleKind, Table, Verdict, WithoutListener, is_released, pair_v4, pair_v6, source_key,
};

/// Sources whose last connections are remembered. Beyond it the one not heard of for longest is forgotten, and has
/// a full bucket when it comes back.
const MAX_BUCKETS: u32 = 65_536;

/// The agent sets the real size when it loads the program: as many as it has sessions.
const SOURCES: u32 = 1;

#[map]
static PREFIXES_V4: LpmTrie<[u32; 2], u32> = LpmTrie::with_max_entries(MAX_PREFIX_ENTRIES, BPF_F_NO_PREALLOC);

#[map]
static PREFIXES_V6: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(MAX_PREFIX_ENTRIES, BPF_F_NO_PREALLOC);

#[map]
static POLICIES: Array<Policy> = Array::with_max_entries(MAX_POLICIES, 0);

#[map]
static GENERATION: Array<u32> = Array::with_max_entries(1, 0);

/// A rule in a map, where every processor counts in it.
#[repr(transparent)]
struct Shared(Rule);

// SAFETY: plain words. Two processors at once may lose a count, and see no half of one.
unsafe impl Sync for Shared {}

#[map]
static RULES_V4: LpmTrie<[u32; 2], Shared> = LpmTrie::with_max_entries(MAX_RULES, BPF_F_NO_PREALLOC);

#[map]
static RULES_V6: LpmTrie<[u32; 5], Shared> = LpmTrie::with_max_entries(MAX_RULES, BPF_F_NO_PREALLOC);

#[map]
static CONNECTIONS: HashMap<[u32; 4], u32> = HashMap::with_max_entries(SOURCES, BPF_F_NO_PREALLOC);

#[map]
static BUCKETS: LruHashMap<[u32; 4], u64> = LruHashMap::with_max_entries(MAX_BUCKETS, 0);

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
pub(crate) fn generation() -> u32 {
    // Written by the agent while the program runs; a look-up, unlike a constant, is made each time.
    GENERATION.get(0).copied().unwrap_or(0)
}

/// The policy of the longest prefix in a table that holds the address.
#[inline(always)]
pub(crate) fn policy(
    table: Table,
    generation: u32,
    version: IpVersion,
    address: &[u32; 4],
) -> Option<&'static Policy> {
    let word = table.word(generation);
    let [a, b, c, d] = *address;
    let index = match version {
        IpVersion::V4 => PREFIXES_V4.get(Key::new(64, [word, a])),
        IpVersion::V6 => PREFIXES_V6.get(Key::new(160, [word, a, b, c, d])),
    };
    POLICIES.get(*index?)
}

/// The rule for the address, if one holds now. It counts.
#[inline(always)]
pub(crate) fn rule(kind: RuleKind, version: IpVersion, address: &[u32; 4]) -> Option<&'static Rule> {
    let word = kind.word();
    let [a, b, c, d] = *address;
    let rule = match version {
        IpVersion::V4 => RULES_V4.get(Key::new(64, [word, a])),
        IpVersion::V6 => RULES_V6.get(Key::new(160, [word, a, b, c, d])),
    }?;
    let Shared(rule) = rule;
    if !rule.holds(now()) {
        return None;
    }
    rule.count();
    Some(rule)
}

#[inline(always)]
pub(crate) fn connections(flow: &Flow) -> u32 {
    let count = CONNECTIONS.get_ptr(source_key(flow));
    // SAFETY: the map holds a valid `u32` there, which lives as long as the program runs; the agent may store another
    // meanwhile, whole.
    count.map_or(0, |count| unsafe { *count })
}

#[inline(always)]
pub(crate) fn take_token(policy: &Policy, flow: &Flow) -> bool {
    let (source, now) = (source_key(flow), nanoseconds());
    if let Some(full) = BUCKETS.get_ptr_mut(source) {
        // SAFETY: as for an exemption: plain words, of which another CPU may make us miss one connection. Should the
        // bucket be forgotten meanwhile, the kernel keeps its memory until the program has ended.
        return unsafe { policy.take_token(&mut *full, now) };
    }
    let mut full = 0;
    let taken = policy.take_token(&mut full, now);
    // If there is no room even so, the connection passes, uncounted.
    let _ = BUCKETS.insert(source, full, 0);
    taken
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
    (nanoseconds() / 1_000_000_000) as u32
}

#[inline(always)]
fn nanoseconds() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_boot_ns() }
}

#[inline(always)]
pub(crate) fn count(verdict: Verdict) {
    if let Some(counter) = COUNTERS.get_ptr_mut(verdict.index()) {
        // SAFETY: the map holds a valid `u64` at this index, this CPU's own; the program cannot be
        // interrupted by itself on one CPU.
        unsafe { *counter += 1 };
    }
}
