//! What can happen to whom, how it is done and how it is undone.

use std::fmt;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rand::RngExt;
use rand::rngs::StdRng;
use weir_tests::components::{WeirAgent, WeirFilter};
use weir_tests::lab::{CUSTOMER_INTERFACE, FILTER_INTERFACE, INTERNET_INTERFACE, Process};

use crate::stage::Stage;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Agent,
    Node(u8),
    Scanner,
    Destination,
    /// The gateway's name server, which knows the nodes.
    Names,
    /// What agent and nodes take for the time of day.
    Clocks,
    /// An interface of the gateway.
    Link(&'static str),
    Spool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum How {
    /// kill -9, and started again when it is over.
    Killed,
    /// SIGTERM, and started again.
    Restarted,
    /// SIGSTOP until SIGCONT.
    Hung,
    /// An hour in the future, and back.
    Ahead,
    /// An hour in the past, and back.
    Behind,
    /// `ip link set down`.
    Down,
    /// Every packet is dropped in silence.
    BlackHole,
    /// One packet in five is dropped.
    Loss,
    /// Four megabits a second, and a queue of 300 ms in front of it.
    Slow,
    /// No octet is free.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub(crate) target: Target,
    pub(crate) how: How,
}

const LINKS: [&str; 3] = [CUSTOMER_INTERFACE, INTERNET_INTERFACE, FILTER_INTERFACE];

impl Fault {
    /// Every fault there is.
    pub(crate) fn all() -> Vec<Self> {
        let with = |target, how: &[How]| how.iter().map(|how| Self { target, how: *how }).collect::<Vec<_>>();
        let daemon = [How::Killed, How::Restarted, How::Hung];
        let mut all = with(Target::Agent, &daemon);
        all.extend(with(Target::Node(0), &daemon));
        all.extend(with(Target::Node(1), &daemon));
        all.extend(with(Target::Scanner, &[How::Killed, How::Hung]));
        all.extend(with(Target::Destination, &[How::Killed, How::Hung]));
        all.extend(with(Target::Names, &[How::Killed, How::Hung]));
        all.extend(with(Target::Clocks, &[How::Ahead, How::Behind]));
        all.extend(with(Target::Spool, &[How::Full]));
        for link in LINKS {
            all.extend(with(Target::Link(link), &[How::Down, How::BlackHole, How::Loss, How::Slow]));
        }
        all
    }

    /// Another one, to another target.
    pub(crate) fn beside(self, random: &mut StdRng) -> Self {
        let others: Vec<_> = Self::all().into_iter().filter(|other| other.target != self.target).collect();
        others[random.random_range(0..others.len())]
    }

    /// The agent may not hear the destination's answer to the end of a message, and says so with 421.
    pub(crate) fn can_cut_the_agent_off(self) -> bool {
        match self.target {
            Target::Destination => self.how == How::Killed,
            Target::Link(link) => link == INTERNET_INTERFACE,
            _ => false,
        }
    }

    /// The customer may not hear the agent's answer. A SIGTERM of the agent is no reason: it waits for such answers.
    pub(crate) fn can_cut_the_customer_off(self) -> bool {
        match self.target {
            Target::Agent => self.how == How::Killed,
            Target::Link(link) => link == CUSTOMER_INTERFACE,
            _ => false,
        }
    }

    pub(crate) fn begin(self, stage: &mut Stage<'_>) -> Result<()> {
        self.change(stage, true).with_context(|| format!("begin of: {self}"))
    }

    pub(crate) fn end(self, stage: &mut Stage<'_>) -> Result<()> {
        self.change(stage, false).with_context(|| format!("end of: {self}"))
    }

    fn change(self, stage: &mut Stage<'_>, begin: bool) -> Result<()> {
        match (self.target, self.how) {
            (Target::Link(link), how) => link_changes(stage, link, how, begin),
            (Target::Spool, _) if begin => stage.fill_spool(),
            (Target::Spool, _) => stage.empty_spool(),
            (Target::Clocks, _) if !begin => stage.set_clocks("+0"),
            (Target::Clocks, how) => stage.set_clocks(if how == How::Ahead { "+3600" } else { "-3600" }),
            (target, How::Hung) => {
                let process = process(stage, target)?;
                process.signal(if begin { Signal::SIGSTOP } else { Signal::SIGCONT })
            }
            (target, how) if begin => end_process(stage, target, how),
            (Target::Agent, _) => stage.start_agent(),
            (Target::Node(node), _) => stage.start_node(node),
            (Target::Scanner, _) => stage.start_scanner(),
            (Target::Destination, _) => stage.start_destination(),
            (Target::Names, _) => stage.start_names(),
        }
    }
}

fn process<'s>(stage: &'s mut Stage<'_>, target: Target) -> Result<&'s mut Process> {
    match target {
        Target::Agent => stage.agent.as_mut().map(WeirAgent::process),
        Target::Node(node) => stage.nodes[usize::from(node)].as_mut().map(WeirFilter::process),
        Target::Scanner => stage.scanner.as_mut(),
        Target::Destination => stage.destination.as_mut(),
        Target::Names => stage.names.as_mut(),
        Target::Link(_) | Target::Spool | Target::Clocks => None,
    }
    .context("it does not run")
}

fn end_process(stage: &mut Stage<'_>, target: Target, how: How) -> Result<()> {
    match (target, how) {
        (Target::Agent, How::Restarted) => stage.agent.take().context("no agent")?.stop(),
        (Target::Node(node), How::Restarted) => {
            stage.nodes[usize::from(node)].take().context("no node")?.stop()
        }
        _ => process(stage, target)?.kill(),
    }
}

fn link_changes(stage: &Stage<'_>, link: &str, how: How, begin: bool) -> Result<()> {
    let script = match (how, begin) {
        (How::Down, true) => format!("ip link set {link} down"),
        (How::Down, false) => format!("ip link set {link} up"),
        (How::Slow, true) => format!("tc qdisc add dev {link} root tbf rate 4mbit burst 16k latency 300ms"),
        (How::Slow, false) => format!("tc qdisc del dev {link} root"),
        (how, true) => {
            let which = if how == How::Loss { "numgen random mod 5 == 0 " } else { "" };
            format!(
                "nft 'add table inet fault_{link}
                add chain inet fault_{link} in {{ type filter hook prerouting priority -350; }}
                add chain inet fault_{link} out {{ type filter hook postrouting priority 350; }}
                add rule inet fault_{link} in iifname {link} {which}drop
                add rule inet fault_{link} out oifname {link} {which}drop'"
            )
        }
        (_, false) => format!("nft delete table inet fault_{link}"),
    };
    stage.lab.gateway.sh(&script).map(drop)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target {
            Target::Agent => f.write_str("agent"),
            Target::Node(node) => write!(f, "node {}", node + 1),
            Target::Scanner => f.write_str("scanner"),
            Target::Destination => f.write_str("destination"),
            Target::Link(CUSTOMER_INTERFACE) => f.write_str("link to the customers"),
            Target::Link(INTERNET_INTERFACE) => f.write_str("link to the internet"),
            Target::Link(_) => f.write_str("link to the nodes"),
            Target::Spool => f.write_str("spool directory"),
            Target::Names => f.write_str("name server"),
            Target::Clocks => f.write_str("clocks"),
        }?;
        f.write_str(match self.how {
            How::Killed => ": kill -9",
            How::Restarted => ": SIGTERM and start",
            How::Hung => ": SIGSTOP, SIGCONT",
            How::Down => ": down",
            How::BlackHole => ": black hole",
            How::Loss => ": packet loss",
            How::Slow => ": slow",
            How::Full => ": full",
            How::Ahead => ": an hour ahead",
            How::Behind => ": an hour behind",
        })
    }
}
