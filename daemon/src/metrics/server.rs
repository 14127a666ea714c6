//! `GET /metrics`, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// What is said when somebody asks. May block.
type Text = dyn Fn() -> Result<String, prometheus::Error> + Send + Sync;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 16;

/// For the head of a request, and for a whole one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection lives: Prometheus makes another.
const LIFE: Duration = Duration::from_secs(3600);

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
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut listening = JoinSet::new();
    for address in listen {
        listening.spawn(accept(address, text.clone(), room.clone()));
    }
    listening.join_all().await;
}

async fn accept(address: SocketAddr, text: Arc<Text>, room: Arc<Semaphore>) {
    let listener = bind(address).await;
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(cause) => {
                    warn!(%cause, %address, "accept for metrics");
                    sleep(PAUSE).await;
                    continue;
                }
            },
        };
        if let Ok(permit) = room.clone().try_acquire_owned() {
            let text = text.clone();
            connections.spawn(async move {
                converse(stream, text).await;
                drop(permit);
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
