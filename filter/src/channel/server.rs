//! HTTP to agents: each connection has one request at a time, and everything is bounded.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};
use weir_daemon::channel::{BLOCKS, LONGEST_WAIT, MAX_BODY, OUTCOMES, Outcomes};

use super::Channel;
use super::log::{self, LOG};
use crate::serve::Node;

/// Connections at a time, of all agents.
const MAX_CONNECTIONS: usize = 256;

/// For a handshake, the head of a request, and its body.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection lives: an agent makes another.
const LIFE: Duration = Duration::from_secs(3600);

/// After a failed accept (no descriptors left, as a rule) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How often it is looked whether the customers' table has changed, while an agent waits for news.
const TABLE_INTERVAL: Duration = Duration::from_secs(1);

type Answer = Response<Full<Bytes>>;

/// Serves agents until it is dropped.
pub async fn serve(node: Arc<Node>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(cause) => {
                warn!(%cause, "accept on the channel");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(channel) = node.channel.as_ref() else { return };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // Who is no agent holds nothing.
        let Some(permit) =
            channel.may_connect(peer.ip()).then(|| room.clone().try_acquire_owned().ok()).flatten()
        else {
            continue;
        };
        let node = node.clone();
        tokio::spawn(async move {
            if let Ok(Err(cause)) = timeout(LIFE, converse(node, stream, peer)).await {
                debug!(%cause, %peer, "channel");
            }
            drop(permit);
        });
    }
}

async fn converse(node: Arc<Node>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match node.channel.as_ref().and_then(|channel| channel.tls.as_ref()) {
        None => answer_requests(node, stream, peer).await,
        Some(tls) => {
            let secured = timeout(PATIENCE, tls.acceptor().accept(stream)).await;
            let stream = secured.map_err(io::Error::from).flatten();
            let stream =
                stream.inspect_err(|cause| warn!(%peer, %cause, "no TLS with an agent on the channel"))?;
            answer_requests(node, stream, peer).await
        }
    }
}

async fn answer_requests(
    node: Arc<Node>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
) -> io::Result<()> {
    let service = service_fn(move |request| {
        let node = node.clone();
        async move { Ok::<_, Infallible>(answer(&node, peer.ip(), request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_headers(64).max_buf_size(64 * 1024);
    http.serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)
}

async fn answer(node: &Arc<Node>, peer: IpAddr, request: Request<Incoming>) -> Answer {
    let Some(channel) = node.channel.as_ref() else { return plain(StatusCode::NOT_FOUND, "") };
    if !channel.token.is_in(request.headers().get(AUTHORIZATION)) {
        channel.without_token(peer);
        let mut refused = plain(StatusCode::UNAUTHORIZED, "the token is not the one of channel.token_file");
        refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refused;
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, BLOCKS) => {
            let has = request.headers().get(IF_NONE_MATCH).and_then(|tag| tag.to_str().ok());
            blocks(node, channel, peer, has.map(str::to_owned)).await
        }
        (&Method::POST, OUTCOMES) => outcomes(node, channel, peer, request.into_body()).await,
        (&Method::POST, LOG) if channel.is_node(peer) => {
            info!(%peer, "events are read by another node");
            log::answer(node, request.into_body()).await
        }
        (&Method::POST, LOG) => plain(StatusCode::FORBIDDEN, "for the addresses in channel.nodes only"),
        (_, BLOCKS | OUTCOMES | LOG) => plain(StatusCode::METHOD_NOT_ALLOWED, ""),
        _ => plain(StatusCode::NOT_FOUND, "not known to this version of weir-filter"),
    }
}

/// The list, as soon as it is another than the agent has.
async fn blocks(node: &Node, channel: &Channel, peer: IpAddr, has: Option<String>) -> Answer {
    let mut changes = node.blocks.watch();
    let until = Instant::now() + LONGEST_WAIT;
    channel.heard_of(peer, |agent| agent.has.clone_from(&has));
    loop {
        // Before the list is made: what changes meanwhile is told with the next.
        let version = *changes.borrow_and_update();
        let tag = format!("\"{:x}.{version}.{}\"", channel.instance, node.customers.generation());
        if has.as_ref() != Some(&tag) {
            let list = node.blocks.for_agents(&node.customers);
            let mut answer = json(&list);
            if let Ok(tag) = HeaderValue::from_str(&tag) {
                answer.headers_mut().insert(ETAG, tag);
            }
            return answer;
        }
        let look = (Instant::now() + TABLE_INTERVAL).min(until);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return plain(StatusCode::SERVICE_UNAVAILABLE, "");
            },
            () = sleep_until(look) => if look == until {
                return plain(StatusCode::NOT_MODIFIED, "");
            },
        }
    }
}

async fn outcomes(node: &Node, channel: &Channel, peer: IpAddr, body: Incoming) -> Answer {
    let body = match timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "too long, or broken off"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, ""),
    };
    match serde_json::from_slice::<Outcomes>(&body) {
        Ok(report) => {
            channel.heard_of(peer, |agent| {
                agent.outcomes += report.outcomes.len() as u64;
                agent.lost = agent.lost.saturating_add(report.lost);
            });
            node.judged.count(node, &report.outcomes).await;
            plain(StatusCode::NO_CONTENT, "")
        }
        Err(error) => plain(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

pub(super) fn json(content: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(content) {
        Ok(octets) => {
            let mut answer = Response::new(Full::from(octets));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            answer
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) fn plain(status: StatusCode, words: &str) -> Answer {
    let mut answer = Response::new(Full::from(words.to_owned()));
    *answer.status_mut() = status;
    answer
}
