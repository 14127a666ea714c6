//! What there is of rules and routes, ours and those of others that could come in between; changes nothing.

use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::{
    Entry, Family, Interfaces, LOOPBACK_NAME, MARK_MASK, PRIORITY, PROTOCOL, RouteNetlinkMessage, Routing,
    dump, dump_routes, open, ours, table_of,
};
use crate::steer::SteerError;

/// Rules and routes, as far as they concern steering.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    /// Ours that are there.
    pub(crate) present: Vec<String>,
    /// Ours that are wanted and not there.
    pub(crate) missing: Vec<String>,
    /// Rules of others that marked packets meet.
    pub(crate) foreign: Vec<Foreign>,
    /// Our table has routes of others.
    pub(crate) table_in_use: bool,
}

/// A rule of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// As ip(8) would be told to remove it.
    pub(crate) deletion: String,
    /// Marked packets meet it before ours.
    pub(crate) is_first: bool,
}

impl Routing {
    pub(crate) fn inspect(&self) -> Result<Inspection, SteerError> {
        let mut netlink = open()?;
        let present = ours(&mut netlink)?;
        let wanted = self.entries();
        let mut found = Inspection {
            present: present.iter().map(Entry::to_string).collect(),
            missing: wanted.iter().filter(|entry| !present.contains(entry)).map(Entry::to_string).collect(),
            ..Inspection::default()
        };
        for &family in &self.families {
            let mut query = RuleMessage::default();
            query.header.family = family.address_family();
            let rules = dump(&mut netlink, RouteNetlinkMessage::GetRule(query), "listing rules")?;
            found.foreign.extend(rules.iter().filter_map(|rule| foreign(rule, family, self)));
            found.table_in_use |=
                dump_routes(&mut netlink, family, Some(self.table))?.iter().any(|message| {
                    matches!(message, RouteNetlinkMessage::NewRoute(route)
                    if table_of(route) == self.table && route.header.protocol != PROTOCOL)
                });
        }
        Ok(found)
    }
}

/// A rule that is not ours and fits marked packets by their mark, or comes before ours.
fn foreign(message: &RouteNetlinkMessage, family: Family, routing: &Routing) -> Option<Foreign> {
    let RouteNetlinkMessage::NewRule(rule) = message else { return None };
    let (mut priority, mut mark, mut mask, mut table) = (0, None, u32::MAX, u32::from(rule.header.table));
    let (mut concerns, mut words) = (true, String::new());
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Protocol(protocol) if *protocol == PROTOCOL => return None,
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Iifname(name) => {
                concerns &= match &routing.interfaces {
                    Interfaces::Named(names) => names.contains(name),
                    Interfaces::All => name != LOOPBACK_NAME,
                };
                words += &format!(" iif {name}");
            }
            _ => {}
        }
    }
    let by_mark =
        mark.is_some_and(|mark| (mark ^ routing.mark) & mask & MARK_MASK == 0 && mask & MARK_MASK != 0);
    // The rule for the table of local addresses is every host's first.
    let is_first = priority <= PRIORITY && priority > 0 && rule.header.action == RuleAction::ToTable;
    if !concerns || !(by_mark || (is_first && mark.is_none())) {
        return None;
    }
    if let Some(mark) = mark {
        words += &format!(" fwmark {mark:#x}/{mask:#x}");
    }
    let deletion = format!("ip {} rule del pref {priority}{words} lookup {table}", family.flag());
    Some(Foreign { deletion, is_first })
}
