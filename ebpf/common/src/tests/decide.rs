//! Verdicts, for every state of the host that makes a difference.

use super::packets::*;
use crate::{
    Action, Flow, Handshake, Host, IpVersion, Kind, ListenerAssignment, Packet, Policy, Refusal, Route, Side,
    Verdict, WithoutListener, decide, is_released, parse,
};

const GENERATION: u32 = 7;

/// What the kernel would say.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    customer: bool,
    policy: Policy,
    blocked: Option<Refusal>,
    exempt_customer: bool,
    exempt_destination: bool,
    connections: u32,
    token: bool,
    connection: bool,
    opening: bool,
    route: Route,
    exempt: bool,
    released: bool,
    alive: bool,
    admits: bool,
    listener: ListenerAssignment,
    cookie: bool,
}

const KERNEL: Kernel = Kernel {
    customer: true,
    policy: Policy::STEERED,
    blocked: None,
    exempt_customer: false,
    exempt_destination: false,
    connections: 0,
    token: true,
    connection: false,
    opening: false,
    route: Route::Forwarded,
    exempt: false,
    released: false,
    alive: true,
    admits: true,
    listener: ListenerAssignment::Done,
    cookie: false,
};

impl Host for Kernel {
    fn generation(&self) -> u32 {
        GENERATION
    }
    fn policy(&self, generation: u32, _: IpVersion, _: &[u32; 4]) -> Option<&Policy> {
        assert_eq!(generation, GENERATION);
        self.customer.then_some(&self.policy)
    }
    fn is_blocked(&self, _: &Flow) -> Option<Refusal> {
        self.blocked
    }
    fn is_exempt_customer(&self, _: &Flow) -> bool {
        self.exempt_customer
    }
    fn is_exempt_destination(&self, generation: u32, _: &Flow) -> bool {
        assert_eq!(generation, GENERATION);
        self.exempt_destination
    }
    fn connections(&self, _: &Flow) -> u32 {
        self.connections
    }
    fn take_token(&self, _: &Policy, _: &Flow) -> bool {
        self.token
    }
    fn assign_connection(&self, _: &Flow) -> bool {
        self.connection
    }
    fn has_connection(&self, _: &Flow) -> bool {
        self.connection
    }
    fn is_opening(&self, _: &Flow) -> bool {
        self.opening
    }
    fn route(&self, _: &Flow) -> Route {
        self.route
    }
    fn is_exempt(&self, _: &Flow) -> bool {
        self.exempt
    }
    fn is_released(&self) -> bool {
        self.released
    }
    fn is_alive(&self) -> bool {
        self.alive
    }
    fn admits(&self) -> bool {
        self.admits
    }
    fn has_listener(&self) -> bool {
        self.listener != ListenerAssignment::NoListener
    }
    fn assign_listener(&self, _: &Packet, handshake: Handshake) -> ListenerAssignment {
        match handshake {
            Handshake::Syn => self.listener,
            Handshake::CookieAcknowledgement if self.cookie => self.listener,
            Handshake::CookieAcknowledgement => ListenerAssignment::NoCookie,
        }
    }
}

fn segment(source: u16, destination: u16, flags: u8) -> Packet {
    parse(&v4(CUSTOMER_V4, SERVER_V4, 6, 0, &tcp(source, destination, flags)), IpVersion::V4)
}

fn on(side: Side, packet: &Packet, kernel: Kernel) -> [Verdict; 2] {
    [WithoutListener::Pass, WithoutListener::Drop].map(|policy| decide(packet, side, policy, &kernel))
}

fn from_customer(packet: &Packet, kernel: Kernel) -> [Verdict; 2] {
    on(Side::Customer, packet, kernel)
}

#[test]
fn new_connections() {
    let syn = segment(40_000, 25, SYN);
    let given = |listener| Kernel { listener, ..KERNEL };
    assert_eq!(from_customer(&syn, KERNEL), [Verdict::NewConnection; 2]);
    assert_eq!(
        from_customer(&syn, given(ListenerAssignment::NoListener)),
        [Verdict::NoListenerPassed, Verdict::NoListenerDropped]
    );
    assert_eq!(
        from_customer(&syn, given(ListenerAssignment::Refused)),
        [Verdict::RefusedPassed, Verdict::RefusedDropped]
    );
    assert_eq!(from_customer(&syn, Kernel { customer: false, ..KERNEL }), [Verdict::OutsidePrefixes; 2]);
    let local = Kernel { route: Route::LocalOrNone, ..KERNEL };
    assert_eq!(from_customer(&syn, local), [Verdict::LocalOrUnroutable; 2]);
    assert_eq!(on(Side::Internet, &syn, KERNEL), [Verdict::NotOurs; 2]);
    // Towards a customer's port from port 25: the other direction.
    assert_eq!(from_customer(&segment(25, 40_000, SYN), KERNEL), [Verdict::NotOurs; 2]);
}

#[test]
fn exempt_pairs() {
    let syn = segment(40_000, 25, SYN);
    let exempt = Kernel { exempt: true, ..KERNEL };
    assert_eq!(from_customer(&syn, exempt), [Verdict::Exempt; 2]);
    // Not even in `closed`, with the agent dead.
    let gone = Kernel { listener: ListenerAssignment::NoListener, ..exempt };
    assert_eq!(from_customer(&syn, gone), [Verdict::Exempt; 2]);
    // What the agent has, it keeps; what has gone straight goes on as it does without an exemption.
    assert_eq!(from_customer(&syn, Kernel { connection: true, ..exempt }), [Verdict::Established; 2]);
    for flags in [ACK, RST] {
        let later = segment(40_000, 25, flags);
        assert_eq!(from_customer(&later, exempt), from_customer(&later, KERNEL));
        assert_eq!(from_customer(&later, exempt), [Verdict::NotOurs; 2]);
    }
    // It is no leave to go elsewhere than through this host, or for what is no customer's.
    let local = Kernel { route: Route::LocalOrNone, ..exempt };
    assert_eq!(from_customer(&syn, local), [Verdict::LocalOrUnroutable; 2]);
    assert_eq!(from_customer(&syn, Kernel { customer: false, ..exempt }), [Verdict::OutsidePrefixes; 2]);
    assert_eq!(from_customer(&syn, Kernel { opening: true, ..exempt }), [Verdict::LoopedBackDropped; 2]);
    assert_eq!(on(Side::Internet, &syn, exempt), [Verdict::NotOurs; 2]);
}

#[test]
fn released() {
    let syn = segment(40_000, 25, SYN);
    let released = Kernel { released: true, ..KERNEL };
    for listener in [ListenerAssignment::Done, ListenerAssignment::NoListener, ListenerAssignment::Refused] {
        for exempt in [false, true] {
            let kernel = Kernel { listener, exempt, ..released };
            assert_eq!(from_customer(&syn, kernel), [Verdict::Released; 2]);
        }
    }
    // What the agent has, it keeps, also a handshake that it answered with a cookie.
    assert_eq!(from_customer(&syn, Kernel { connection: true, ..released }), [Verdict::Established; 2]);
    let ack = segment(40_000, 25, ACK);
    assert_eq!(from_customer(&ack, Kernel { connection: true, ..released }), [Verdict::Established; 2]);
    assert_eq!(from_customer(&ack, Kernel { cookie: true, ..released }), [Verdict::SynCookie; 2]);
    assert_eq!(from_customer(&ack, released), [Verdict::NotOurs; 2]);
    // Nobody else is touched.
    assert_eq!(from_customer(&syn, Kernel { customer: false, ..released }), [Verdict::OutsidePrefixes; 2]);
    let local = Kernel { route: Route::LocalOrNone, ..released };
    assert_eq!(from_customer(&syn, local), [Verdict::LocalOrUnroutable; 2]);
    assert_eq!(from_customer(&syn, Kernel { opening: true, ..released }), [Verdict::LoopedBackDropped; 2]);
    assert_eq!(on(Side::Internet, &syn, released), [Verdict::NotOurs; 2]);
}

#[test]
fn a_release_ends_in_its_last_second() {
    for (until, now, lasts) in
        [(0, 0, false), (0, 7, false), (8, 7, true), (8, 8, false), (8, u32::MAX, false)]
    {
        assert_eq!(is_released(until, now), lasts, "{until} at {now}");
    }
}

/// To the gateway itself, from where the packet may be told to go on.
#[test]
fn source_routes() {
    let plain = segment(40_000, 25, SYN);
    let routed = Packet { may_go_on: true, ..plain };
    let local = Kernel { route: Route::LocalOrNone, ..KERNEL };
    assert_eq!(from_customer(&plain, local), [Verdict::LocalOrUnroutable; 2]);
    assert_eq!(from_customer(&routed, local), [Verdict::SourceRouteDropped; 2]);
    // It goes where it is addressed to, and that is the agent.
    assert_eq!(from_customer(&routed, KERNEL), [Verdict::NewConnection; 2]);
    let stranger = Kernel { customer: false, ..local };
    assert_eq!(from_customer(&routed, stranger), [Verdict::OutsidePrefixes; 2]);
    let gone = Kernel { listener: ListenerAssignment::NoListener, ..local };
    assert_eq!(from_customer(&routed, gone), [Verdict::LocalOrUnroutable, Verdict::SourceRouteDropped]);
}

#[test]
fn our_own_syn_sent_back() {
    let syn = segment(20_000, 25, SYN);
    let opening = Kernel { opening: true, ..KERNEL };
    for side in [Side::Customer, Side::Internet] {
        assert_eq!(on(side, &syn, opening), [Verdict::LoopedBackDropped; 2]);
    }
    assert_eq!(on(Side::Internet, &segment(25, 20_000, SYN | ACK), opening), [Verdict::NotOurs; 2]);
}

#[test]
fn connections_of_the_agent() {
    let connected = Kernel { connection: true, ..KERNEL };
    for (source, destination, flags) in [(40_000, 25, ACK), (25, 20_000, SYN | ACK), (25, 20_000, RST)] {
        for side in [Side::Customer, Side::Internet] {
            assert_eq!(on(side, &segment(source, destination, flags), connected), [Verdict::Established; 2]);
        }
    }
}

#[test]
fn connections_older_than_the_agent() {
    for (source, destination, flags) in [(40_000, 25, ACK), (40_000, 25, RST), (25, 40_000, ACK)] {
        for customer in [true, false] {
            let kernel = Kernel { customer, ..KERNEL };
            assert_eq!(from_customer(&segment(source, destination, flags), kernel), [Verdict::NotOurs; 2]);
        }
    }
}

#[test]
fn syn_cookies() {
    let ack = segment(40_000, 25, ACK);
    let cookie = Kernel { cookie: true, ..KERNEL };
    assert_eq!(from_customer(&ack, cookie), [Verdict::SynCookie; 2]);
    assert_eq!(on(Side::Internet, &ack, cookie), [Verdict::NotOurs; 2]);
    assert_eq!(from_customer(&ack, Kernel { customer: false, ..cookie }), [Verdict::NotOurs; 2]);
    let gone = Kernel { listener: ListenerAssignment::NoListener, ..cookie };
    assert_eq!(from_customer(&ack, gone), [Verdict::NotOurs; 2]);
}

#[test]
fn ways_around() {
    let gone = Kernel { listener: ListenerAssignment::NoListener, ..KERNEL };
    let headers = (0..8).fold(tcp(40_000, 25, SYN), |payload, _| extension(60, &payload));
    for (packet, dropped) in [
        (
            parse(&v4(CUSTOMER_V4, SERVER_V4, 6, 0x2000, &tcp(1, 25, SYN)), IpVersion::V4),
            Verdict::FragmentDropped,
        ),
        (parse(&v4(CUSTOMER_V4, SERVER_V4, 6, 0x2000, &[]), IpVersion::V4), Verdict::ShortFragmentDropped),
        (parse(&v6(CUSTOMER_V6, SERVER_V6, 60, &headers), IpVersion::V6), Verdict::ExtensionHeadersDropped),
    ] {
        assert_eq!(from_customer(&packet, KERNEL), [dropped; 2]);
        // Where new connections pass there is nothing to evade.
        assert_eq!(from_customer(&packet, gone), [Verdict::Unrelated, dropped]);
        assert_eq!(from_customer(&packet, Kernel { released: true, ..KERNEL }), [Verdict::Unrelated; 2]);
        assert_eq!(on(Side::Internet, &packet, KERNEL), [Verdict::Unrelated; 2]);
        assert_eq!(from_customer(&packet, Kernel { customer: false, ..KERNEL }), [Verdict::Unrelated; 2]);
    }
}

#[test]
fn icmp_errors() {
    let sent = v4(CUSTOMER_V4, SERVER_V4, 6, 0, &tcp(20_000, 25, ACK));
    let packet = parse(&v4(SERVER_V4, CUSTOMER_V4, 1, 0, &icmp(3, &sent)), IpVersion::V4);
    let connected = Kernel { connection: true, ..KERNEL };
    for side in [Side::Customer, Side::Internet] {
        assert_eq!(on(side, &packet, connected), [Verdict::IcmpError; 2]);
        assert_eq!(on(side, &packet, KERNEL), [Verdict::Unrelated; 2]);
    }
}

#[test]
fn a_hung_agent_is_as_a_dead_one() {
    let hung = Kernel { alive: false, ..KERNEL };
    let syn = segment(40_000, 25, SYN);
    assert_eq!(from_customer(&syn, hung), [Verdict::HungPassed, Verdict::HungDropped]);
    assert_eq!(
        from_customer(&syn, Kernel { listener: ListenerAssignment::NoListener, ..hung }),
        [Verdict::NoListenerPassed, Verdict::NoListenerDropped]
    );
    // What it has, it keeps, and what is exempt or released goes straight.
    assert_eq!(from_customer(&syn, Kernel { connection: true, ..hung }), [Verdict::Established; 2]);
    assert_eq!(from_customer(&syn, Kernel { exempt: true, ..hung }), [Verdict::Exempt; 2]);
    assert_eq!(from_customer(&syn, Kernel { released: true, ..hung }), [Verdict::Released; 2]);
    let fragment = Packet { kind: Kind::Fragment, ..syn };
    assert_eq!(from_customer(&fragment, hung), [Verdict::Unrelated, Verdict::FragmentDropped]);
}

#[test]
fn while_no_answers_come_back_only_some_are_taken() {
    let unproven = Kernel { admits: false, ..KERNEL };
    let syn = segment(40_000, 25, SYN);
    // Closed is closed.
    assert_eq!(from_customer(&syn, unproven), [Verdict::UnprovenPassed, Verdict::NewConnection]);
    assert_eq!(from_customer(&syn, Kernel { connection: true, ..unproven }), [Verdict::Established; 2]);
}

#[test]
fn a_heart_that_was_silent_too_long_has_stopped() {
    let second = 1_000_000_000;
    assert!(crate::is_alive(5 * second, 5 * second) && crate::is_alive(5 * second, 5 * second + 499_999_999));
    assert!(!crate::is_alive(5 * second, 5 * second + 500_000_000) && !crate::is_alive(0, 5 * second));
    // The beat of another processor, a moment later than this one's look at the clock.
    assert!(crate::is_alive(5 * second + 1, 5 * second));
}

#[test]
fn a_blocked_customer_is_told_by_the_agent_if_there_is_one_and_not_too_often() {
    let syn = segment(40_000, 25, SYN);
    let blocked = Kernel { blocked: Some(Refusal::Tell), token: true, ..KERNEL };
    assert_eq!(from_customer(&syn, blocked), [Verdict::BlockedTold; 2]);
    for other in [
        Kernel { token: false, ..blocked },
        Kernel { alive: false, ..blocked },
        Kernel { listener: ListenerAssignment::NoListener, ..blocked },
        Kernel { listener: ListenerAssignment::Refused, ..blocked },
    ] {
        assert_eq!(from_customer(&syn, other), [Verdict::BlockedDropped; 2]);
    }
}

/// One a second, whatever bucket an earlier policy has left.
#[test]
fn tokens_of_a_blocked_customer() {
    let (second, mut full) = (1_000_000_000, 0);
    let mut take = |now| Policy::TOLD.take_token(&mut full, now);
    assert!(take(10 * second) && !take(10 * second + 1) && !take(11 * second - 1) && take(11 * second));
}

#[test]
fn blocked_customers() {
    let syn = segment(40_000, 25, SYN);
    for (refusal, verdict) in
        [(Refusal::Drop, Verdict::BlockedDropped), (Refusal::Reset, Verdict::BlockedReset)]
    {
        let blocked = Kernel { blocked: Some(refusal), ..KERNEL };
        // Whatever else is said of him, and also with the agent dead in `open`.
        for listener in
            [ListenerAssignment::Done, ListenerAssignment::NoListener, ListenerAssignment::Refused]
        {
            let more = Kernel {
                listener,
                released: true,
                exempt: true,
                exempt_customer: true,
                exempt_destination: true,
                policy: Policy::EXEMPT,
                ..blocked
            };
            assert_eq!(from_customer(&syn, Kernel { listener, ..blocked }), [verdict; 2]);
            assert_eq!(from_customer(&syn, Kernel { listener, alive: false, ..blocked }), [verdict; 2]);
            assert_eq!(from_customer(&syn, more), [verdict; 2]);
            // Nor in fragments.
            let fragment = parse(&v4(CUSTOMER_V4, SERVER_V4, 6, 0x2000, &tcp(1, 25, SYN)), IpVersion::V4);
            assert_eq!(from_customer(&fragment, more), [Verdict::FragmentDropped; 2]);
        }
        // What he has, he keeps; what is not on its way through this host is not refused.
        assert_eq!(from_customer(&syn, Kernel { connection: true, ..blocked }), [Verdict::Established; 2]);
        assert_eq!(from_customer(&segment(40_000, 25, ACK), blocked), [Verdict::NotOurs; 2]);
        let local = Kernel { route: Route::LocalOrNone, ..blocked };
        assert_eq!(from_customer(&syn, local), [Verdict::LocalOrUnroutable; 2]);
        assert_eq!(from_customer(&syn, Kernel { customer: false, ..blocked }), [Verdict::OutsidePrefixes; 2]);
        assert_eq!(on(Side::Internet, &syn, blocked), [Verdict::NotOurs; 2]);
    }
}

#[test]
fn exempt_customers_and_destinations() {
    let syn = segment(40_000, 25, SYN);
    let fragment = parse(&v4(CUSTOMER_V4, SERVER_V4, 6, 0x2000, &tcp(1, 25, SYN)), IpVersion::V4);
    for (kernel, verdict) in [
        (Kernel { policy: Policy::EXEMPT, ..KERNEL }, Verdict::ExemptCustomer),
        (Kernel { exempt_customer: true, ..KERNEL }, Verdict::ExemptCustomer),
        (Kernel { exempt_destination: true, ..KERNEL }, Verdict::ExemptDestination),
    ] {
        for listener in
            [ListenerAssignment::Done, ListenerAssignment::NoListener, ListenerAssignment::Refused]
        {
            assert_eq!(from_customer(&syn, Kernel { listener, ..kernel }), [verdict; 2]);
            // They may send as they like.
            assert_eq!(from_customer(&fragment, Kernel { listener, ..kernel }), [Verdict::Unrelated; 2]);
        }
    }
}

#[test]
fn limits() {
    let syn = segment(40_000, 25, SYN);
    for (resets, many, fast) in [
        (false, Verdict::TooManyDropped, Verdict::TooFastDropped),
        (true, Verdict::TooManyReset, Verdict::TooFastReset),
    ] {
        let few = Kernel { policy: Policy::limited(3, 0, 1, resets), ..KERNEL };
        for (connections, verdict) in
            [(0, Verdict::NewConnection), (2, Verdict::NewConnection), (3, many), (4, many)]
        {
            assert_eq!(from_customer(&syn, Kernel { connections, ..few }), [verdict; 2]);
        }
        let slow = Kernel { policy: Policy::limited(0, 5, 1, resets), connections: 1000, ..KERNEL };
        assert_eq!(from_customer(&syn, slow), [Verdict::NewConnection; 2]);
        let beyond = Kernel { token: false, ..slow };
        assert_eq!(from_customer(&syn, beyond), [fast; 2]);
        // They protect the agent, where there is one.
        for kernel in [beyond, Kernel { connections: 3, ..few }] {
            let gone = Kernel { listener: ListenerAssignment::NoListener, ..kernel };
            assert_eq!(from_customer(&syn, gone), [Verdict::NoListenerPassed, Verdict::NoListenerDropped]);
            let hung = Kernel { alive: false, ..kernel };
            assert_eq!(from_customer(&syn, hung), [Verdict::HungPassed, Verdict::HungDropped]);
            // Who is beyond them takes no other's place among the few that are tried.
            let unproven = Kernel { admits: false, ..kernel };
            assert_eq!(from_customer(&syn, unproven), from_customer(&syn, kernel));
            assert_eq!(from_customer(&syn, Kernel { released: true, ..kernel }), [Verdict::Released; 2]);
            assert_eq!(from_customer(&syn, Kernel { exempt: true, ..kernel }), [Verdict::Exempt; 2]);
            assert_eq!(from_customer(&syn, Kernel { connection: true, ..kernel }), [Verdict::Established; 2]);
        }
    }
    let unlimited = Kernel { token: false, connections: u32::MAX, ..KERNEL };
    assert_eq!(from_customer(&syn, unlimited), [Verdict::NewConnection; 2]);
}

/// Every kind of packet on every side with every answer of the host: what must hold for all of them.
#[test]
fn everywhere() {
    let mut packets: std::vec::Vec<Packet> = [SYN, ACK, RST, SYN | ACK]
        .into_iter()
        .flat_map(|flags| [segment(40_000, 25, flags), segment(25, 40_000, flags)])
        .collect();
    packets.push(Packet { may_go_on: true, ..packets[0] });
    for kind in [
        Kind::Unrelated,
        Kind::IcmpError,
        Kind::Fragment,
        Kind::ShortFragment,
        Kind::ExtensionHeaders,
        Kind::NestedTags,
    ] {
        packets.push(Packet { kind, ..packets[0] });
    }
    let mut seen = std::collections::HashSet::new();
    let mut count = 0;
    for kernel in kernels() {
        for packet in &packets {
            for side in [Side::Customer, Side::Internet] {
                for policy in [WithoutListener::Pass, WithoutListener::Drop] {
                    let verdict = decide(packet, side, policy, &kernel);
                    assert_holds(packet, side, policy, &kernel, verdict);
                    seen.insert(verdict.name());
                    count += 1;
                }
            }
        }
    }
    assert!(count > 1_000_000, "{count}");
    assert_eq!(seen.len(), Verdict::ALL.len(), "a verdict that never comes: {seen:?}");
}

fn kernels() -> impl Iterator<Item = Kernel> {
    const LISTENERS: [ListenerAssignment; 4] = [
        ListenerAssignment::Done,
        ListenerAssignment::NoListener,
        ListenerAssignment::Refused,
        ListenerAssignment::NoCookie,
    ];
    const POLICIES: [Policy; 4] =
        [Policy::STEERED, Policy::EXEMPT, Policy::limited(1, 1, 1, false), Policy::limited(1, 1, 1, true)];
    // The last bit is one more way to be blocked.
    (0u32..1 << 12).filter(|bits| bits >> 11 == 0 || bits & 3 == 3).flat_map(|bits| {
        let bit = |index: u32| bits >> index & 1 == 1;
        let blocked = match (bit(0), bit(1), bit(11)) {
            (false, ..) => None,
            (true, false, _) => Some(Refusal::Drop),
            (true, true, false) => Some(Refusal::Reset),
            (true, true, true) => Some(Refusal::Tell),
        };
        let kernel = Kernel {
            blocked,
            // Where nobody is blocked the second bit is free.
            cookie: !bit(0) && bit(1),
            customer: bit(2),
            connection: bit(3),
            opening: bit(4),
            route: if bit(5) { Route::LocalOrNone } else { Route::Forwarded },
            exempt: bit(6),
            released: bit(7),
            exempt_customer: bit(8),
            exempt_destination: bit(9),
            connections: u32::from(bit(10)),
            ..KERNEL
        };
        LISTENERS.into_iter().flat_map(move |listener| {
            POLICIES.into_iter().flat_map(move |policy| {
                [(true, true, true), (true, true, false), (true, false, true), (false, true, true)]
                    .map(|(token, alive, admits)| Kernel { listener, policy, token, alive, admits, ..kernel })
            })
        })
    })
}

#[track_caller]
fn assert_holds(packet: &Packet, side: Side, policy: WithoutListener, kernel: &Kernel, verdict: Verdict) {
    let why = || std::format!("{verdict:?} for {packet:?} on {side:?}, {policy:?}, {kernel:?}");
    let action = verdict.action();
    let is_segment = packet.kind == Kind::Segment;
    let opens = is_segment && packet.opens() && packet.flow.to_smtp();
    let (straight, refused) = (action == Action::Pass, matches!(action, Action::Drop | Action::Reset));
    // What the agent has it keeps, and of what is not on a customer's side nothing but a loop is touched.
    if is_segment && kernel.connection {
        assert_eq!(verdict, Verdict::Established, "{}", why());
        return;
    }
    // Who sent it is not known.
    if packet.kind == Kind::NestedTags {
        let intercepting = policy == WithoutListener::Drop
            || (kernel.listener != ListenerAssignment::NoListener && kernel.alive);
        let drops = side == Side::Customer && intercepting && !kernel.released;
        assert_eq!(verdict == Verdict::NestedTagsDropped, drops, "{}", why());
        assert_eq!(straight, !drops, "{}", why());
        return;
    }
    if side == Side::Internet || !kernel.customer {
        assert!(
            straight || verdict == Verdict::LoopedBackDropped || verdict == Verdict::IcmpError,
            "{}",
            why()
        );
        return;
    }
    // Only what opens a connection is refused, and only that is answered.
    let hides = matches!(packet.kind, Kind::Fragment | Kind::ShortFragment | Kind::ExtensionHeaders);
    assert!(!refused || opens || hides, "{}", why());
    assert!(action != Action::Reset || opens, "{}", why());
    let on_its_way = opens && !kernel.opening && kernel.route == Route::Forwarded;
    if let Some(refusal) = kernel.blocked
        && (on_its_way || hides)
    {
        let there = kernel.alive && kernel.listener == ListenerAssignment::Done;
        let told = refusal == Refusal::Tell && on_its_way && there && kernel.token;
        assert_eq!(verdict == Verdict::BlockedTold, told, "{}", why());
        assert!(refused || told, "{}", why());
    }
    if !on_its_way || kernel.blocked.is_some() {
        return;
    }
    let exempt = kernel.exempt
        || kernel.exempt_customer
        || kernel.exempt_destination
        || kernel.policy.is_exempt()
        || kernel.released;
    if exempt {
        assert!(straight, "{}", why());
        return;
    }
    // Nobody else goes past a living agent to which answers come back, nor in `closed` past a dead one.
    let dead_or_deaf = matches!(
        kernel.listener,
        ListenerAssignment::NoListener | ListenerAssignment::Refused | ListenerAssignment::NoCookie
    );
    assert!(
        !straight || (policy == WithoutListener::Pass && (dead_or_deaf || !kernel.alive || !kernel.admits)),
        "{}",
        why()
    );
    // A limit never refuses anybody who could not have been taken.
    let beyond = kernel.policy.has_limits() && (kernel.connections >= 1 || !kernel.token);
    let limited = matches!(
        verdict,
        Verdict::TooManyDropped | Verdict::TooManyReset | Verdict::TooFastDropped | Verdict::TooFastReset
    );
    let there = kernel.alive && kernel.listener != ListenerAssignment::NoListener;
    assert_eq!(limited, beyond && there, "{}", why());
}
