//! HTTP requests of scripts to the provider's own services, kept for a while where the script says so.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use weir_daemon::http::{Client, Full, Limits, Method, Request, Uri, header};

use crate::bounded::Bounded;

/// Octets of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Requests at a time.
const CONCURRENCY: usize = 50;

/// Answers kept, and for how many seconds at most.
const MAX_KEPT: usize = 1000;
pub const MAX_CACHE: u64 = 86_400;

/// For one request, if the script says nothing else.
const TIMEOUT: Duration = Duration::from_secs(2);

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub url: String,
    pub post: bool,
    pub body: String,
    pub content_type: Option<String>,
    /// For how long an answer holds.
    pub cache: Duration,
    pub timeout: Duration,
}

impl Fetch {
    /// GET.
    pub fn new(url: String) -> Self {
        Self {
            url,
            post: false,
            body: String::new(),
            content_type: None,
            cache: Duration::ZERO,
            timeout: TIMEOUT,
        }
    }
}

/// The status and the body of an answer, or why there is none.
pub type Fetched = Result<(u16, Vec<u8>), String>;

/// What an answer depends on.
type Key = (bool, String, String, Option<String>);

/// Since when it is kept.
type Kept = (Instant, u16, Vec<u8>);

#[derive(Debug)]
pub struct Fetcher {
    client: Client,
    hosts: Vec<Host>,
    turns: Semaphore,
    kept: Mutex<Bounded<Key, Kept>>,
    asked: AtomicU64,
    failed: AtomicU64,
}

/// Where scripts may ask: `host`, at the port of the scheme, or `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    name: String,
    port: Option<u16>,
}

impl Host {
    /// None: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let uri: Uri = format!("http://{text}/").parse().ok()?;
        let plain = uri.path() == "/" && uri.query().is_none() && !text.contains('@');
        let name = uri.host().filter(|name| plain && !name.is_empty())?.to_ascii_lowercase();
        let port = uri.port_u16();
        // A port that is no number would be taken for none.
        (text.eq_ignore_ascii_case(&name) || port.is_some()).then_some(Self { name, port })
    }

    fn admits(&self, name: &str, port: u16, usual: u16) -> bool {
        self.name == name && self.port.unwrap_or(usual) == port
    }
}

impl Fetcher {
    /// `authorities`: a file in PEM with those whose certificates are trusted, for https.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(hosts: &[String], authorities: Option<&Path>) -> anyhow::Result<Self> {
        let client = match authorities {
            Some(file) => {
                Client::trusting(file).with_context(|| format!("script.http_ca_file: {}", file.display()))?
            }
            None => Client::clear(),
        };
        Ok(Self {
            client,
            hosts: hosts.iter().filter_map(|host| Host::parse(host)).collect(),
            turns: Semaphore::new(CONCURRENCY),
            kept: Mutex::new(Bounded::new(MAX_KEPT)),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// # Errors
    /// If there may be no such request.
    pub async fn fetch(&self, fetch: &Fetch) -> Result<Fetched, String> {
        let uri = self.admitted(&fetch.url)?;
        let key = (fetch.post, fetch.url.clone(), fetch.body.clone(), fetch.content_type.clone());
        if let Some((at, status, body)) = self.kept().get(&key)
            && at.elapsed() < fetch.cache
        {
            return Ok(Ok((*status, body.clone())));
        }
        self.asked.fetch_add(1, Relaxed);
        let began = Instant::now();
        let answered = match timeout(fetch.timeout, self.turns.acquire()).await {
            Ok(Ok(_turn)) => self.converse(uri, fetch, began).await,
            Ok(Err(_)) | Err(_) => Err("too many requests at a time".to_owned()),
        };
        match &answered {
            // What failed at the service is asked anew.
            Ok((status, body)) if *status < 500 && !fetch.cache.is_zero() => {
                self.kept().insert(key, (Instant::now(), *status, body.clone()));
            }
            Ok(_) => {}
            Err(cause) => {
                self.failed.fetch_add(1, Relaxed);
                tracing::debug!(url = fetch.url, cause, "http of a script");
            }
        }
        Ok(answered)
    }

    async fn converse(&self, uri: Uri, fetch: &Fetch, began: Instant) -> Fetched {
        let method = if fetch.post { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(kind) = &fetch.content_type {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(Full::from(fetch.body.clone())).map_err(|error| error.to_string())?;
        let time = fetch.timeout.saturating_sub(began.elapsed());
        let answer = self.client.fetch(request, Limits { time, body: MAX_ANSWER }).await;
        let answer = answer.map_err(|error| error.to_string())?;
        Ok((answer.status().as_u16(), answer.into_body().to_vec()))
    }

    /// # Errors
    /// If scripts may not ask there.
    pub fn admits(&self, url: &str) -> Result<(), String> {
        self.admitted(url).map(drop)
    }

    /// The URL, if scripts may ask there.
    fn admitted(&self, url: &str) -> Result<Uri, String> {
        let wrong = || format!("{url:?} is no URL: http://host:port/path, or https");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let usual = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let name = authority.host().to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(usual);
        let admitted = self.hosts.iter().any(|host| host.admits(&name, port, usual));
        if authority.as_str().contains('@') || !admitted {
            return Err(format!("{authority} is none of script.http_hosts"));
        }
        Ok(uri)
    }

    pub fn status(&self) -> Value {
        json!({ "asked": self.asked.load(Relaxed), "failed": self.failed.load(Relaxed) })
    }

    fn kept(&self) -> MutexGuard<'_, Bounded<Key, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Says how often it was asked, and what.
    async fn service() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Relaxed) + 1;
                let mut asked = vec![0; 4096];
                let length = stream.read(&mut asked).await.unwrap();
                let asked = String::from_utf8_lossy(&asked[..length]).into_owned();
                let (line, body) = (asked.lines().next().unwrap(), asked.rsplit("\r\n").next().unwrap());
                let status = if line.contains("/broken") { "500 Broken" } else { "200 OK" };
                if line.contains("/silent") {
                    continue;
                }
                let text = format!("{number} {line} {body}");
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, counted)
    }

    async fn ask(fetcher: &Fetcher, fetch: &Fetch) -> Result<(u16, String), String> {
        let (status, body) = fetcher.fetch(fetch).await.unwrap()?;
        Ok((status, String::from_utf8(body).unwrap()))
    }

    #[tokio::test]
    async fn answers_are_kept_as_long_as_is_said() {
        let (address, count) = service().await;
        let fetcher = Fetcher::new(std::slice::from_ref(&address), None).unwrap();
        let get = Fetch { cache: Duration::from_secs(60), ..Fetch::new(format!("http://{address}/a")) };
        let told = (200, "1 GET /a HTTP/1.1 ".to_owned());
        assert_eq!(ask(&fetcher, &get).await, Ok(told.clone()));
        assert_eq!(ask(&fetcher, &get).await, Ok(told));
        assert_eq!(count.load(Relaxed), 1);
        let anew = Fetch { cache: Duration::ZERO, ..get.clone() };
        assert_eq!(ask(&fetcher, &anew).await.unwrap().1, "2 GET /a HTTP/1.1 ");
        let post = Fetch { post: true, body: "x=1".into(), ..get };
        assert_eq!(ask(&fetcher, &post).await.unwrap().1, "3 POST /a HTTP/1.1 x=1");
        let broken = Fetch { url: format!("http://{address}/broken"), ..post };
        assert_eq!(ask(&fetcher, &broken).await.unwrap().0, 500);
        assert_eq!(ask(&fetcher, &broken).await.unwrap().0, 500);
        assert_eq!(count.load(Relaxed), 5);
    }

    #[tokio::test]
    async fn silence_is_an_answer_in_time_and_only_named_hosts_are_asked() {
        let (address, count) = service().await;
        let fetcher = Fetcher::new(std::slice::from_ref(&address), None).unwrap();
        let silent =
            Fetch { timeout: Duration::from_millis(100), ..Fetch::new(format!("http://{address}/silent")) };
        assert!(ask(&fetcher, &silent).await.is_err());
        assert_eq!(fetcher.status()["failed"], 1);
        let before = count.load(Relaxed);
        for (url, what) in [
            ("http://127.0.0.1:1/", "127.0.0.1:1 is none of script.http_hosts"),
            ("http://127.0.0.1/", "127.0.0.1 is none of"),
            (&format!("http://x@{address}/"), "is none of"),
            (&format!("http://{address}@other.example/"), "is none of"),
            ("ftp://127.0.0.1/", "is no URL"),
            ("/etc/passwd", "is no URL"),
            ("http://a b/", "is no URL"),
        ] {
            let refused = fetcher.fetch(&Fetch::new(url.to_owned())).await.unwrap_err();
            assert!(refused.contains(what), "{url}: {refused}");
        }
        assert_eq!(count.load(Relaxed), before);
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port_or_without() {
        for text in ["api.example", "API.example:8080", "127.0.0.1", "[::1]:80", "[::1]"] {
            assert!(Host::parse(text).is_some(), "{text}");
        }
        for text in ["", "http://x", "x/y", "a b", "x@y", "x:y", "x?y", "x:99999", ":80"] {
            assert!(Host::parse(text).is_none(), "{text}");
        }
        let host = Host::parse("api.example").unwrap();
        assert!(host.admits("api.example", 443, 443) && !host.admits("api.example", 8443, 443));
    }
}
