//! The verdicts on packets, each with its counter.

/// What became of a packet. The number is its index in the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// Nothing of ours: not TCP port 25, nor an ICMP error about it.
    Unrelated = 0,
    /// Port 25, but no new connection and no socket of the gateway's: older than the agent, or somebody else's.
    NotOurs = 1,
    /// Belongs to a connection of the agent's.
    Established = 2,
    /// ICMP error about a connection of the agent's.
    IcmpError = 3,
    /// A customer's new connection, given to the listener.
    NewConnection = 4,
    /// The last packet of a handshake answered with a SYN cookie, given to the listener.
    SynCookie = 5,
    /// New connection from an address that is no customer's.
    OutsidePrefixes = 6,
    /// New connection of a customer to the gateway itself, or to where there is no route.
    LocalOrUnroutable = 7,
    /// New connection of a customer while there was no listener: passed (`open`).
    NoListenerPassed = 8,
    /// New connection of a customer while there was no listener: dropped (`closed`).
    NoListenerDropped = 9,
    /// The kernel refused to give the connection to the listener: passed (`open`).
    RefusedPassed = 10,
    /// The kernel refused to give the connection to the listener: dropped (`closed`).
    RefusedDropped = 11,
    /// A customer's first fragment with a TCP header to port 25.
    FragmentDropped = 12,
    /// A customer's first fragment too short to show its ports (RFC 1858, RFC 7112).
    ShortFragmentDropped = 13,
    /// A customer's packet behind more IPv6 extension headers than are walked.
    ExtensionHeadersDropped = 14,
    /// Our own SYN to a destination, sent back by a router that redirects port 25.
    LoopedBackDropped = 15,
    /// New connection of an exempt pair of customer and destination: it goes straight.
    Exempt = 16,
    /// New connection of a customer while the operator has released them all: it goes straight.
    Released = 17,
    /// New connection of a customer while the agent was hung: passed (`open`).
    HungPassed = 18,
    /// New connection of a customer while the agent was hung: dropped (`closed`).
    HungDropped = 19,
    /// New connection of a customer while no answers came back from the internet: passed (`open`).
    UnprovenPassed = 20,
    /// New connection of an exempt customer: it goes straight.
    ExemptCustomer = 21,
    /// New connection to an exempt destination: it goes straight.
    ExemptDestination = 22,
    /// New connection of a blocked customer, dropped.
    BlockedDropped = 23,
    /// New connection of a blocked customer, answered with a reset.
    BlockedReset = 24,
    /// New connection of a source that has as many as it may, dropped.
    TooManyDropped = 25,
    /// New connection of a source that has as many as it may, answered with a reset.
    TooManyReset = 26,
    /// New connection of a source that opens them faster than it may, dropped.
    TooFastDropped = 27,
    /// New connection of a source that opens them faster than it may, answered with a reset.
    TooFastReset = 28,
    /// A customer's frame behind two priority tags: whatever is in it, the kernel takes it, and the program is not shown.
    NestedTagsDropped = 29,
    /// New connection of a customer to the gateway itself, with IP options or a routing header: it may be told to go on.
    SourceRouteDropped = 30,
    /// New connection of a blocked customer, given to the listener so that he is told why.
    BlockedTold = 31,
}

impl Verdict {
    /// Every verdict, in the order of their numbers.
    pub const ALL: [Self; 32] = [
        Self::Unrelated,
        Self::NotOurs,
        Self::Established,
        Self::IcmpError,
        Self::NewConnection,
        Self::SynCookie,
        Self::OutsidePrefixes,
        Self::LocalOrUnroutable,
        Self::NoListenerPassed,
        Self::NoListenerDropped,
        Self::RefusedPassed,
        Self::RefusedDropped,
        Self::FragmentDropped,
        Self::ShortFragmentDropped,
        Self::ExtensionHeadersDropped,
        Self::LoopedBackDropped,
        Self::Exempt,
        Self::Released,
        Self::HungPassed,
        Self::HungDropped,
        Self::UnprovenPassed,
        Self::ExemptCustomer,
        Self::ExemptDestination,
        Self::BlockedDropped,
        Self::BlockedReset,
        Self::TooManyDropped,
        Self::TooManyReset,
        Self::TooFastDropped,
        Self::TooFastReset,
        Self::NestedTagsDropped,
        Self::SourceRouteDropped,
        Self::BlockedTold,
    ];

    /// Number of counters.
    pub const COUNT: u32 = 32;

    #[inline(always)]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// What happens to the packet.
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self {
            Self::Established
            | Self::IcmpError
            | Self::NewConnection
            | Self::SynCookie
            | Self::BlockedTold => Action::Steer,
            Self::Unrelated
            | Self::NotOurs
            | Self::OutsidePrefixes
            | Self::LocalOrUnroutable
            | Self::NoListenerPassed
            | Self::RefusedPassed
            | Self::Exempt
            | Self::Released
            | Self::HungPassed
            | Self::UnprovenPassed
            | Self::ExemptCustomer
            | Self::ExemptDestination => Action::Pass,
            Self::NoListenerDropped
            | Self::RefusedDropped
            | Self::FragmentDropped
            | Self::ShortFragmentDropped
            | Self::ExtensionHeadersDropped
            | Self::LoopedBackDropped
            | Self::HungDropped
            | Self::BlockedDropped
            | Self::TooManyDropped
            | Self::TooFastDropped
            | Self::NestedTagsDropped
            | Self::SourceRouteDropped => Action::Drop,
            Self::BlockedReset | Self::TooManyReset | Self::TooFastReset => Action::Reset,
        }
    }

    /// Name of the counter, as operators see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unrelated => "unrelated",
            Self::NotOurs => "not_ours",
            Self::Established => "established",
            Self::IcmpError => "icmp_error",
            Self::NewConnection => "new_connection",
            Self::SynCookie => "syn_cookie",
            Self::OutsidePrefixes => "outside_prefixes",
            Self::LocalOrUnroutable => "local_or_unroutable",
            Self::NoListenerPassed => "no_listener_passed",
            Self::NoListenerDropped => "no_listener_dropped",
            Self::RefusedPassed => "refused_passed",
            Self::RefusedDropped => "refused_dropped",
            Self::FragmentDropped => "fragment_dropped",
            Self::ShortFragmentDropped => "short_fragment_dropped",
            Self::ExtensionHeadersDropped => "extension_headers_dropped",
            Self::LoopedBackDropped => "looped_back_dropped",
            Self::Exempt => "exempt",
            Self::Released => "released",
            Self::HungPassed => "hung_passed",
            Self::HungDropped => "hung_dropped",
            Self::UnprovenPassed => "unproven_passed",
            Self::ExemptCustomer => "exempt_customer",
            Self::ExemptDestination => "exempt_destination",
            Self::BlockedDropped => "blocked_dropped",
            Self::BlockedReset => "blocked_reset",
            Self::TooManyDropped => "too_many_dropped",
            Self::TooManyReset => "too_many_reset",
            Self::TooFastDropped => "too_fast_dropped",
            Self::TooFastReset => "too_fast_reset",
            Self::NestedTagsDropped => "nested_tags_dropped",
            Self::SourceRouteDropped => "source_route_dropped",
            Self::BlockedTold => "blocked_told",
        }
    }
}

/// The program's treatment of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Left as it was, for other programs and the kernel.
    Pass,
    /// Marked, so that the policy rule delivers it to this host.
    Steer,
    Drop,
    /// Made the answer that refuses it, and sent back where it came from.
    Reset,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_are_positions_and_names_are_distinct() {
        let names: HashSet<_> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
        assert_eq!(names.len(), Verdict::ALL.len());
        assert_eq!(Verdict::ALL.len(), Verdict::COUNT as usize);
        for (position, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(verdict.index() as usize, position);
        }
    }

    #[test]
    fn only_names_that_say_so_drop() {
        for verdict in Verdict::ALL {
            assert_eq!(verdict.action() == Action::Drop, verdict.name().ends_with("_dropped"), "{verdict:?}");
            assert_eq!(verdict.action() == Action::Reset, verdict.name().ends_with("_reset"), "{verdict:?}");
        }
    }
}
