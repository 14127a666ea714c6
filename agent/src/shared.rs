//! What all sessions share.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::mpsc;

use crate::bare_line_ends::BareLineEnds;
use crate::buffers::Buffers;
use crate::busiest::Busiest;
use crate::channel::{self, Blocked, Link, Outcomes};
use crate::config::{Config, WhenTlsWanted};
use crate::counters::Counters;
use crate::metrics::Timings;
use crate::mirrors::{self, Mirrors};
use crate::nodes::names::{Names, Site};
use crate::nodes::warm::Warm;
use crate::nodes::{Pool, Role};
use crate::orders::Orders;
use crate::policy::Refusals;
use crate::prefixes::Prefixes;
use crate::relay::settings::Settings;
use crate::return_path::ReturnPath;
use crate::spool::Budget;
use crate::steer::Pair;
use crate::suspects::Suspects;
use crate::tls;
use crate::transparent::Source;
use crate::treatment::Treatments;
use crate::wanted_tls::WantedTls;

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    pub settings: Arc<Settings>,
    pub pool: Arc<Pool>,
    pub warm: Arc<Warm>,
    pub mirrors: Arc<Mirrors>,
    pub treatments: Treatments,
    pub budget: Arc<Budget>,
    pub buffers: Arc<Buffers>,
    pub upstream_ports: RangeInclusive<u16>,
    pub counters: Counters,
    pub timings: Timings,
    pub wanted_tls: WantedTls,
    pub bare_line_ends: BareLineEnds,
    pub busiest: Busiest,
    pub refusals: Refusals,
    /// By filter nodes.
    pub blocked: Blocked,
    pub links: Vec<Arc<Link>>,
    pub outcomes: Outcomes,
    pub return_path: Arc<ReturnPath>,
    pub suspects: Suspects,
    pub orders: Orders,
    masqueraded: RwLock<Prefixes>,
}

impl Shared {
    /// As it is at the start.
    ///
    /// # Errors
    /// If what TLS with the nodes needs cannot be read.
    pub fn new(
        config: &Config,
        [names, mirror_names]: [&Names; 2],
        wanting: mpsc::Sender<Pair>,
    ) -> anyhow::Result<Self> {
        let node_tls = config.filter.tls.as_ref().map(tls::Nodes::new).transpose()?;
        let links = channel::links(config.filter.channel.as_ref())?;
        let settings = Arc::new(Settings::new(config, hostname().into()));
        let max_wait = Duration::from_secs(config.filter.max_wait);
        let pool = Arc::new(Pool::new(&names.sites(), node_tls.clone(), max_wait));
        let warm = Warm::new(pool.clone(), settings.clone(), config.filter.warm_connections);
        let mirror_pool = Pool::new(&[], node_tls, mirrors::MAX_WAIT);
        let mirrors = Mirrors::new(config.filter.mirror.as_ref(), mirror_pool, pool.clone());
        mirrors.set(&mirror_names.sites());
        let orders = Orders::default();
        Ok(Self {
            treatments: Treatments::new(&config.filter),
            settings,
            pool,
            warm: Arc::new(warm),
            mirrors: Arc::new(mirrors),
            budget: Arc::new(Budget::new(&config.spool)),
            buffers: Arc::new(Buffers::new(config.relay.max_buffered, orders.bell.clone())),
            upstream_ports: config.steering.upstream_port_range(),
            counters: Counters::default(),
            timings: Timings::new()?,
            bare_line_ends: BareLineEnds::default(),
            busiest: Busiest::default(),
            wanted_tls: match config.relay.wanted_tls {
                WhenTlsWanted::Report => WantedTls::default(),
                WhenTlsWanted::Exempt => WantedTls::telling(wanting),
            },
            refusals: Refusals::of(config),
            blocked: Blocked::of(config, orders.bell.clone()),
            outcomes: Outcomes::new(links.iter().map(|link| (link.host, link.queue.clone())).collect()),
            links,
            return_path: Arc::new(ReturnPath::new(Instant::now())),
            suspects: Suspects::default(),
            orders,
            masqueraded: RwLock::new(Prefixes::new(&config.customers.masqueraded)),
        })
    }

    pub fn pool(&self, role: Role) -> &Arc<Pool> {
        match role {
            Role::Filter => &self.pool,
            Role::Mirror => &self.mirrors.pool,
        }
    }

    /// From whose address the agent connects to destinations for this customer.
    pub fn source(&self, customer: IpAddr) -> Source {
        let masqueraded = self.masqueraded.read().unwrap_or_else(PoisonError::into_inner);
        if masqueraded.contain(customer) { Source::Gateway } else { Source::Customer }
    }

    /// These customers' addresses are hidden, from the next connection on.
    pub fn set_masqueraded(&self, prefixes: &[IpNet]) {
        *self.masqueraded.write().unwrap_or_else(PoisonError::into_inner) = Prefixes::new(prefixes);
    }

    /// These are the nodes of that role from now on.
    pub fn set_nodes(&self, role: Role, sites: &[Site]) {
        match role {
            Role::Filter => {
                self.pool.set(sites);
                self.mirrors.recheck();
            }
            Role::Mirror => self.mirrors.set(sites),
        }
    }
}

/// The name said in EHLO to filter nodes.
fn hostname() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let plain = |name: &String| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
    };
    name.filter(plain).unwrap_or_else(|| "weir-agent.invalid".into())
}
