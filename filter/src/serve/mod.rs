//! The SMTP server: listeners, who may connect, and the stop.

mod conclusion;
mod connection;
mod parameters;
mod reception;
pub mod session;
mod stream;
pub(crate) mod tls;
mod verdict;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};
use weir_daemon::audit::Audit;
use weir_daemon::listeners::Listeners;
use weir_smtp::Reply;

use crate::blocks::{Blocker, Blocks};
use crate::body::Spool;
use crate::channel::{Channel, Judged};
use crate::config::{self, Config, Privacy};
use crate::customers::{Customers, Owner};
use crate::events::Records;
use crate::facts::Facts;
use crate::inside::Inside;
use crate::metrics::Timings;
use crate::outside::Outside;
use crate::policy::script::{Context, Keeper};
use crate::policy::{Policy, Verdict};
use crate::quarantine::Quarantine;
use crate::rate::{Clock, Memory, Shared, Source, Store};
use crate::reputation::Reputation;
use crate::scan::Scanners;
use crate::status::Counters;
use session::{Settings, StartTls};
use stream::Stream;
use tls::Tls;

/// After a failed accept (no descriptors left, as a rule) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Time for a refusal at connect to reach a client that may not read.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Refusals under way at a time; more are closed without a word, so that strangers hold nothing.
const MAX_REFUSALS: usize = 100;

/// What all sessions share.
#[derive(Debug)]
pub struct Node {
    pub settings: Arc<Settings>,
    pub proxies: Vec<IpNet>,
    pub max_sessions: usize,
    pub idle_timeout: Duration,
    pub data_timeout: Duration,
    tls: Option<Tls>,
    pub spool: Arc<Spool>,
    pub policy: Policy<Store>,
    /// Policy that is written in scripts.
    pub scripts: Option<Keeper>,
    pub scanners: Scanners,
    pub inside: Inside,
    pub outside: Outside,
    pub customers: Arc<Customers>,
    pub blocks: Arc<Blocks>,
    /// Blocks at a script's wish.
    pub blocker: Blocker,
    /// How good everybody's mail has been; none where that is not counted.
    pub reputation: Option<Reputation>,
    /// Messages whose outcome is not known yet.
    pub judged: Judged,
    pub channel: Option<Channel>,
    pub clock: Clock,
    pub counters: Counters,
    pub timings: Timings,
    /// Where events go; none where nothing is kept.
    pub records: Option<Records>,
    /// Where samples go; none where there are none.
    pub quarantine: Option<Quarantine>,
    pub privacy: Privacy,
    pub audit: Audit,
}

impl Node {
    /// # Errors
    /// Which file of the configuration will not do, and why.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let smtp = &config.smtp;
        let starttls = smtp
            .tls
            .as_ref()
            .map_or(StartTls::Off, |tls| if tls.required { StartTls::Required } else { StartTls::Offered });
        let settings = Settings {
            name: smtp.name.clone(),
            max_message_size: smtp.max_message_size,
            max_recipients: smtp.max_recipients,
            max_command_line: smtp.max_command_line,
            starttls,
        };
        let channel = config.channel.as_ref();
        let channel = channel.map(|section| Channel::new(section, &smtp.proxies, smtp.tls.as_ref()));
        let blocks_file = Some(config.blocks.file.as_path()).filter(|path| !path.as_os_str().is_empty());
        let blocks = Arc::new(Blocks::open(blocks_file, &config.blocks.contact).context("blocks.file")?);
        let customers = Arc::new(Customers::new(&config.customers)?);
        let audit = Audit::new("weir-filter", &config.privacy.audit_log);
        let blocker = Blocker::new(&config.script, blocks.clone(), customers.clone(), audit.clone());
        Ok(Self {
            settings: Arc::new(settings),
            proxies: smtp.proxies.clone(),
            max_sessions: smtp.max_sessions,
            idle_timeout: Duration::from_secs(smtp.idle_timeout),
            data_timeout: Duration::from_secs(smtp.data_timeout),
            tls: smtp.tls.as_ref().map(Tls::new).transpose()?,
            spool: Arc::new(Spool::new(&config.spool)),
            policy: Policy::new(counters(&config.counters)?, config),
            scripts: None,
            scanners: Scanners::new(config),
            inside: Inside::new(config).context("counters.redis")?,
            outside: Outside::new(config)?,
            customers,
            blocks,
            blocker,
            reputation: Reputation::new(&config.reputation),
            judged: Judged::default(),
            channel: channel.transpose()?,
            clock: Clock::start(),
            counters: Counters::default(),
            timings: Timings::new()?,
            records: None,
            quarantine: None,
            privacy: config.privacy.clone(),
            audit,
        })
    }

    /// Whose address it is. What was counted for one that has changed its owner is dropped.
    pub async fn owner_of(&self, address: IpAddr) -> Owner {
        let found = self.customers.of(address).await;
        if found.changed {
            self.forget(address);
        }
        found.owner
    }

    /// The address is another customer's from now on: nothing that was before is his doing.
    pub fn customer_changed(&self, address: IpAddr) {
        self.customers.forget(address);
        self.forget(address);
    }

    fn forget(&self, address: IpAddr) {
        self.blocks.forget(address);
        if let Some(engine) = self.inside.outbreaks() {
            engine.forget(address);
        }
        self.policy.counters().forget(&Source::of(address).to_string());
    }

    /// With the scripts that the configuration names, tried.
    ///
    /// # Errors
    /// Which script will not do, and why.
    pub async fn with_scripts(self, config: &Config) -> anyhow::Result<Self> {
        let scripts = Some(Keeper::new(config, &self.scanners).await?);
        Ok(Self { scripts, ..self })
    }

    /// Whether there is anything to ask before a message is complete.
    fn asks(&self, context: Context) -> bool {
        self.scripts.as_ref().is_some_and(|scripts| scripts.is_asked(context))
    }

    /// The verdict on what is known of a message by then.
    pub async fn verdict(&self, context: Context, facts: &Facts<'_>) -> Verdict {
        let now = self.clock.now();
        let preset = async {
            match context {
                Context::Connect | Context::Rcpt => Verdict::Accept,
                Context::Data => self.policy.at_end_of_data(facts, now).await,
            }
        };
        match &self.scripts {
            Some(scripts) => scripts.judge(context, facts, self.policy.once(), now, preset).await,
            None => preset.await,
        }
    }

    /// What the candidate says of it, when the message is done with: nothing comes of it.
    pub async fn compare(&self, context: Context, facts: &Facts<'_>, verdict: &Verdict) {
        if let Some(scripts) = &self.scripts {
            scripts.compare(context, facts, self.policy.once(), self.clock.now(), verdict).await;
        }
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.proxies.iter().any(|prefix| prefix.contains(&address))
    }
}

fn counters(config: &config::Counters) -> anyhow::Result<Store> {
    let shared = config.redis.as_deref().map(Shared::new).transpose().context("counters.redis")?;
    Ok(Store::new(Memory::new(config.max_keys), shared.map(|shared| (shared, config.when_away))))
}

/// Opens every address of this `key` of the configuration, or none.
///
/// # Errors
/// Which address cannot be listened on, and why.
pub async fn listen(
    kept: &mut Listeners,
    addresses: &[SocketAddr],
    key: &str,
) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = kept.take(*address).await;
        listeners.push(listener.with_context(|| format!("cannot listen on {address} ({key})"))?);
    }
    Ok(listeners)
}

/// Serves until `stop` turns true, then until the sessions have ended or `grace` is over.
pub async fn serve(
    node: Arc<Node>,
    listeners: Vec<TcpListener>,
    stop: watch::Receiver<bool>,
    grace: Duration,
) {
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(node.clone(), listener, stop.clone()));
    }
    let mut sessions = JoinSet::new();
    while let Some(left) = accepting.join_next().await {
        if let Ok(mut left) = left {
            sessions.spawn(async move { while left.join_next().await.is_some() {} });
        }
    }
    let all_ended = async { while sessions.join_next().await.is_some() {} };
    if timeout(grace, all_ended).await.is_err() {
        let open = node.counters.sessions_open();
        warn!(sessions = open, after = ?grace, "sessions cut: they did not end in smtp.shutdown_timeout");
    }
}

/// One listener. Gives back its sessions when it stops; dropping them cuts them.
async fn accept(node: Arc<Node>, listener: TcpListener, stop: watch::Receiver<bool>) -> JoinSet<()> {
    let mut sessions = JoinSet::new();
    let mut refusals = JoinSet::new();
    let mut stopped = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => return sessions,
            Some(_) = sessions.join_next(), if !sessions.is_empty() => continue,
            Some(_) = refusals.join_next(), if !refusals.is_empty() => continue,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(cause) => {
                warn!(%cause, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match refusal(&node, peer.ip()) {
            None => {
                let open = node.counters.open_session();
                let session = connection::run(node.clone(), stream, peer, stop.clone());
                sessions.spawn(async move {
                    session.await;
                    drop(open);
                });
            }
            Some(reply) => {
                info!(%peer, %reply, "connection refused");
                if refusals.len() < MAX_REFUSALS {
                    refusals.spawn(refuse(stream, reply));
                }
            }
        }
    }
}

fn refusal(node: &Node, peer: IpAddr) -> Option<Reply> {
    if !node.is_proxy(peer) {
        node.counters.refused_connection();
        let text = format!("{} is none of the proxies that may use this node", peer.to_canonical());
        return Some(Reply::enhanced(554, "5.7.1", text));
    }
    if node.counters.sessions_open() >= node.max_sessions {
        node.counters.refused_connection();
        return Some(Reply::enhanced(421, "4.3.2", "too many connections, try another node"));
    }
    None
}

async fn refuse(stream: TcpStream, reply: Reply) {
    let refused = async {
        connection::say(&stream, &reply.to_bytes()).await?;
        Stream::Clear(stream).hang_up().await
    };
    // Nothing depends on whether a stranger hears it.
    let _: Result<io::Result<()>, _> = timeout(REFUSAL_TIMEOUT, refused).await;
}

#[cfg(test)]
mod bdat_tests;
#[cfg(test)]
mod connection_tests;
#[cfg(test)]
mod measurement;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod starttls_tests;
