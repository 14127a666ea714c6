//! `GET /metrics`, and nothing else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// What is said when somebody asks. May block.
type Text = dyn Fn() -> Result<String, prometheus::Error> + Send + Sync;

/// Connections at a time, and of them those from one address.
const MAX_CONNECTIONS: usize = 16;
const MAX_FROM_ONE: usize = 4;

/// For the head of a request, and for a whole one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection lives, whether its answers are read or not: Prometheus makes another.
const LIFE: Duration = Duration::from_secs(300);

/// After a failed bind or accept the next try waits. An agent that takes over waits so for the other's address.
const PAUSE: Duration = Duration::from_secs(1);

/// The text format's type.
const FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Answers on these addresses until it is dropped.
pub async fn serve(
    listen: Vec<SocketAddr>,
    text: impl Fn() -> Result<String, prometheus::Error> + Send + Sync + 'static,
) {
    let text: Arc<Text> = Arc::new(text);
    let room = Arc::new(Room::default());
    let mut listening = JoinSet::new();
    for address in listen {
        listening.spawn(accept(address, text.clone(), room.clone()));
    }
    listening.join_all().await;
}

/// Connections by peer.
#[derive(Debug, Default)]
struct Room(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place, until it is dropped.
struct Place {
    room: Arc<Room>,
    peer: IpAddr,
}

impl Room {
    fn enter(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = peer.to_canonical();
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.values().sum::<usize>() == MAX_CONNECTIONS || peers.get(&peer) == Some(&MAX_FROM_ONE) {
            return None;
        }
        *peers.entry(peer).or_default() += 1;
        Some(Place { room: self.clone(), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut peers = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = peers.entry(self.peer) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

async fn accept(address: SocketAddr, text: Arc<Text>, room: Arc<Room>) {
    let listener = bind(address).await;
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(cause) => {
                    warn!(%cause, %address, "accept for metrics");
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
        if let Some(place) = room.enter(peer.ip()) {
            let text = text.clone();
            connections.spawn(async move {
                converse(stream, text).await;
                drop(place);
            });
        }
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!(%address, "metrics");
                return listener;
            }
            Err(cause) if !std::mem::replace(&mut told, true) => {
                warn!(%cause, %address, "no metrics here yet: tried again every second");
            }
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

async fn converse(stream: TcpStream, text: Arc<Text>) {
    let service = service_fn(move |request| {
        let text = text.clone();
        async move { Ok::<_, Infallible>(answer(&request, text).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_headers(64).max_buf_size(16 * 1024);
    if let Ok(Err(cause)) = timeout(LIFE, http.serve_connection(TokioIo::new(stream), service)).await {
        debug!(%cause, "metrics");
    }
}

async fn answer<B>(request: &Request<B>, text: Arc<Text>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        return said(StatusCode::NOT_FOUND, "metrics are at /metrics\n".into());
    }
    if request.method() != Method::GET {
        let mut refused = said(StatusCode::METHOD_NOT_ALLOWED, String::new());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    match timeout(PATIENCE, tokio::task::spawn_blocking(move || text())).await {
        Ok(Ok(Ok(text))) => said(StatusCode::OK, text),
        Ok(Ok(Err(error))) => said(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        Ok(Err(_)) | Err(_) => said(StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n".into()),
    }
}

fn said(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, FORMAT);
    answer
}

#[cfg(test)]
mod tests {
    use super::{IpAddr, MAX_CONNECTIONS, MAX_FROM_ONE, Room};
    use std::sync::Arc;

    #[test]
    fn no_peer_takes_all_places() {
        let room = Arc::new(Room::default());
        let peer = |number: u8| IpAddr::from([10, 0, 0, number]);
        let mut places: Vec<_> = (0..MAX_FROM_ONE).map(|_| room.enter(peer(1)).unwrap()).collect();
        assert!(room.enter(peer(1)).is_none());
        assert!(room.enter("::ffff:10.0.0.1".parse().unwrap()).is_none());
        places.extend((2..).map_while(|number| room.enter(peer(number))));
        assert_eq!(places.len(), MAX_CONNECTIONS);
        drop(places);
        assert!(room.enter(peer(1)).is_some());
        assert!(room.0.lock().unwrap().is_empty());
    }
}
