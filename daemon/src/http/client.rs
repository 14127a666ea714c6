//! One request, one answer.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What one request may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first packet to the last octet.
    pub time: Duration,
    /// Octets of the answer's body.
    pub body: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{url} is no address of a service: http://host:port/path, or https")]
    Url { url: String },
    #[error("https, but no ca_file says whose certificates are trusted")]
    NoAuthorities,
    #[error("no answer within {} ms", limit.as_millis())]
    TimedOut { limit: Duration },
    #[error("connect: {0}")]
    Connect(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is longer than {limit} octets")]
    TooLarge { limit: usize },
    #[error("the answer broke off: {0}")]
    Broken(String),
}

/// Makes requests. Cheap to copy.
#[derive(Clone, Default)]
pub struct Client {
    tls: Option<Arc<ClientConfig>>,
    source: Option<IpAddr>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("tls", &self.tls.is_some()).finish()
    }
}

impl Client {
    /// Without TLS.
    pub fn clear() -> Self {
        Self::default()
    }

    /// With `https` too: certificates have to be signed by an authority in this file of PEM, and made out to the host.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn trusting(authorities: &Path) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities).map_err(io::Error::other)? {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
        if roots.is_empty() {
            return Err(io::Error::other("no certificate in PEM"));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Some(Arc::new(config)), source: None })
    }

    /// Asks from this address, by which the service knows it; services of another family are not reached.
    #[must_use]
    pub fn from_address(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// Asks the service that the request's URI names.
    ///
    /// # Errors
    /// If there is no whole answer within the limits. An answer that says no is one.
    pub async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        limits: Limits,
    ) -> Result<Response<Bytes>, Failure> {
        let limit = limits.time;
        timeout(limit, self.converse(request, limits.body)).await.unwrap_or(Err(Failure::TimedOut { limit }))
    }

    async fn converse(
        &self,
        request: Request<Full<Bytes>>,
        max_body: usize,
    ) -> Result<Response<Bytes>, Failure> {
        let place = Place::of(request.uri())?;
        let stream = self.connect(&place).await.map_err(Failure::Connect)?;
        if !place.secure {
            return exchange(stream, prepare(request), max_body).await;
        }
        let tls = self.tls.clone().ok_or(Failure::NoAuthorities)?;
        let name = ServerName::try_from(place.host).map_err(|error| Failure::Tls(io::Error::other(error)))?;
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(Failure::Tls)?;
        exchange(stream, prepare(request), max_body).await
    }
}

impl Client {
    async fn connect(&self, place: &Place) -> io::Result<TcpStream> {
        let to = (place.host.as_str(), place.port);
        let Some(source) = self.source else { return TcpStream::connect(to).await };
        let mut found = lookup_host(to).await?;
        let of_family = found.find(|address| address.is_ipv4() == source.is_ipv4());
        let to =
            of_family.ok_or_else(|| io::Error::other(format!("has no address that {source} reaches")))?;
        let socket = if source.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind((source, 0).into())?;
        socket.connect(to).await
    }
}

struct Place {
    secure: bool,
    host: String,
    port: u16,
}

impl Place {
    fn of(uri: &Uri) -> Result<Self, Failure> {
        let wrong = || Failure::Url { url: uri.to_string() };
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host, port })
    }
}

/// As it goes over the wire to the service itself: the path alone, and the host in a header (RFC 9112 section 3.2.1).
fn prepare(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let host = request.uri().authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse().unwrap_or_default();
    *request.uri_mut() = path;
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    request
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    max_body: usize,
) -> Result<Response<Bytes>, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, max_body).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                Failure::TooLarge { limit: max_body }
            } else {
                Failure::Broken(error.to_string())
            }
        })?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    };
    // Both in this task, so that nothing is left of it when it is given up.
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        ended = connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error.into()),
        },
    }
}
