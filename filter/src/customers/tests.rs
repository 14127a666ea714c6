use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::{Config as Whole, Customers as Config};

fn config(text: &str) -> Config {
    let text = format!("[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n{text}");
    weir_daemon::config::parse::<Whole>("filter.toml", &text)
        .unwrap_or_else(|error| panic!("{error}"))
        .customers
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A provider's service: it says what `answer` says now, and counts what it was asked.
struct Service {
    url: String,
    answer: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

use std::sync::Mutex;

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ip/{{address}}", listener.local_addr().unwrap());
        let answer = Arc::new(Mutex::new(None));
        let asked = Arc::new(AtomicUsize::new(0));
        let (say, count) = (answer.clone(), asked.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (say, count) = (say.clone(), count.clone());
                tokio::spawn(async move {
                    let mut request = vec![0; 2048];
                    let length = stream.read(&mut request).await.unwrap();
                    assert!(request[..length].starts_with(b"GET /ip/"));
                    count.fetch_add(1, Ordering::SeqCst);
                    let answer: Option<String> = say.lock().unwrap().clone();
                    match answer {
                        // Hung.
                        None => tokio::time::sleep(Duration::from_secs(60)).await,
                        Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                    }
                });
            }
        });
        Self { url, answer, asked }
    }

    fn say(&self, body: &str) {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        *self.answer.lock().unwrap() = Some(answer);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn customers(&self, more: &str) -> Customers {
        let text = format!("[customers.api]\nurl = \"{}\"\ntimeout_ms = 200\n{more}", self.url);
        Customers::new(&config(&text)).unwrap()
    }
}

#[tokio::test]
async fn the_service_is_asked_once_for_each_source() {
    let service = Service::start().await;
    service.say("{\"id\": 4711, \"plan\": \"vps\", \"limits\": {\"minute\": 5}}");
    let customers = Arc::new(service.customers(""));
    let many = (0..20).map(|_| {
        let customers = customers.clone();
        tokio::spawn(async move { customers.of(address("10.1.7.1")).await })
    });
    for one in many.collect::<Vec<_>>() {
        let found = one.await.unwrap();
        let customer = found.owner.customer.unwrap();
        assert_eq!((customer.id.as_str(), &customer.metadata["limits"]["minute"]), ("4711", &5.into()));
        assert!(!found.changed);
    }
    assert_eq!(service.asked(), 1);
    // A /64 is one source.
    for bits in 1..20 {
        customers.of(address(&format!("fd01::{bits}"))).await;
    }
    assert_eq!(service.asked(), 2);
    let seen: Vec<String> = customers.addresses_of("4711").iter().map(ToString::to_string).collect();
    assert_eq!(seen, ["10.1.7.1/32", "fd01::/64"]);
}

#[tokio::test]
async fn nobody_and_answers_that_are_none() {
    let service = Service::start().await;
    let customers = service.customers("");
    for (number, (answer, unknown)) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"id\": null}", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{\"id\": \"10.1.0.1\"}", true),
        ("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n", true),
        ("nonsense\r\n\r\n", true),
    ]
    .into_iter()
    .enumerate()
    {
        *service.answer.lock().unwrap() = Some(answer.to_owned());
        let asked = address(&format!("10.1.7.{number}"));
        let owner = customers.of(asked).await.owner;
        assert_eq!((owner.customer.is_none(), owner.unknown), (true, unknown), "{answer}");
        assert_eq!(owner.identity(asked).to_string(), asked.to_string());
    }
    let status = customers.status();
    assert_eq!((&status["api"]["failed"], &status["api"]["unknown"]), (&4.into(), &4.into()), "{status}");
}

#[tokio::test]
async fn a_hung_service_is_waited_for_once_and_the_last_answer_holds() {
    let service = Service::start().await;
    service.say("{\"id\": \"a\"}");
    let customers = service.customers("cache = 1\nstale = 3600\n");
    customers.of(address("10.1.7.1")).await;
    *service.answer.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let begun = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(customers.of(address("10.1.7.1")).await.owner.id(), Some("a"));
        assert!(customers.of(address("10.1.7.2")).await.owner.unknown);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!((service.asked(), &customers.status()["api"]["answered_stale"]), (3, &10.into()));
}

#[tokio::test]
async fn an_address_that_changes_its_owner() {
    let service = Service::start().await;
    service.say("{\"id\": \"a\"}");
    let customers = service.customers("");
    assert!(!customers.of(address("10.1.7.1")).await.changed);
    service.say("{\"id\": \"b\"}");
    assert_eq!(customers.of(address("10.1.7.1")).await.owner.id(), Some("a"));
    customers.forget(address("10.1.7.1"));
    let found = customers.of(address("10.1.7.1")).await;
    assert_eq!((found.owner.id(), found.changed), (Some("b"), false));
    assert!(customers.addresses_of("a").is_empty());
}

#[tokio::test]
async fn a_file_that_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("customers.csv");
    let write = |text: &str| {
        fs::write(directory.path().join("new"), text).unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
    };
    write("prefix,id\n10.1.7.0/24,a\n");
    let text = format!(
        "[customers]\nfile = \"{}\"\n[[customers.prefixes]]\nprefix = \"10.1.8.0/24\"\nid = \"c\"\nmetadata = {{ plan = \"x\" }}\n",
        path.display()
    );
    let customers = Customers::new(&config(&text)).unwrap();
    let who = async |asked: &str| customers.of(address(asked)).await;
    assert_eq!(who("10.1.7.1").await.owner.id(), Some("a"));
    assert_eq!(who("10.1.8.1").await.owner.customer.unwrap().metadata["plan"], "x");
    let before = customers.generation();
    customers.refresh();
    assert_eq!(customers.generation(), before);

    write("prefix,id\n10.1.7.0/24,b\n10.1.8.0/24,d\n");
    customers.refresh();
    let problem = customers.status()["file_problem"].to_string();
    assert!(problem.contains("line 3: 10.1.8.0/24 is there already"), "{problem}");
    assert_eq!(who("10.1.7.1").await.owner.id(), Some("a"));

    write("prefix,id\n10.1.7.0/24,b\n");
    customers.refresh();
    assert!(customers.status()["file_problem"].is_null() && customers.generation() > before);
    let found = who("10.1.7.1").await;
    assert_eq!((found.owner.id(), found.changed), (Some("b"), true));
    assert!(!who("10.1.7.1").await.changed);
    fs::remove_file(&path).unwrap();
    customers.refresh();
    assert!(customers.status()["file_problem"].to_string().contains("No such file"));
    assert!(Customers::new(&config(&text)).is_err());
}
