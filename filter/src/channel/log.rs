//! The events of all nodes: what a node tells another that asks, and how it is asked. Each keeps its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;
use weir_daemon::http::{Client, Full, Limits, Token, header};

use super::server::{PATIENCE, json, plain};
use crate::config::Channel as Config;
use crate::events::{Event, Found, Query, search};
use crate::serve::Node;

/// POST a query: the latest events that it finds.
pub(super) const LOG: &str = "/v1/log";

/// Octets of a query.
const MAX_QUERY: usize = 16 * 1024;

/// Events in one answer.
const MAX_EVENTS: usize = 1000;

/// For an answer, which may be from millions of events.
const LIMITS: Limits = Limits { time: Duration::from_secs(15), body: 64 * 1024 * 1024 };

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    events: Vec<Event>,
    unread: Vec<String>,
}

/// Another node asks.
pub(super) async fn answer(node: &Node, body: Incoming) -> Response<Full<Bytes>> {
    let body = match timeout(PATIENCE, Limited::new(body, MAX_QUERY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return plain(StatusCode::PAYLOAD_TOO_LARGE, "too long, or broken off"),
        Err(_) => return plain(StatusCode::REQUEST_TIMEOUT, ""),
    };
    let mut query: Query = match serde_json::from_slice(&body) {
        Ok(query) => query,
        Err(error) => return plain(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    query.limit = query.limit.min(MAX_EVENTS);
    let Some(directory) = node.records.as_ref().map(|records| records.writer.directory().to_owned()) else {
        return plain(StatusCode::NOT_FOUND, "this node keeps no events");
    };
    let found = tokio::task::spawn_blocking(move || search(&directory, &query)).await;
    match found.map_err(std::io::Error::other).flatten() {
        Ok(Found { events, unread }) => json(&Answer { events, unread }),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

/// Asks all other nodes at once: what each found, or why it did not answer.
///
/// # Errors
/// If the configuration names none, or a file of it will not do.
pub async fn ask_others(
    config: &Config,
    query: &Query,
) -> anyhow::Result<Vec<(SocketAddr, Result<Found, String>)>> {
    let others: Vec<SocketAddr> = config.others().collect();
    anyhow::ensure!(!others.is_empty(), "channel.nodes names no other node");
    let token = Token::read(&config.token_file).context("channel.token_file")?;
    let client = match &config.ca_file {
        Some(file) => {
            Client::trusting(file).with_context(|| format!("channel.ca_file: {}", file.display()))?
        }
        None => Client::clear(),
    };
    let scheme = if config.tls { "https" } else { "http" };
    let query = Bytes::from(serde_json::to_vec(query)?);
    let mut asking = JoinSet::new();
    for other in others {
        let request = Request::post(format!("{scheme}://{other}{LOG}"))
            .header(header::AUTHORIZATION, token.authorization())
            .body(Full::from(query.clone()))?;
        let client = client.clone().from_address(config.address_towards(other));
        asking.spawn(async move { (other, ask(&client, request).await) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(other, _)| *other);
    Ok(answers)
}

async fn ask(client: &Client, request: Request<Full<Bytes>>) -> Result<Found, String> {
    let answer = client.fetch(request, LIMITS).await.map_err(|error| error.to_string())?;
    if answer.status() != StatusCode::OK {
        let said = String::from_utf8_lossy(answer.body()).into_owned();
        return Err(format!("{} {said}", answer.status()).trim_end().to_owned());
    }
    let Answer { events, unread } =
        serde_json::from_slice(answer.body()).map_err(|error| format!("not understood: {error}"))?;
    Ok(Found { events, unread })
}
