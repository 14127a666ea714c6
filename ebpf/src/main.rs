//! The tc program that steers port 25 to the agent.
//!
//! It runs at tc ingress of the customers' interfaces (`weir_customer`) and of those towards the internet
//! (`weir_internet`). Parsing and decision are in `weir-ebpf-common`, where they are tested; this crate
//! reads the packet and asks the kernel.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "every call of a kernel helper is unsafe; each says why it is sound")]

mod host;
mod maps;
mod reply;
mod socket;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use weir_ebpf_common::{Action, IpVersion, Kind, Side, Verdict, decide, parse, parse_tag};

use crate::host::{Kernel, PacketKind};

/// Other programs on the interface run next, whatever we decided: -1 is TC_ACT_UNSPEC and TCX_NEXT.
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;

#[classifier]
pub(crate) fn weir_customer(context: TcContext) -> i32 {
    steer(context, Side::Customer)
}

#[classifier]
pub(crate) fn weir_internet(context: TcContext) -> i32 {
    steer(context, Side::Internet)
}

#[inline(always)]
fn steer(context: TcContext, side: Side) -> i32 {
    let kernel = Kernel::new(context);
    let verdict = try_steer(&kernel, side).unwrap_or(Verdict::Unrelated);
    maps::count(verdict);
    match verdict.action() {
        Action::Pass => NEXT,
        Action::Steer => {
            kernel.mark();
            NEXT
        }
        Action::Drop => DROP,
        Action::Reset => reply::reset(&kernel).unwrap_or(DROP),
    }
}

/// The verdict on the packet; `Err` if it is no IP packet for this host's attention.
#[inline(always)]
fn try_steer(kernel: &Kernel, side: Side) -> Result<Verdict, PacketKind> {
    let packet = match kernel.kind() {
        PacketKind::V4 => parse(kernel, IpVersion::V4),
        PacketKind::V6 => parse(kernel, IpVersion::V6),
        PacketKind::NestedTag => parse_tag(kernel),
        other @ (PacketKind::OtherHost | PacketKind::NotIp) => return Err(other),
    };
    if packet.kind == Kind::Unrelated {
        return Ok(Verdict::Unrelated);
    }
    Ok(decide(&packet, side, maps::without_listener(), kernel))
}

/// `bpf_skc_lookup_tcp` and others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: nothing here panics, and the verifier would refuse a program with this loop in it.
    loop {}
}
