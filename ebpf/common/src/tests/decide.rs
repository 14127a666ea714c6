//! Verdicts, for every state of the host that makes a difference.

use super::packets::*;
use crate::{
    Flow, Handshake, Host, IpVersion, ListenerAssignment, Packet, Route, Side, Verdict, WithoutListener,
    decide, is_released, parse,
};

/// What the kernel would say.
#[derive(Clone, Copy)]
struct Kernel {
    customer: bool,
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
    fn is_customer(&self, _: IpVersion, _: &[u32; 4]) -> bool {
        self.customer
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
    let fragment = Packet { kind: crate::Kind::Fragment, ..syn };
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
