//! The policy rules and routes that deliver marked packets to this host, in place of forwarding them.
//!
//! One rule per interface and address family: with `iif` in it, and only so, reverse path checks
//! see the same route for marked packets as for others.
//!
//! Where interfaces come and go, and there may be thousands, a rule for each would be asked about every packet that this host
//! routes. There three rules do the same for all interfaces but the loopback, as which reverse path checks, and packets of this host's own, ask:
//!
//! ```text
//! 98: iif lo fwmark MARK goto 100
//! 99: fwmark MARK lookup TABLE
//! 100: nop
//! ```

mod inspect;

use std::fmt;
use std::io;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use super::SteerError;
use super::netlink::Netlink;
pub(crate) use inspect::Inspection;

/// Marks rules and routes as ours (`proto 87` in the output of ip(8)): a number nobody else uses, by which a
/// later start and `cleanup` find them.
pub(super) const PROTOCOL_NUMBER: u8 = 87;
const PROTOCOL: RouteProtocol = RouteProtocol::Other(PROTOCOL_NUMBER);

/// Comes before the operator's rules and those of other programs, after the table of local addresses.
const PRIORITY: u32 = 99;

/// Around it, where there is one rule for all interfaces: what passes it by, and where that goes on.
const PASSES: u32 = 98;
const GOES_ON: u32 = 100;

/// The loopback interface's name, the same in every network namespace.
const LOOPBACK_NAME: &str = "lo";

/// The loopback interface's index, the same in every network namespace.
const LOOPBACK: u32 = 1;

/// The bits of a packet's mark that are ours.
pub(crate) const MARK_MASK: u32 = 0xffff_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn version(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    fn address_family(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// A rule or route of ours, as ip(8) would be told to make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// Of an interface, or of all.
    Rule {
        family: Family,
        interface: Option<String>,
        mark: u32,
        table: u32,
    },
    /// What asks as the loopback interface passes the rule of all interfaces by.
    Pass {
        family: Family,
        mark: u32,
    },
    /// And goes on here.
    Target {
        family: Family,
    },
    Route {
        family: Family,
        table: u32,
    },
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { family, interface, mark, table } => {
                let family = family.flag();
                let iif = interface.as_ref().map(|name| format!("iif {name} ")).unwrap_or_default();
                write!(formatter, "ip {family} rule {iif}fwmark {mark:#x}/{MARK_MASK:#x} lookup {table}")
            }
            Self::Pass { family, mark } => {
                let family = family.flag();
                write!(
                    formatter,
                    "ip {family} rule iif {LOOPBACK_NAME} fwmark {mark:#x}/{MARK_MASK:#x} goto {GOES_ON}"
                )
            }
            Self::Target { family } => write!(formatter, "ip {} rule pref {GOES_ON} nop", family.flag()),
            Self::Route { family, table } => {
                let family = family.flag();
                write!(formatter, "ip {family} route local default dev lo table {table}")
            }
        }
    }
}

impl Entry {
    fn family(&self) -> Family {
        match self {
            Self::Rule { family, .. }
            | Self::Pass { family, .. }
            | Self::Target { family }
            | Self::Route { family, .. } => *family,
        }
    }

    /// In this order they are removed: what leads somewhere before that.
    fn rank(&self) -> u8 {
        match self {
            Self::Rule { .. } => 0,
            Self::Pass { .. } => 1,
            Self::Target { .. } => 2,
            Self::Route { .. } => 3,
        }
    }

    fn create(&self) -> RouteNetlinkMessage {
        match self {
            Self::Route { .. } => RouteNetlinkMessage::NewRoute(self.route()),
            _ => RouteNetlinkMessage::NewRule(self.rule()),
        }
    }

    fn delete(&self) -> RouteNetlinkMessage {
        match self {
            Self::Route { .. } => RouteNetlinkMessage::DelRoute(self.route()),
            _ => RouteNetlinkMessage::DelRule(self.rule()),
        }
    }

    fn rule(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.family().address_family();
        message.attributes = vec![RuleAttribute::Protocol(PROTOCOL)];
        let marked = |mark| [RuleAttribute::FwMark(mark), RuleAttribute::FwMask(MARK_MASK)];
        let (action, priority) = match self {
            Self::Rule { interface, mark, table, .. } => {
                message.attributes.extend(interface.clone().map(RuleAttribute::Iifname));
                message.attributes.extend(marked(*mark));
                message.attributes.push(RuleAttribute::Table(*table));
                (RuleAction::ToTable, PRIORITY)
            }
            Self::Pass { mark, .. } => {
                message.attributes.push(RuleAttribute::Iifname(LOOPBACK_NAME.to_owned()));
                message.attributes.extend(marked(*mark));
                message.attributes.push(RuleAttribute::Goto(GOES_ON));
                (RuleAction::Goto, PASSES)
            }
            Self::Target { .. } | Self::Route { .. } => (RuleAction::Nop, GOES_ON),
        };
        message.header.action = action;
        message.attributes.push(RuleAttribute::Priority(priority));
        message
    }

    fn route(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: self.family().address_family(),
            protocol: PROTOCOL,
            scope: RouteScope::Host,
            kind: RouteType::Local,
            ..RouteHeader::default()
        };
        if let Self::Route { table, .. } = self {
            message.attributes = vec![RouteAttribute::Oif(LOOPBACK), RouteAttribute::Table(*table)];
        }
        message
    }

    /// A rule or route with our protocol number, as the kernel reports it.
    fn parse(message: &RouteNetlinkMessage, family: Family) -> Option<Self> {
        match message {
            RouteNetlinkMessage::NewRule(rule) => Self::parse_rule(rule, family),
            RouteNetlinkMessage::NewRoute(route)
                if route.header.protocol == PROTOCOL
                    && route.header.kind == RouteType::Local
                    && route.header.destination_prefix_length == 0 =>
            {
                Some(Self::Route { family, table: table_of(route) })
            }
            _ => None,
        }
    }

    fn parse_rule(rule: &RuleMessage, family: Family) -> Option<Self> {
        let (mut interface, mut mark, mut table, mut ours) =
            (None, None, u32::from(rule.header.table), false);
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::Iifname(name) => interface = Some(name.clone()),
                RuleAttribute::FwMark(value) => mark = Some(*value),
                RuleAttribute::Table(value) => table = *value,
                RuleAttribute::Protocol(protocol) => ours = *protocol == PROTOCOL,
                _ => {}
            }
        }
        match (ours, rule.header.action, mark) {
            (true, RuleAction::ToTable, Some(mark)) => Some(Self::Rule { family, interface, mark, table }),
            (true, RuleAction::Goto, Some(mark)) => Some(Self::Pass { family, mark }),
            (true, RuleAction::Nop, None) => Some(Self::Target { family }),
            _ => None,
        }
    }
}

fn table_of(route: &RouteMessage) -> u32 {
    let attribute = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| u32::from(route.header.table))
}

/// On which interfaces marked packets come in.
#[derive(Debug, Clone)]
pub(super) enum Interfaces {
    Named(Vec<String>),
    All,
}

/// What must be there while packets are steered.
#[derive(Debug, Clone)]
pub(super) struct Routing {
    pub(super) families: Vec<Family>,
    pub(super) interfaces: Interfaces,
    pub(super) mark: u32,
    pub(super) table: u32,
}

impl Routing {
    /// Routes first: a rule without its route would drop nothing, but a marked packet would be forwarded.
    fn entries(&self) -> Vec<Entry> {
        let (mark, table) = (self.mark, self.table);
        let routes = self.families.iter().map(|&family| Entry::Route { family, table });
        let rules = self.families.iter().flat_map(|&family| match &self.interfaces {
            Interfaces::Named(names) => {
                let rule = |name: &String| Entry::Rule { family, interface: Some(name.clone()), mark, table };
                names.iter().map(rule).collect()
            }
            Interfaces::All => vec![
                Entry::Target { family },
                Entry::Pass { family, mark },
                Entry::Rule { family, interface: None, mark, table },
            ],
        });
        routes.chain(rules).collect()
    }

    /// Whether the table is free for us.
    pub(super) fn check(&self) -> Result<(), SteerError> {
        if self.table == 0 {
            // Not a table: the kernel takes it for the main one.
            return Err(SteerError::TableInUse { table: 0 });
        }
        let mut netlink = open()?;
        for &family in &self.families {
            let routes = dump_routes(&mut netlink, family, Some(self.table))?;
            let foreign = routes.iter().any(|message| {
                matches!(message, RouteNetlinkMessage::NewRoute(route)
                    if table_of(route) == self.table && route.header.protocol != PROTOCOL)
            });
            if foreign {
                return Err(SteerError::TableInUse { table: self.table });
            }
        }
        Ok(())
    }

    /// Adds what is missing and removes what an earlier start left that is no longer wanted. Adds
    /// nothing if one of them cannot be added.
    pub(super) fn install(&self) -> Result<(), SteerError> {
        let mut netlink = open()?;
        let wanted = self.entries();
        let mut added: Vec<&Entry> = Vec::new();
        for entry in &wanted {
            match add(&mut netlink, entry) {
                Ok(true) => added.push(entry),
                Ok(false) => {}
                Err(error) => {
                    for entry in added.iter().rev() {
                        let _ = netlink.request(entry.delete(), 0);
                    }
                    return Err(error);
                }
            }
        }
        let mut left = ours(&mut netlink)?;
        left.sort_by_key(Entry::rank);
        for entry in left.iter().filter(|entry| !wanted.contains(entry)) {
            delete(&mut netlink, entry)?;
        }
        Ok(())
    }

    /// Puts back what somebody has removed, and says what that was.
    pub(super) fn repair(&self) -> Result<Vec<String>, SteerError> {
        let mut netlink = open()?;
        let present = ours(&mut netlink)?;
        let mut repaired = Vec::new();
        for entry in self.entries().iter().filter(|entry| !present.contains(entry)) {
            if add(&mut netlink, entry)? {
                repaired.push(entry.to_string());
            }
        }
        Ok(repaired)
    }
}

/// Removes all rules and routes of ours, of this start or an earlier one, and says what they were.
pub(super) fn remove_all() -> Result<Vec<String>, SteerError> {
    let mut netlink = open()?;
    let mut entries = ours(&mut netlink)?;
    entries.sort_by_key(Entry::rank);
    for entry in &entries {
        delete(&mut netlink, entry)?;
    }
    Ok(entries.iter().map(Entry::to_string).collect())
}

fn open() -> Result<Netlink, SteerError> {
    Netlink::open().map_err(|source| SteerError::System { what: "netlink socket".to_owned(), source })
}

/// `false` if it was there already, and ours.
fn add(netlink: &mut Netlink, entry: &Entry) -> Result<bool, SteerError> {
    match netlink.request(entry.create(), NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            if ours(netlink)?.contains(entry) {
                Ok(false)
            } else {
                Err(SteerError::NotOurs { what: entry.to_string() })
            }
        }
        Err(source) => Err(SteerError::System { what: format!("adding {entry}"), source }),
    }
}

fn delete(netlink: &mut Netlink, entry: &Entry) -> Result<(), SteerError> {
    match netlink.request(entry.delete(), 0) {
        Err(error) if is_absent(&error) => Ok(()),
        outcome => outcome.map_err(|source| SteerError::System { what: format!("removing {entry}"), source }),
    }
}

/// Whether the kernel says that there is no such rule, route, table or address family.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

/// All rules and routes of ours on this host.
fn ours(netlink: &mut Netlink) -> Result<Vec<Entry>, SteerError> {
    let mut found = Vec::new();
    for family in Family::ALL {
        let mut query = RuleMessage::default();
        query.header.family = family.address_family();
        let rules = dump(netlink, RouteNetlinkMessage::GetRule(query), "listing rules")?;
        let routes = dump_routes(netlink, family, None)?;
        found.extend(rules.iter().chain(&routes).filter_map(|message| Entry::parse(message, family)));
    }
    Ok(found)
}

/// The routes of a table, or those of ours in all tables.
fn dump_routes(
    netlink: &mut Netlink,
    family: Family,
    table: Option<u32>,
) -> Result<Vec<RouteNetlinkMessage>, SteerError> {
    let mut query = RouteMessage::default();
    query.header.address_family = family.address_family();
    match table {
        Some(table) => query.attributes.push(RouteAttribute::Table(table)),
        None => query.header.protocol = PROTOCOL,
    }
    dump(netlink, RouteNetlinkMessage::GetRoute(query), "listing routes")
}

fn dump(
    netlink: &mut Netlink,
    query: RouteNetlinkMessage,
    what: &'static str,
) -> Result<Vec<RouteNetlinkMessage>, SteerError> {
    match netlink.dump(query) {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        outcome => outcome.map_err(|source| SteerError::System { what: what.to_owned(), source }),
    }
}
