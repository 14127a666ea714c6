//! Who has which address in the lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The prefixes that an agent of the lab intercepts.
pub const CUSTOMER_PREFIXES: [&str; 2] = ["10.1.0.0/16", "fd01::/32"];

/// The second gateway, where there is one, as the filter nodes see it.
pub const SECOND_PROXY: Ipv4Addr = Ipv4Addr::new(10, 4, 3, 1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The customer's mail server.
    pub fn customer(self) -> IpAddr {
        self.of(Ipv4Addr::new(10, 1, 0, 2), 0xfd01, 2)
    }

    /// A second address of the customer's machine, inside the intercepted prefixes.
    pub fn other_customer(self) -> IpAddr {
        self.of(Ipv4Addr::new(10, 1, 0, 3), 0xfd01, 3)
    }

    /// An address of the customer's machine outside the intercepted prefixes.
    pub fn outsider(self) -> IpAddr {
        self.of(Ipv4Addr::new(10, 9, 0, 2), 0xfd09, 2)
    }

    /// The gateway as the customer sees it.
    pub fn gateway(self) -> IpAddr {
        self.of(Ipv4Addr::new(10, 1, 0, 1), 0xfd01, 1)
    }

    /// The destination of the customer's mail.
    pub fn destination(self) -> IpAddr {
        self.of(Ipv4Addr::new(10, 2, 0, 2), 0xfd02, 2)
    }

    /// The gateway as the filter nodes see it.
    pub fn proxy(self) -> IpAddr {
        self.of(Ipv4Addr::new(10, 3, 0, 1), 0xfd03, 1)
    }

    /// A filter node, 0 or 1.
    pub fn filter_node(self, number: u8) -> IpAddr {
        self.of(Ipv4Addr::new(10, 3, 0, 11 + number), 0xfd03, if number == 0 { 0x11 } else { 0x12 })
    }

    /// A mail domain of the destination, to which the customer's server sends over this family.
    pub fn domain(self) -> &'static str {
        match self {
            Self::V4 => "v4.destination.test",
            Self::V6 => "v6.destination.test",
        }
    }

    fn of(self, v4: Ipv4Addr, v6_prefix: u16, v6_host: u16) -> IpAddr {
        match self {
            Self::V4 => v4.into(),
            Self::V6 => Ipv6Addr::new(v6_prefix, 0, 0, 0, 0, 0, 0, v6_host).into(),
        }
    }
}
