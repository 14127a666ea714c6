//! What a verdict costs, and a million counted keys: `make measure-verdicts`.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use weir_daemon::listeners::Listeners;
use weir_smtp::Envelope;
use weir_smtp::data::Findings;
use weir_smtp::envelope::{Mailbox, Path};

use super::conclusion::Judging;
use super::{Node, listen, serve, verdict};
use crate::body::Receiving;
use crate::config::Config;
use crate::message::{Customer, Transaction};
use crate::policy::Verdict;
use crate::rate::{Ask, Memory, Moment};

/// Connections, as agents have them.
const CLIENTS: usize = 8;
const MESSAGES: usize = 4000;
/// Messages without connections.
const INSIDE: u32 = 20_000;
/// So long that what else a machine does now and then is a small part of it.
const AT_HALF_LOAD: Duration = Duration::from_secs(5);

/// 2 kB, as a common message has.
const LINES: usize = 26;
const LINE: &str = "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789\r\n";

/// A node that keeps no events and asks no scanner.
const QUIET: &str = "[events]\ndirectory = \"\"\n[counters]\nfile = \"\"\n[blocks]\nfile = \"\"\n[privacy]\naudit_log = \"\"\n";

const FAR: &str = "[limits]\nmessages_per_minute = 4000000\nmessages_per_hour = 4000000\n\
                   customer_messages_per_minute = 4000000\ncustomer_messages_per_hour = 4000000\n";

#[test]
#[ignore = "a measurement: `make measure-verdicts`"]
fn verdicts() {
    let seed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/seed-000.luau");
    let script = format!("[script]\nfile = {seed:?}\n");
    for (name, sections) in [
        ("preset volume", "[outbreak]\nenabled = false\n[file_types]\nenabled = false\n"),
        ("preset volume, file types and outbreaks", ""),
        ("seed-000.luau, file types and outbreaks", &script),
    ] {
        let text = format!(
            "[smtp]\nlisten = [\"127.0.0.1:0\"]\nproxies = [\"127.0.0.1/32\"]\nmax_sessions = 1000\n{FAR}{QUIET}{sections}"
        );
        let config: Config = weir_daemon::config::parse("measurement", &text).unwrap();
        let Inside { rate, at_half_load } = inside(&config);
        println!(
            "{name}: {rate:.0} verdicts a second and core inside of the process; at half of that p50 {:.2} ms, p99 {:.2} ms",
            milliseconds(&at_half_load, 50),
            milliseconds(&at_half_load, 99)
        );
        let (used, mut latencies) = judge(&config);
        latencies.sort_unstable();
        println!(
            "{name}: {:.0} verdicts a second and core ({:.0} us of the processor each, sessions included); \
             {CLIENTS} at a time: p50 {:.1} ms, p99 {:.1} ms",
            latencies.len() as f64 / used.as_secs_f64(),
            used.as_secs_f64() * 1e6 / latencies.len() as f64,
            milliseconds(&latencies, 50),
            milliseconds(&latencies, 99)
        );
    }
}

/// Of what is in order: below which so many of a hundred are.
fn milliseconds(sorted: &[Duration], of_hundred: usize) -> f64 {
    sorted[(sorted.len() - 1) * of_hundred / 100].as_secs_f64() * 1000.0
}

/// What verdicts without connections cost.
struct Inside {
    /// For a second of the processor.
    rate: f64,
    /// From when a message came to its verdict, with half as many as there can be, in order.
    at_half_load: Vec<Duration>,
}

fn inside(config: &Config) -> Inside {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = Arc::new(Node::new(config).unwrap().with_scripts(config).await.unwrap());
        let before = used(ClockId::CLOCK_PROCESS_CPUTIME_ID);
        for number in 0..INSIDE {
            assert_eq!(one(&node, number).await, Verdict::Accept);
        }
        let each = (used(ClockId::CLOCK_PROCESS_CPUTIME_ID) - before) / INSIDE;
        let mut at_half_load = Vec::new();
        let mut due = Instant::now();
        let begin = Instant::now();
        // Of the same customers: a table that grows makes one message in thousands wait for it.
        for number in (0..INSIDE).cycle() {
            // They come by chance, the next after two verdicts' time on average; one that must wait its turn has waited.
            due += each.mul_f64(-2.0 * f64::ln(1.0 - rand::random::<f64>()));
            while Instant::now() < due {
                tokio::task::yield_now().await;
            }
            if due > begin + AT_HALF_LOAD {
                break;
            }
            assert_eq!(one(&node, number).await, Verdict::Accept);
            at_half_load.push(due.elapsed());
        }
        at_half_load.sort_unstable();
        Inside { rate: 1.0 / each.as_secs_f64(), at_half_load }
    })
}

/// A message of a customer of its own.
async fn one(node: &Arc<Node>, number: u32) -> Verdict {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
    let customer =
        Customer { address: address.into(), port: None, helo: None, protocol: None, destination: None };
    let mailbox = |path: &str| Mailbox { path: Path::new(path.as_bytes()), parameters: Vec::new() };
    let mut envelope = Envelope::new(mailbox("s@example.org"));
    envelope.recipients.push(mailbox("r@example.net"));
    let mut body = Receiving::new(node.spool.clone());
    let message = format!("Subject: {number}\r\n\r\n{}", LINE.repeat(LINES));
    body.append(message.as_bytes()).await;
    let findings = Findings { size: message.len() as u64, ..Findings::default() };
    let transaction = Transaction { id: format!("m{number}"), customer, envelope, findings };
    let judging = Judging::begin(Ipv4Addr::LOCALHOST.into(), None);
    verdict::on(node, &judging, transaction, body).await
}

/// How much of the processor the node had, and how long each message took.
fn judge(config: &Config) -> (Duration, Vec<Duration>) {
    let (said, heard) = std::sync::mpsc::channel();
    let (stop, stopped) = watch::channel(false);
    let config = config.clone();
    // On one thread, but for reading what is inside of messages.
    let node = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let node = Node::new(&config).unwrap().with_scripts(&config).await.unwrap();
            let listeners =
                listen(&mut Listeners::default(), &config.smtp.listen, "smtp.listen").await.unwrap();
            said.send(listeners[0].local_addr().unwrap()).unwrap();
            serve(Arc::new(node), listeners, stopped, Duration::from_secs(10)).await;
        });
    });
    let address = heard.recv().unwrap();
    let before = used(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            thread::spawn(move || {
                let mut stream = connect(address);
                let took: Vec<_> = (0..MESSAGES / CLIENTS)
                    .map(|number| {
                        // No limit is met, neither of the presets nor of the script.
                        let from = format!("10.{client}.{}.{}", number / 250, number % 250);
                        converse(&mut stream, &from, &format!("m{client}-{number}"))
                    })
                    .collect();
                (took, used(ClockId::CLOCK_THREAD_CPUTIME_ID))
            })
        })
        .collect();
    let (mut latencies, mut of_clients) = (Vec::new(), Duration::ZERO);
    for client in clients {
        let (took, used) = client.join().unwrap();
        latencies.extend(took);
        of_clients += used;
    }
    let all = used(ClockId::CLOCK_PROCESS_CPUTIME_ID) - before;
    stop.send_replace(true);
    node.join().unwrap();
    (all - of_clients, latencies)
}

/// As an agent does: the next message on the same connection.
fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    expect(&mut stream, "220");
    stream.get_mut().write_all(b"EHLO agent\r\n").unwrap();
    expect(&mut stream, "250");
    stream
}

/// As an agent says it: in groups, and the message when 354 has come.
fn converse(stream: &mut BufReader<TcpStream>, from: &str, id: &str) -> Duration {
    let began = Instant::now();
    stream.get_mut().write_all(format!("XCLIENT ADDR={from} HELO=h PROTO=ESMTP\r\n").as_bytes()).unwrap();
    expect(stream, "220");
    let envelope = format!(
        "EHLO h\r\nXFORWARD IDENT={id}\r\nMAIL FROM:<s@example.org>\r\nRCPT TO:<{id}@example.net>\r\nDATA\r\n"
    );
    stream.get_mut().write_all(envelope.as_bytes()).unwrap();
    expect(stream, "354");
    let message = format!("Subject: {id}\r\n\r\n{}.\r\n", LINE.repeat(LINES));
    stream.get_mut().write_all(message.as_bytes()).unwrap();
    expect(stream, "250");
    began.elapsed()
}

fn expect(stream: &mut BufReader<TcpStream>, code: &str) {
    let mut line = String::new();
    while !line.starts_with(&format!("{code} ")) {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "closed before {code}");
        assert!(!line.starts_with(['4', '5']), "{line}");
    }
}

fn used(clock: ClockId) -> Duration {
    clock_gettime(clock).unwrap().into()
}

#[test]
#[ignore = "a measurement: `make measure-verdicts`"]
fn a_million_keys() {
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    // What was freed may stay resident: the figure of the next would be too small.
    let mut kept = Vec::new();
    for (buckets, times) in [(1, 1), (4, 1), (60, 1), (60, 100), (60, 1000)] {
        let before = resident();
        let memory = Memory::new(1_000_000);
        for step in 0..buckets {
            for number in 0..1_000_000u64 {
                let key = format!("10.{}.{}.{}", number >> 16, number >> 8 & 0xff, number & 0xff);
                let ask = Ask {
                    namespace: "outbound-hour",
                    key: &key,
                    limit: u64::MAX,
                    seconds: 3600,
                    weight: times,
                    message: None,
                };
                memory.ask(ask, Moment(1_600_000_000_000 + step * 60_000));
            }
        }
        println!(
            "a million keys with one window of an hour, each with {times} in {buckets} of its buckets: {:.0} MB",
            (resident() - before) as f64 / 1e6
        );
        assert_eq!(memory.usage().keys, 1_000_000);
        kept.push(memory);
    }
}
