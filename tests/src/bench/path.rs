//! The ways that customers' mail can take through the gateway.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, FILTER_PORT, FilterConfig, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Host, Process};

use crate::growth;
use crate::peers::{self, By, Rules};
use crate::stage::{self, Stage};
use crate::talk::Talk;
use crate::usage;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// Routed, with no proxy at all.
    Direct,
    Haproxy,
    Nginx,
    Proxsmtpd,
    /// With haproxy and two weir-filter nodes behind it.
    ProxsmtpdFilter,
    /// The whole agent, and no node asked.
    Bypass(Backend),
    /// Two weir-filter nodes, which have limits and no scanner.
    Filter(Backend),
}

impl Path {
    pub(crate) const ALL: [Self; 9] = [
        Self::Direct,
        Self::Haproxy,
        Self::Nginx,
        Self::Bypass(Backend::Ebpf),
        Self::Bypass(Backend::Tproxy),
        Self::Filter(Backend::Ebpf),
        Self::Filter(Backend::Tproxy),
        Self::Proxsmtpd,
        Self::ProxsmtpdFilter,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Proxsmtpd => "proxsmtpd",
            Self::ProxsmtpdFilter => "proxsmtpd, filter",
            Self::Bypass(Backend::Ebpf) => "weir, bypass",
            Self::Bypass(Backend::Tproxy) => "weir, bypass, tproxy",
            Self::Filter(Backend::Ebpf) => "weir, filter",
            Self::Filter(Backend::Tproxy) => "weir, filter, tproxy",
        }
    }

    pub(crate) fn is_quick(self) -> bool {
        matches!(
            self,
            Self::Direct
                | Self::Haproxy
                | Self::Bypass(Backend::Ebpf)
                | Self::Filter(Backend::Ebpf)
                | Self::ProxsmtpdFilter
        )
    }

    /// So much so that messages are counted in a time, and not timed.
    pub(crate) fn is_slow(self) -> bool {
        matches!(self, Self::Proxsmtpd | Self::ProxsmtpdFilter)
    }

    /// Neither weir nor nothing at all.
    pub(crate) fn is_anothers(self) -> bool {
        matches!(self, Self::Haproxy | Self::Nginx | Self::Proxsmtpd | Self::ProxsmtpdFilter)
    }

    /// More connections than this at a time it does not bear: proxsmtpd ends as a whole at the 509th.
    pub(crate) fn most_connections(self) -> u32 {
        if self.is_slow() { 400 } else { u32::MAX }
    }

    /// Has mail take it, until the route is dropped.
    pub(crate) fn open<'a>(self, stage: &'a Stage<'_>) -> Result<Route<'a>> {
        self.open_in(stage, &Size::default())
    }

    /// With more or less around it.
    pub(crate) fn open_in<'a>(self, stage: &'a Stage<'_>, size: &Size) -> Result<Route<'a>> {
        let gateway = &stage.lab.gateway;
        let mut route = Route::default();
        match self {
            Self::Direct => {}
            Self::Haproxy => {
                route.program("haproxy", peers::haproxy(gateway)?)?;
                route.rules = Some(Rules::add(gateway, By::Tproxy, peers::HAPROXY_PORT)?);
            }
            Self::Nginx => {
                route.program("nginx", peers::nginx(gateway)?)?;
                route.rules = Some(Rules::add(gateway, By::Redirect, peers::NGINX_PORT)?);
            }
            Self::Proxsmtpd => {
                route.program("proxsmtpd", peers::proxsmtpd(gateway, false)?)?;
                route.rules = Some(Rules::add(gateway, By::Tracked, peers::PROXSMTPD_PORT)?);
            }
            Self::ProxsmtpdFilter => {
                route.nodes(stage, size)?;
                route.program("haproxy", peers::haproxy_for_nodes(gateway)?)?;
                route.program("proxsmtpd", peers::proxsmtpd(gateway, true)?)?;
                route.rules = Some(Rules::add(gateway, By::Tracked, peers::PROXSMTPD_PORT)?);
            }
            Self::Bypass(backend) => route.agent(stage, backend, size, "mode = \"bypass\"")?,
            Self::Filter(backend) => {
                route.nodes(stage, size)?;
                route.agent(stage, backend, size, "")?;
            }
        }
        let _talk = stage.lab.customer.in_network(|| Talk::open(None, stage::destination()))?;
        // What is but routed is nobody's socket.
        let sockets = gateway.sh("ss -Htn state established '( sport = :25 or dport = :25 )'")?;
        ensure!(sockets.trim().is_empty() == (self == Self::Direct), "mail takes another way: {sockets}");
        for part in &mut route.parts {
            // A program may have begun others by now.
            let groups = part.pids.iter().map(|pid| usage::group(*pid)).collect::<Result<Vec<_>>>()?;
            part.pids = groups.concat();
        }
        Ok(route)
    }
}

/// How much there is around mail.
#[derive(Debug, Clone)]
pub(crate) struct Size {
    /// Customers' prefixes beside the lab's.
    pub(crate) prefixes: usize,
    /// Keys that the node counts: it begins with the file for so many.
    pub(crate) counted: Option<usize>,
    /// Filter nodes.
    pub(crate) nodes: usize,
    /// Further sections of the nodes' configuration.
    pub(crate) sections: String,
}

impl Default for Size {
    fn default() -> Self {
        Self { prefixes: 0, counted: None, nodes: 2, sections: String::new() }
    }
}

impl Size {
    fn prefixes(&self) -> Result<impl Iterator<Item = String> + use<>> {
        let count = u32::try_from(self.prefixes)?;
        ensure!(count <= 1 << 18, "so many prefixes would be others' addresses");
        // None next to another, so that none can be joined.
        Ok((0..count).map(|number| {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(20, 0, 0, 0)) + number * 512);
            format!("{address}/24")
        }))
    }

    /// The addresses of the nodes: on each of the lab's two, one port after the other.
    fn addresses(&self) -> Vec<SocketAddr> {
        let address = |number: usize| {
            let port = FILTER_PORT + u16::try_from(number / 2).unwrap_or_default();
            SocketAddr::new(Family::V4.filter_node(u8::from(number % 2 == 1)), port)
        };
        (0..self.nodes).map(address).collect()
    }
}

/// A program, or several alike, whose use is told apart.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) pids: Vec<u32>,
}

/// A way that is open. Closed when dropped.
#[derive(Default)]
pub(crate) struct Route<'a> {
    rules: Option<Rules<'a>>,
    /// And where it runs.
    agent: Option<(WeirAgent, &'a Host)>,
    programs: Vec<Process>,
    nodes: Vec<WeirFilter>,
    pub(crate) parts: Vec<Part>,
}

impl<'a> Route<'a> {
    fn program(&mut self, name: &'static str, process: Process) -> Result<()> {
        self.parts.push(Part { name, pids: vec![process.pid()] });
        self.programs.push(process);
        Ok(())
    }

    fn nodes(&mut self, stage: &Stage<'_>, size: &Size) -> Result<()> {
        for (number, address) in (0u8..).zip(size.addresses()) {
            let mut config = FilterConfig {
                listen: vec![address],
                smtp_lines: "max_sessions = 4000".into(),
                messages_per_minute: 1_000_000_000,
                messages_per_hour: 1_000_000_000,
                sections: size.sections.clone(),
                ..FilterConfig::node(number)
            };
            if let Some(keys) = size.counted {
                config = growth::roomy(config, keys);
            }
            self.nodes.push(WeirFilter::start(&stage.lab.filter, number, &config)?);
        }
        let pids = self.nodes.iter_mut().map(|node| node.process().pid()).collect();
        self.parts.push(Part { name: "nodes", pids });
        Ok(())
    }

    fn agent(
        &mut self,
        stage: &'a Stage<'_>,
        backend: Backend,
        size: &Size,
        filter_lines: &str,
    ) -> Result<()> {
        // What does not go by the agent goes nowhere, and not straight.
        let mut config = AgentConfig::new(backend).closed();
        config.nodes = size.addresses();
        config.prefixes.extend(size.prefixes()?);
        config.filter_lines = filter_lines.into();
        config.relay_lines =
            "max_sessions = 60000\nmax_sessions_per_customer = 0\nmax_messages = 1000000000\nidle_timeout = 7200".into();
        let agent = WeirAgent::start(&stage.lab.gateway, &config)?;
        self.parts.push(Part { name: "agent", pids: vec![agent.pid()] });
        self.agent = Some((agent, &stage.lab.gateway));
        Ok(())
    }

    /// As when it is dropped, but its nodes save what they have counted.
    pub(crate) fn close(mut self) -> Result<()> {
        let nodes = std::mem::take(&mut self.nodes);
        drop(self);
        nodes.into_iter().try_for_each(WeirFilter::stop)
    }
}

impl Drop for Route<'_> {
    fn drop(&mut self) {
        // Closed, it would keep dropping connections when it is gone.
        if let Some((agent, gateway)) = self.agent.take()
            && let Err(error) = agent.stop().and_then(|()| WeirAgent::cleanup(gateway))
        {
            eprintln!("{error:#}");
        }
        self.programs.clear();
        self.nodes.clear();
        // What a program that was killed leaves keeps the customers' addresses and ports, and takes the packets of who uses
        // them next.
        if let Some(rules) = self.rules.take()
            && let Err(error) =
                rules.gateway().sh("ss -HKtn state connected '( sport = :25 or dport = :25 )' >/dev/null")
        {
            eprintln!("{error:#}");
        }
    }
}
