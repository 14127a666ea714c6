//! The server over real sockets, with a spamd that answers as it is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weir_daemon::listeners::Listeners;

use super::{Node, listen, serve};
use crate::config::Config;
use crate::events::{Query, Records, search};
use crate::rate::Ask;

const LONG: Duration = Duration::from_secs(20);

struct Running {
    node: Arc<Node>,
    address: std::net::SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn configured(sections: &str) -> Config {
    let text = format!("[smtp]\nlisten = [\"127.0.0.1:0\"]\nproxies = [\"127.0.0.1/32\"]\n{sections}");
    weir_daemon::config::parse("test", &text).unwrap_or_else(|problems| panic!("{problems}"))
}

async fn start(sections: &str) -> Running {
    let config = configured(sections);
    run(&config, Node::new(&config).unwrap()).await
}

async fn run(config: &Config, node: Node) -> Running {
    let node = Arc::new(node);
    let listeners = listen(&mut Listeners::default(), &config.smtp.listen, "smtp.listen").await.unwrap();
    let address = listeners[0].local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(serve(node.clone(), listeners, stopped, LONG));
    Running { node, address, stop, task }
}

/// Says all of it and reads until the server closes.
async fn talk(address: std::net::SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut replies = String::new();
    tokio::time::timeout(LONG, stream.read_to_string(&mut replies)).await.unwrap().unwrap();
    replies
}

fn message(id: &str, body: &str) -> String {
    format!(
        "XCLIENT ADDR=10.1.0.2 HELO=h DESTADDR=10.9.0.2 DESTPORT=25\r\nEHLO h\r\nXFORWARD IDENT={id}\r\n\
         MAIL FROM:<s@example.org>\r\nRCPT TO:<r@example.net>\r\nDATA\r\n{body}\r\n.\r\nQUIT\r\n"
    )
}

fn chunks(id: &str, chunks: &[&str]) -> String {
    let text = message(id, "");
    let (envelope, _) = text.split_once("DATA").unwrap();
    let chunks = chunks.iter().map(|chunk| format!("BDAT {}\r\n{chunk}", chunk.len()));
    format!("{envelope}{}BDAT 0 LAST\r\nQUIT\r\n", chunks.collect::<String>())
}

/// A spamd that gives every message this answer, and gives back what it was sent.
async fn spamd(answer: &'static str) -> (std::net::SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = String::new();
        stream.read_to_string(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        request
    });
    (address, task)
}

const REJECT: &str = "[policy]\npreset = \"reject\"\n";

#[tokio::test]
async fn messages_are_judged_counted_and_limited() {
    let running = start("[limits]\nmessages_per_minute = 1\n").await;
    let first = talk(running.address, &message("one", "hello")).await;
    assert!(first.contains("250 2.0.0 accepted (one)\r\n221 "), "{first}");
    let second = talk(running.address, &message("two", "hello")).await;
    assert!(second.contains("451 4.7.1 You may only send 1 message a minute, try later (two)"), "{second}");
    let status = crate::status::status(&running.node, &[]);
    assert_eq!(status["messages"]["accepted"], 1);
    assert_eq!(status["messages"]["deferred"], 1);
    assert_eq!(status["counters"]["keys"], 2);
}

#[tokio::test]
async fn strangers_get_554_at_connect() {
    let running = start("").await;
    let stranger = tokio::net::TcpSocket::new_v4().unwrap();
    stranger.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut stream = stranger.connect(running.address).await.unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).await.unwrap();
    assert_eq!(replies, "554 5.7.1 127.0.0.2 is none of the proxies that may use this node\r\n");
}

#[tokio::test]
async fn spam_is_rejected_and_the_scanner_sees_who_sent_it() {
    let (address, seen) = spamd("SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1000.0 / 5.0\r\n\r\nGTUBE").await;
    let running = start(&format!("{REJECT}[spamassassin]\naddress = \"{address}\"\n")).await;
    let replies = talk(running.address, &message("spam", "Subject: x\r\n\r\n..body")).await;
    assert!(replies.contains("550 5.7.1 SpamAssassin score 1000.0 is at or above 6.0 (spam)"), "{replies}");
    let request = seen.await.unwrap();
    let (head, copy) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(head, format!("SYMBOLS SPAMC/1.5\r\nContent-length: {}", copy.len()));
    let start = "Return-Path: <s@example.org>\r\nReceived: from h (unknown [10.1.0.2])\r\n";
    assert!(copy.starts_with(start) && copy.ends_with("+0000\r\nSubject: x\r\n\r\n.body\r\n"), "{copy}");
}

/// Whether the body is kept in memory or in a file.
#[tokio::test]
async fn the_scanner_sees_the_octets_of_chunks_as_they_are() {
    let body = "Subject: x\n\r\n.\r\n\0\rno end";
    for memory in [4, 4096] {
        let (address, seen) = spamd("SPAMD/1.1 0 EX_OK\r\nSpam: True ; 7.0 / 5.0\r\n\r\nRULE").await;
        let spool =
            format!("[spool]\nmemory_per_message = {memory}\ndirectory = {:?}\n", std::env::temp_dir());
        let running = start(&format!("{REJECT}[spamassassin]\naddress = \"{address}\"\n{spool}")).await;
        let replies = talk(running.address, &chunks("c", &[&body[..3], &body[3..14], &body[14..]])).await;
        let verdict =
            "250 2.0.0 10 octets\r\n550 5.7.1 SpamAssassin score 7.0 is at or above 6.0 (c)\r\n221 ";
        assert!(replies.contains(verdict), "{replies}");
        let request = seen.await.unwrap();
        let (head, copy) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, format!("SYMBOLS SPAMC/1.5\r\nContent-length: {}", copy.len()));
        assert!(copy.ends_with(&format!("+0000\r\n{body}")), "{copy}");
    }
}

#[tokio::test]
async fn chunks_that_are_too_large_together_are_refused_at_the_last() {
    let running = start("max_message_size = 1000\n").await;
    let chunk = "x".repeat(600);
    let replies = talk(running.address, &chunks("l", &[&chunk, &chunk])).await;
    let verdict = "250 2.0.0 600 octets\r\n552 5.3.4 message larger than 1000 octets (l)\r\n221 ";
    assert!(replies.contains(verdict), "{replies}");
}

/// Else the time for a body would go on to the next one, and cut an idle connection.
#[tokio::test]
async fn a_dropped_body_has_no_time_limit_any_more() {
    let running = start("data_timeout = 1\n").await;
    let text = chunks("d", &["half"]);
    let (before, _) = text.split_once("BDAT 0 LAST").unwrap();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(format!("{before}RSET\r\n").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stream.write_all(b"QUIT\r\n").await.unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).await.unwrap();
    assert!(replies.ends_with("250 2.0.0 4 octets\r\n250 2.0.0 ok\r\n221 2.0.0 bye\r\n"), "{replies}");
}

#[tokio::test]
async fn a_scanner_that_is_away_is_treated_as_configured() {
    let nobody = "[spamassassin]\naddress = \"127.0.0.1:1\"\n";
    let lenient = start(nobody).await;
    let replies = talk(lenient.address, &message("a", "x")).await;
    assert!(replies.contains("250 2.0.0 accepted (a)"), "{replies}");
    let status = crate::status::status(&lenient.node, &[]);
    assert_eq!(
        (&status["messages"]["unscanned"], &status["scanners"]["spamassassin"]["failed"]),
        (&1.into(), &1.into())
    );
    let strict = start(&format!("{nobody}when_away = \"defer\"\n")).await;
    let replies = talk(strict.address, &message("b", "x")).await;
    assert!(
        replies.contains("451 4.7.1 Temporarily unable to scan your message, try later (b)"),
        "{replies}"
    );
}

/// It would count against a customer of whom the active policy knows nothing bad.
#[tokio::test]
async fn what_only_a_candidate_had_scanned_is_no_part_of_the_message() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("active.luau"), "function data() accept() end").unwrap();
    let candidate =
        "function data() if scan('spamassassin').score > 5 then reject('spam') end scan('clamav') end";
    std::fs::write(path("candidate.luau"), candidate).unwrap();
    std::fs::create_dir(path("events")).unwrap();
    let (address, _seen) = spamd("SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1000.0 / 5.0\r\n\r\nGTUBE").await;
    let sections = format!(
        "[spamassassin]\naddress = \"{address}\"\n[clamav]\naddress = \"127.0.0.1:1\"\n[reputation]\nenabled = true\n\
         [script]\nfile = {:?}\ncandidate = {:?}\n[events]\ndirectory = {:?}\n",
        path("active.luau"),
        path("candidate.luau"),
        path("events")
    );
    let config = configured(&sections);
    let mut node = Node::new(&config).unwrap().with_scripts(&config).await.unwrap();
    node.records = Records::open(&config.events).unwrap();
    let running = run(&config, node).await;
    let node = &running.node;
    let replies = talk(running.address, &message("m", "Subject: x\r\n\r\nbody")).await;
    assert!(replies.contains("250 2.0.0 accepted (m)"), "{replies}");
    let status = crate::status::status(node, &[]);
    assert_eq!(status["scanners"]["spamassassin"]["scanned"], 1, "{status}");
    assert_eq!(status["messages"]["unscanned"], 0, "{status}");
    let sum = |namespace: &str| {
        let ask = Ask { namespace, key: "10.1.0.2", limit: 0, seconds: 7 * 86_400, weight: 1, message: None };
        node.policy.counters().memory().ask(ask, node.clock.now()).sum
    };
    // Noted beside the verdict.
    while sum("reputation-messages") == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(sum("reputation-points"), 0);
    node.records.as_ref().unwrap().writer.sync();
    let query = Query { limit: 10, ..Query::default() };
    let event = search(&path("events"), &query).unwrap().events.remove(0);
    assert!(event.scores.is_empty() && event.bypassed.is_empty(), "{event:?}");
    assert!(!event.steps.iter().any(|step| step.step == "spamassassin"), "{event:?}");
}

#[tokio::test]
async fn too_large_and_unstorable_messages_get_their_answers() {
    let running =
        start("max_message_size = 1000\n[spool]\nmemory_per_message = 100\ndirectory = \"/nonexistent\"\n")
            .await;
    let large = talk(running.address, &message("l", &"x".repeat(2000))).await;
    assert!(large.contains("552 5.3.4 message larger than 1000 octets (l)\r\n221 "), "{large}");
    let stored = talk(running.address, &message("s", &"x".repeat(500))).await;
    assert!(stored.contains("451 4.3.1 temporarily out of room for your message, try later (s)"), "{stored}");
}

#[tokio::test]
async fn sessions_are_bounded_and_silence_ends() {
    let running = start("max_sessions = 1\nidle_timeout = 1\n").await;
    let mut first = TcpStream::connect(running.address).await.unwrap();
    let mut banner = [0; 4];
    first.read_exact(&mut banner).await.unwrap();
    let second = talk(running.address, "").await;
    assert!(second.starts_with("421 4.3.2 too many connections"), "{second}");
    let mut rest = String::new();
    first.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("421 4.4.2 timed out, closing\r\n"), "{rest}");
}

#[tokio::test]
async fn a_stop_finishes_the_message_in_flight() {
    let running = start("").await;
    let text = message("last", "body");
    let (before, after) = text.split_at(text.find("body").unwrap());
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let mut busy = TcpStream::connect(running.address).await.unwrap();
    busy.write_all(before.as_bytes()).await.unwrap();
    let mut replies = Vec::new();
    while !replies.ends_with(b"own\r\n") {
        assert!(busy.read_buf(&mut replies).await.unwrap() > 0);
    }
    running.stop.send_replace(true);
    let mut said = String::new();
    idle.read_to_string(&mut said).await.unwrap();
    assert!(said.ends_with("421 4.3.2 shutting down, closing\r\n"), "{said}");
    busy.write_all(after.as_bytes()).await.unwrap();
    let mut rest = String::new();
    busy.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("250 2.0.0 accepted (last)\r\n"), "{rest}");
    tokio::time::timeout(LONG, running.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(running.address).await.is_err());
}
