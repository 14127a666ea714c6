//! What becomes of a packet: one function over parsed headers and what the host says about them.

use crate::{Flow, IpVersion, Kind, Packet, Policy, Refusal, Verdict};

/// Where the interface leads on which the packet arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Connections may start here.
    Customer,
    /// Only answers are expected here.
    Internet,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Customer, Self::Internet];
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
    /// Which generation of the tables holds. Asked once for a packet, which then sees no other.
    fn generation(&self) -> u32;
    /// What is configured for this address; `None` for one that is no customer's.
    fn policy(&self, generation: u32, version: IpVersion, address: &[u32; 4]) -> Option<&Policy>;
    /// Whether the customer is blocked, and how. Counts it.
    fn is_blocked(&self, flow: &Flow) -> Option<Refusal>;
    /// Whether the customer's connections go straight for a while. Counts it.
    fn is_exempt_customer(&self, flow: &Flow) -> bool;
    /// Whether connections to this destination go straight, as configured or for a while. Counts the latter.
    fn is_exempt_destination(&self, generation: u32, flow: &Flow) -> bool;
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
    /// How many connections the source of the flow has.
    fn connections(&self, flow: &Flow) -> u32;
    /// Whether the policy has a token left for a new connection of the flow's source. Takes it.
    fn take_token(&self, policy: &Policy, flow: &Flow) -> bool;
    fn assign_listener(&self, packet: &Packet, handshake: Handshake) -> ListenerAssignment;
}

/// Decides on one packet.
#[inline(always)]
pub fn decide<H: Host>(packet: &Packet, side: Side, without_listener: WithoutListener, host: &H) -> Verdict {
    match packet.kind {
        Kind::Segment => decide_segment(packet, side, without_listener, host),
        Kind::IcmpError if host.has_connection(&packet.flow) => Verdict::IcmpError,
        Kind::Fragment | Kind::ShortFragment | Kind::ExtensionHeaders => {
            decide_evasion(packet, side, without_listener, host)
        }
        // Nobody sends them; and where whoever sends it cannot be seen, it may be a customer.
        Kind::NestedTags if side == Side::Customer && is_intercepting(without_listener, host) => {
            Verdict::NestedTagsDropped
        }
        Kind::NestedTags | Kind::IcmpError | Kind::Unrelated => Verdict::Unrelated,
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
    let generation = host.generation();
    let Some(policy) = host.policy(generation, flow.version, &flow.source) else {
        return if opens { Verdict::OutsidePrefixes } else { Verdict::NotOurs };
    };
    if !opens {
        return match host.assign_listener(packet, Handshake::CookieAcknowledgement) {
            ListenerAssignment::Done => Verdict::SynCookie,
            ListenerAssignment::NoCookie | ListenerAssignment::NoListener | ListenerAssignment::Refused => {
                Verdict::NotOurs
            }
        };
    }
    if host.route(flow) == Route::LocalOrNone {
        // From here it could go on to a destination: the kernel looks at options after the program.
        let hides = packet.may_go_on && is_intercepting(without_listener, host);
        return if hides { Verdict::SourceRouteDropped } else { Verdict::LocalOrUnroutable };
    }
    // With or without a listener, and whatever else is said of him: that somebody is blocked does not end with the
    // agent, nor with a release.
    if let Some(refusal) = host.is_blocked(flow) {
        return decide_blocked(packet, refusal, host);
    }
    if let Some(straight) = decide_straight(flow, generation, policy, host) {
        return straight;
    }
    decide_interception(packet, policy, without_listener, host)
}

/// What becomes of a blocked customer's new connection. His tokens are those of the limits, which are not looked at while he is
/// blocked.
#[inline(always)]
fn decide_blocked<H: Host>(packet: &Packet, refusal: Refusal, host: &H) -> Verdict {
    match refusal {
        Refusal::Drop => Verdict::BlockedDropped,
        Refusal::Reset => Verdict::BlockedReset,
        Refusal::Tell => {
            if !host.is_alive() || !host.take_token(&Policy::TOLD, &packet.flow) {
                return Verdict::BlockedDropped;
            }
            match host.assign_listener(packet, Handshake::Syn) {
                ListenerAssignment::Done => Verdict::BlockedTold,
                ListenerAssignment::NoListener
                | ListenerAssignment::Refused
                | ListenerAssignment::NoCookie => Verdict::BlockedDropped,
            }
        }
    }
}

/// What becomes of a customer's new connection that is to be intercepted.
#[inline(always)]
fn decide_interception<H: Host>(
    packet: &Packet,
    policy: &Policy,
    without_listener: WithoutListener,
    host: &H,
) -> Verdict {
    let flow = &packet.flow;
    if !host.is_alive() {
        return match (host.has_listener(), without_listener) {
            (false, WithoutListener::Pass) => Verdict::NoListenerPassed,
            (false, WithoutListener::Drop) => Verdict::NoListenerDropped,
            (true, WithoutListener::Pass) => Verdict::HungPassed,
            (true, WithoutListener::Drop) => Verdict::HungDropped,
        };
    }
    // They are there to protect the agent, and nobody else.
    if policy.has_limits() && host.has_listener() {
        let resets = policy.resets();
        if !policy.allows(host.connections(flow)) {
            return if resets { Verdict::TooManyReset } else { Verdict::TooManyDropped };
        }
        if policy.limits_rate() && !host.take_token(policy, flow) {
            return if resets { Verdict::TooFastReset } else { Verdict::TooFastDropped };
        }
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

/// Whether a customer's new connection goes straight. Without a listener as well: none of the reasons ends with the
/// agent.
#[inline(always)]
fn decide_straight<H: Host>(flow: &Flow, generation: u32, policy: &Policy, host: &H) -> Option<Verdict> {
    if host.is_released() {
        return Some(Verdict::Released);
    }
    if policy.is_exempt() || host.is_exempt_customer(flow) {
        return Some(Verdict::ExemptCustomer);
    }
    if host.is_exempt_destination(generation, flow) {
        return Some(Verdict::ExemptDestination);
    }
    if host.is_exempt(flow) { Some(Verdict::Exempt) } else { None }
}

/// Packets in which a SYN to port 25 could hide: passed on, they would reach the destination unjudged, or in spite of
/// a block. Where new connections are passed anyway there is nothing to evade.
#[inline(always)]
fn decide_evasion<H: Host>(
    packet: &Packet,
    side: Side,
    without_listener: WithoutListener,
    host: &H,
) -> Verdict {
    let flow = &packet.flow;
    if side == Side::Internet {
        return Verdict::Unrelated;
    }
    let generation = host.generation();
    let Some(policy) = host.policy(generation, flow.version, &flow.source) else {
        return Verdict::Unrelated;
    };
    if host.is_blocked(flow).is_none()
        && (!is_intercepting(without_listener, host)
            || policy.is_exempt()
            || host.is_exempt_customer(flow)
            || host.is_exempt_destination(generation, flow))
    {
        return Verdict::Unrelated;
    }
    match packet.kind {
        Kind::Fragment => Verdict::FragmentDropped,
        Kind::ShortFragment => Verdict::ShortFragmentDropped,
        Kind::ExtensionHeaders => Verdict::ExtensionHeadersDropped,
        Kind::Unrelated | Kind::Segment | Kind::IcmpError | Kind::NestedTags => Verdict::Unrelated,
    }
}

/// Whether new connections do not just go straight: then there is something to evade.
#[inline(always)]
fn is_intercepting<H: Host>(without_listener: WithoutListener, host: &H) -> bool {
    (without_listener == WithoutListener::Drop || (host.has_listener() && host.is_alive()))
        && !host.is_released()
}
