//! The channel to one node.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use weir_daemon::channel::{BLOCKS, Blocks, LONGEST_WAIT, MAX_BODY, OUTCOMES, Outcomes};
use weir_daemon::http::{Client, Full, Limits, Method, Request, StatusCode, Token, Uri, header};

use super::blocked::Blocked;
use super::outcomes::Queue;
use crate::config::Channel as Config;
use crate::serve::Agent;

/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How often reports are sent, at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// For a report, and for what a node takes longer than it said.
const PATIENCE: Duration = Duration::from_secs(5);

/// How to reach one node, and what came of it.
#[derive(Debug)]
pub struct Link {
    url: String,
    pub host: Option<IpAddr>,
    client: Client,
    token: Token,
    pub queue: Arc<Queue>,
    state: Mutex<State>,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    last_contact: Option<Instant>,
    /// The list of blocks that we have.
    tag: Option<String>,
    problem: Option<String>,
}

/// A link to each node of the configuration.
///
/// # Errors
/// Which file will not do, and why.
pub fn links(config: Option<&Config>) -> anyhow::Result<Vec<Arc<Link>>> {
    let Some(config) = config else { return Ok(Vec::new()) };
    let token = Token::read(&config.token_file).context("filter.channel.token_file")?;
    let client = match &config.ca_file {
        None => Client::clear(),
        Some(file) => {
            Client::trusting(file).with_context(|| format!("filter.channel.ca_file: {}", file.display()))?
        }
    };
    let link = |url: &String| {
        let uri: Option<Uri> = url.parse().ok();
        let host = uri.as_ref().and_then(Uri::host).map(|host| host.trim_matches(['[', ']']));
        Arc::new(Link {
            url: url.trim_end_matches('/').to_owned(),
            host: host.and_then(|host| host.parse().ok()),
            client: client.clone(),
            token: token.clone(),
            queue: Arc::default(),
            state: Mutex::default(),
            failures: AtomicU64::new(0),
        })
    };
    Ok(config.nodes.iter().map(link).collect())
}

/// As `status` shows it.
pub fn status(links: &[Arc<Link>], blocked: &Blocked) -> Value {
    let (blocks, prefixes) = blocked.count();
    let nodes = links.iter().map(|link| {
        let state = link.lock();
        let (waiting, sent, lost) = link.queue.counts();
        json!({
            "url": link.url,
            "last_contact_seconds": state.last_contact.map(|at| at.elapsed().as_secs()),
            "blocks_version": state.tag,
            "problem": state.problem,
            "failures": link.failures.load(Ordering::Relaxed),
            "outcomes_waiting": waiting,
            "outcomes_sent": sent,
            "outcomes_lost": lost,
        })
    });
    json!({ "nodes": nodes.collect::<Vec<_>>(), "blocks": blocks, "blocked_prefixes": prefixes })
}

/// Keeps up with all nodes; after a hand-over, too, for the sessions that are left.
pub(crate) fn watch(agent: &Agent, tasks: &mut JoinSet<()>) {
    let links = &agent.shared.links;
    for link in links {
        tasks.spawn(follow(agent.clone(), link.clone()));
        tasks.spawn(report(link.clone()));
    }
    if !links.is_empty() {
        tasks.spawn(apply_when_possible(agent.clone()));
    }
}

async fn follow(agent: Agent, link: Arc<Link>) {
    loop {
        match link.fetch().await {
            Ok(None) => link.works(),
            Ok(Some((tag, blocks))) => {
                link.works();
                agent.shared.blocked.set(&link.url, blocks);
                link.lock().tag = tag;
                apply(&agent).await;
            }
            Err(problem) => {
                link.failed(&problem);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// What could not be done when it was heard, for another agent was about to take over, or the kernel refused.
async fn apply_when_possible(agent: Agent) {
    loop {
        tokio::time::sleep(PAUSE).await;
        apply(&agent).await;
    }
}

/// The kernel and the file get to know who is blocked.
async fn apply(agent: &Agent) {
    let agent = agent.clone();
    let work = move || {
        let (blocked, policy) = (&agent.shared.blocked, &agent.policy);
        // Otherwise it is another agent's; sessions that are left in this one end none the less.
        let Ok(_held) = agent.charge.change() else { return };
        if !blocked.take_news() {
            return;
        }
        // Back ends that change nothing in the kernel refuse it: there the listener turns them away.
        if agent.steers()
            && let Err(error) = policy.block_for_nodes(&agent.steering, blocked.rules())
        {
            warn!(%error, "who is blocked by filter nodes is not in the kernel: tried again in a second");
            blocked.put_off();
        }
        if let Err(error) = blocked.save() {
            warn!(%error, "the next start will not know who is blocked by filter nodes");
        }
    };
    if let Err(failure) = tokio::task::spawn_blocking(work).await {
        error!(%failure, "blocks of filter nodes: a defect of weir-agent");
    }
}

async fn report(link: Arc<Link>) {
    loop {
        let Some(report) = link.queue.report() else {
            link.queue.news.notified().await;
            // Others may come with it.
            tokio::time::sleep(REPORT_INTERVAL).await;
            continue;
        };
        match link.send(&report).await {
            Ok(true) => link.queue.sent(&report),
            Ok(false) => link.queue.give_up(&report),
            Err(problem) => {
                link.failed(&problem);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Link {
    /// Who is blocked, and the version of the list; none if it is still the one that we have.
    async fn fetch(&self) -> Result<Option<(Option<String>, Blocks)>, String> {
        let mut request = Request::get(format!("{}{BLOCKS}", self.url));
        if let Some(tag) = &self.lock().tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = request.header(header::AUTHORIZATION, self.token.authorization());
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let limits = Limits { time: LONGEST_WAIT + PATIENCE, body: MAX_BODY };
        let answer = self.client.fetch(request, limits).await.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::NOT_MODIFIED => Ok(None),
            StatusCode::OK => {
                let tag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
                let blocks = serde_json::from_slice(answer.body());
                let blocks = blocks.map_err(|error| format!("the list of blocks is none: {error}"))?;
                Ok(Some((tag.map(str::to_owned), blocks)))
            }
            other => Err(refused(other)),
        }
    }

    /// Whether the node took it; false: it never will.
    async fn send(&self, report: &Outcomes) -> Result<bool, String> {
        let body = serde_json::to_vec(report).map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{OUTCOMES}", self.url))
            .header(header::AUTHORIZATION, self.token.authorization())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))
            .map_err(|error| error.to_string())?;
        let limits = Limits { time: PATIENCE, body: MAX_BODY };
        let answer = self.client.fetch(request, limits).await.map_err(|error| error.to_string())?;
        match answer.status() {
            status if status.is_success() => Ok(true),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Ok(false),
            other => Err(refused(other)),
        }
    }

    fn works(&self) {
        let mut state = self.lock();
        state.last_contact = Some(Instant::now());
        if state.problem.take().is_some() {
            info!(node = self.url, "the channel works again");
        }
    }

    fn failed(&self, problem: &str) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        if state.problem.as_deref() != Some(problem) {
            warn!(
                node = self.url,
                problem, "the channel does not work: who is blocked stays as it was said last"
            );
            state.problem = Some(problem.to_owned());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(status: StatusCode) -> String {
    match status {
        StatusCode::UNAUTHORIZED => {
            "the node does not take the token of filter.channel.token_file".to_owned()
        }
        other => format!("the node answered {other}"),
    }
}
