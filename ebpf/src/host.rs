//! The packet and the kernel, as parser and decision see them.

use core::mem::{MaybeUninit, size_of, zeroed};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT,
    BPF_FIB_LKUP_RET_UNREACHABLE, bpf_fib_lookup as FibLookup, bpf_hdr_start_off::BPF_HDR_START_NET,
};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_skb_load_bytes_relative};
use aya_ebpf::programs::TcContext;
use weir_ebpf_common::{
    Bytes, Flow, Handshake, Host, IpVersion, ListenerAssignment, Packet, Policy, Refusal, Route, Rule,
    RuleKind, Table,
};

use crate::maps;
use crate::socket::Socket;

const ETH_P_IP: u32 = 0x0800u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86ddu16.to_be() as u32;
const ETH_P_8021Q: u32 = 0x8100u16.to_be() as u32;
const ETH_P_8021AD: u32 = 0x88a8u16.to_be() as u32;
/// The number of the VLAN in a tag; 0 is none.
const VLAN: u32 = 0x0fff;
/// A frame with somebody else's MAC address (promiscuous mode): the kernel drops it later.
const PACKET_OTHERHOST: u32 = 3;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

// Return values of bpf_fib_lookup.
const BLACKHOLE: i64 = BPF_FIB_LKUP_RET_BLACKHOLE as i64;
const UNREACHABLE: i64 = BPF_FIB_LKUP_RET_UNREACHABLE as i64;
const PROHIBIT: i64 = BPF_FIB_LKUP_RET_PROHIBIT as i64;
const NOT_FORWARDED: i64 = BPF_FIB_LKUP_RET_NOT_FWDED as i64;

/// What kind of packet it is, before its headers are read.
pub(crate) enum PacketKind {
    V4,
    V6,
    OtherHost,
    /// A tag behind a tag of VLAN 0.
    NestedTag,
    NotIp,
}

/// The packet under decision, and the kernel around it.
pub(crate) struct Kernel {
    context: TcContext,
}

impl Kernel {
    #[inline(always)]
    pub(crate) fn new(context: TcContext) -> Self {
        Self { context }
    }

    #[inline(always)]
    pub(crate) fn kind(&self) -> PacketKind {
        let skb = self.context.skb.skb;
        // SAFETY: the context is valid while the program runs; both fields are readable in a tc program.
        let (packet_type, protocol) = unsafe { ((*skb).pkt_type, (*skb).protocol) };
        // SAFETY: as above. The kernel has taken the outer tag off.
        let vlan = unsafe { if (*skb).vlan_present == 0 { 0 } else { (*skb).vlan_tci & VLAN } };
        match protocol {
            _ if packet_type == PACKET_OTHERHOST => PacketKind::OtherHost,
            // Not this interface's but the VLAN's, where the packet passes again. Marked and given to a socket here, it
            // would be delivered nowhere.
            _ if vlan != 0 => PacketKind::NotIp,
            ETH_P_8021Q | ETH_P_8021AD => PacketKind::NestedTag,
            ETH_P_IP => PacketKind::V4,
            ETH_P_IPV6 => PacketKind::V6,
            _ => PacketKind::NotIp,
        }
    }

    #[inline(always)]
    pub(crate) fn packet_type(&self) -> u32 {
        // SAFETY: as in `kind`.
        unsafe { (*self.context.skb.skb).pkt_type }
    }

    /// Marks the packet for the policy rule.
    #[inline(always)]
    pub(crate) fn mark(&self) {
        // SAFETY: as in `kind`.
        let mark = unsafe { (*self.context.skb.skb).mark };
        self.context.set_mark(maps::marked(mark));
    }

    #[inline(always)]
    pub(crate) fn context(&self) -> &TcContext {
        &self.context
    }

    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: as in `kind`.
        unsafe { (*self.context.skb.skb).ifindex }
    }

    #[inline(always)]
    fn acknowledges_cookie(&self, listener: &Socket, packet: &Packet) -> bool {
        let Some(mut tcp_header) = self.words::<5>(packet.offset) else {
            return false;
        };
        match packet.flow.version {
            IpVersion::V4 => match self.words::<5>(0) {
                Some(mut ip_header) => listener.confirms_cookie(&mut ip_header, &mut tcp_header),
                None => false,
            },
            IpVersion::V6 => match self.words::<10>(0) {
                Some(mut ip_header) => listener.confirms_cookie(&mut ip_header, &mut tcp_header),
                None => false,
            },
        }
    }
}

impl Bytes for Kernel {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::uninit();
        // SAFETY: the destination is valid for writes of its own size; on success all of it is written.
        unsafe {
            let result = bpf_skb_load_bytes_relative(
                self.context.as_ptr(),
                offset,
                words.as_mut_ptr().cast(),
                size_of::<[u32; N]>() as u32,
                BPF_HDR_START_NET,
            );
            if result == 0 { Some(words.assume_init()) } else { None }
        }
    }
}

impl Host for Kernel {
    #[inline(always)]
    fn generation(&self) -> u32 {
        maps::generation()
    }

    #[inline(always)]
    fn policy(&self, generation: u32, version: IpVersion, address: &[u32; 4]) -> Option<&Policy> {
        maps::policy(Table::Customers, generation, version, address)
    }

    #[inline(always)]
    fn is_blocked(&self, flow: &Flow) -> Option<Refusal> {
        maps::rule(RuleKind::Blocked, flow.version, &flow.source).map(Rule::refusal)
    }

    #[inline(always)]
    fn is_exempt_customer(&self, flow: &Flow) -> bool {
        maps::rule(RuleKind::ExemptCustomer, flow.version, &flow.source).is_some()
    }

    #[inline(always)]
    fn is_exempt_destination(&self, generation: u32, flow: &Flow) -> bool {
        let (version, address) = (flow.version, &flow.destination);
        maps::policy(Table::ExemptDestinations, generation, version, address).is_some()
            || maps::rule(RuleKind::ExemptDestination, version, address).is_some()
    }

    #[inline(always)]
    fn assign_connection(&self, flow: &Flow) -> bool {
        match Socket::find(&self.context, flow) {
            Some(socket) if !socket.is_listening() => {
                // Saves the kernel a look-up. Where it is refused (some kernels, for sockets of a SO_REUSEPORT group)
                // the mark alone still brings the packet to its socket.
                let _ = socket.assign(&self.context);
                true
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn has_connection(&self, flow: &Flow) -> bool {
        Socket::find(&self.context, flow).is_some_and(|socket| !socket.is_listening())
    }

    #[inline(always)]
    fn is_opening(&self, answers: &Flow) -> bool {
        Socket::find(&self.context, answers).is_some_and(|socket| socket.is_opening())
    }

    #[inline(always)]
    fn route(&self, flow: &Flow) -> Route {
        // SAFETY: a plain structure of the kernel's ABI, for which all zeroes is valid.
        let mut lookup: FibLookup = unsafe { zeroed() };
        lookup.l4_protocol = IPPROTO_TCP;
        lookup.ifindex = self.interface();
        lookup.sport = flow.source_port;
        lookup.dport = flow.destination_port;
        match flow.version {
            IpVersion::V4 => {
                lookup.family = AF_INET;
                lookup.__bindgen_anon_3.ipv4_src = flow.source[0];
                lookup.__bindgen_anon_4.ipv4_dst = flow.destination[0];
            }
            IpVersion::V6 => {
                lookup.family = AF_INET6;
                lookup.__bindgen_anon_3.ipv6_src = flow.source;
                lookup.__bindgen_anon_4.ipv6_dst = flow.destination;
            }
        }
        // SAFETY: context and structure are valid for the call, and the length is the structure's own.
        let result = unsafe {
            bpf_fib_lookup(self.context.as_ptr(), &raw mut lookup, size_of::<FibLookup>() as i32, 0)
        };
        match result {
            BLACKHOLE | UNREACHABLE | PROHIBIT | NOT_FORWARDED => Route::LocalOrNone,
            // Forwarded, or forwarding is off (the agent sees to that), or no neighbour entry yet.
            _ => Route::Forwarded,
        }
    }

    #[inline(always)]
    fn is_exempt(&self, flow: &Flow) -> bool {
        maps::is_exempt(flow)
    }

    #[inline(always)]
    fn is_released(&self) -> bool {
        maps::released()
    }

    #[inline(always)]
    fn is_alive(&self) -> bool {
        maps::is_alive()
    }

    #[inline(always)]
    fn admits(&self) -> bool {
        maps::admits()
    }

    #[inline(always)]
    fn has_listener(&self) -> bool {
        Socket::listener().is_some()
    }

    #[inline(always)]
    fn connections(&self, flow: &Flow) -> u32 {
        maps::connections(flow)
    }

    #[inline(always)]
    fn take_token(&self, policy: &Policy, flow: &Flow) -> bool {
        maps::take_token(policy, flow)
    }

    #[inline(always)]
    fn assign_listener(&self, packet: &Packet, handshake: Handshake) -> ListenerAssignment {
        let Some(listener) = Socket::listener() else {
            return ListenerAssignment::NoListener;
        };
        match handshake {
            Handshake::CookieAcknowledgement if !self.acknowledges_cookie(&listener, packet) => {
                ListenerAssignment::NoCookie
            }
            Handshake::CookieAcknowledgement | Handshake::Syn => match listener.assign(&self.context) {
                Ok(()) => ListenerAssignment::Done,
                Err(_) => ListenerAssignment::Refused,
            },
        }
    }
}
