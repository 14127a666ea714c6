//! What becomes of a packet: one function over parsed headers and what the host says about them.

use crate::{Flow, IpVersion, Kind, Packet, Verdict};

/// Where the interface leads on which the packet arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Connections may start here.
    Customer,
    /// Only answers are expected here.
    Internet,
}

/// What becomes of new connections while the agent does not listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutListener {
    Pass,
    Drop,
}

/// Where the kernel would route a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Forwarded,
    /// To this host, or nowhere: the kernel's own answer is the right one.
    LocalOrNone,
}

/// How a packet may reach the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    Syn,
    /// Only if the listener confirms that it acknowledges one of its SYN cookies.
    CookieAcknowledgement,
}

/// The outcome of giving a packet to the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerAssignment {
    Done,
    NoListener,
    /// The kernel said no.
    Refused,
    /// The packet acknowledges no cookie of ours.
    NoCookie,
}

/// What the decision needs to know of, and do on, the host.
pub trait Host {
    /// Whether mail from this address is intercepted.
    fn is_customer(&self, version: IpVersion, address: &[u32; 4]) -> bool;
    /// Gives the packet to the connection (not a listener) it belongs to, if there is one on this host.
    fn assign_connection(&self, flow: &Flow) -> bool;
    /// Whether packets of this flow belong to a connection of this host.
    fn has_connection(&self, flow: &Flow) -> bool;
    /// Whether this host is itself opening the connection of which this flow would be the answers.
    fn is_opening(&self, answers: &Flow) -> bool;
    fn route(&self, flow: &Flow) -> Route;
    /// Whether the new connection goes straight, for its pair of customer and destination is exempt. Counts it.
    fn is_exempt(&self, flow: &Flow) -> bool;
    /// Whether the operator has all new connections go straight for a while.
    fn is_released(&self) -> bool;
    /// Whether the agent lives and is not hung.
    fn is_alive(&self) -> bool;
    /// Whether the agent takes another new connection now; if so, it counts.
    fn admits(&self) -> bool;
    fn has_listener(&self) -> bool;
    fn assign_listener(&self, packet: &Packet, handshake: Handshake) -> ListenerAssignment;
}

/// Decides on one packet.
#[inline(always)]
pub fn decide<H: Host>(packet: &Packet, side: Side, without_listener: WithoutListener, host: &H) -> Verdict {
    match packet.kind {
        Kind::Segment => decide_segment(packet, side, without_listener, host),
        Kind::IcmpError if host.has_connection(&packet.flow) => Verdict::IcmpError,
        Kind::IcmpError | Kind::Unrelated => Verdict::Unrelated,
        Kind::Fragment | Kind::ShortFragment | Kind::ExtensionHeaders => {
            decide_evasion(packet, side, without_listener, host)
        }
    }
}

#[inline(always)]
fn decide_segment<H: Host>(
    packet: &Packet,
    side: Side,
    without_listener: WithoutListener,
    host: &H,
) -> Verdict {
    let flow = &packet.flow;
    if host.assign_connection(flow) {
        return Verdict::Established;
    }
    let opens = packet.opens() && flow.to_smtp();
    // Only while the connection is being opened: later, the customer himself may use the same ports.
    if opens && host.is_opening(&flow.reversed()) {
        return Verdict::LoopedBackDropped;
    }
    if side == Side::Internet || !flow.to_smtp() || !(opens || packet.acknowledges()) {
        return Verdict::NotOurs;
    }
    if !host.is_customer(flow.version, &flow.source) {
        return if opens { Verdict::OutsidePrefixes } else { Verdict::NotOurs };
    }
    if !opens {
        return match host.assign_listener(packet, Handshake::CookieAcknowledgement) {
            ListenerAssignment::Done => Verdict::SynCookie,
            ListenerAssignment::NoCookie | ListenerAssignment::NoListener | ListenerAssignment::Refused => {
                Verdict::NotOurs
            }
        };
    }
    if host.route(flow) == Route::LocalOrNone {
        return Verdict::LocalOrUnroutable;
    }
    // With or without a listener: the release ends by itself, not with the agent.
    if host.is_released() {
        return Verdict::Released;
    }
    // Without a listener as well: that a pair is exempt does not end with the agent.
    if host.is_exempt(flow) {
        return Verdict::Exempt;
    }
    if !host.is_alive() {
        return match (host.has_listener(), without_listener) {
            (false, WithoutListener::Pass) => Verdict::NoListenerPassed,
            (false, WithoutListener::Drop) => Verdict::NoListenerDropped,
            (true, WithoutListener::Pass) => Verdict::HungPassed,
            (true, WithoutListener::Drop) => Verdict::HungDropped,
        };
    }
    // Closed is closed: there the agent takes all.
    if without_listener == WithoutListener::Pass && !host.admits() {
        return Verdict::UnprovenPassed;
    }
    match (host.assign_listener(packet, Handshake::Syn), without_listener) {
        (ListenerAssignment::Done, _) => Verdict::NewConnection,
        (ListenerAssignment::NoListener, WithoutListener::Pass) => Verdict::NoListenerPassed,
        (ListenerAssignment::NoListener, WithoutListener::Drop) => Verdict::NoListenerDropped,
        (ListenerAssignment::Refused | ListenerAssignment::NoCookie, WithoutListener::Pass) => {
            Verdict::RefusedPassed
        }
        (ListenerAssignment::Refused | ListenerAssignment::NoCookie, WithoutListener::Drop) => {
            Verdict::RefusedDropped
        }
    }
}

/// Packets in which a SYN to port 25 could hide: passed on, they would reach the destination unjudged.
/// Where new connections are passed anyway there is nothing to evade.
#[inline(always)]
fn decide_evasion<H: Host>(
    packet: &Packet,
    side: Side,
    without_listener: WithoutListener,
    host: &H,
) -> Verdict {
    let intercepting = without_listener == WithoutListener::Drop || (host.has_listener() && host.is_alive());
    if side == Side::Internet
        || !host.is_customer(packet.flow.version, &packet.flow.source)
        || !intercepting
        || host.is_released()
    {
        return Verdict::Unrelated;
    }
    match packet.kind {
        Kind::Fragment => Verdict::FragmentDropped,
        Kind::ShortFragment => Verdict::ShortFragmentDropped,
        Kind::ExtensionHeaders => Verdict::ExtensionHeadersDropped,
        Kind::Unrelated | Kind::Segment | Kind::IcmpError => Verdict::Unrelated,
    }
}
