use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, MX, PTR, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record as Wire, RecordType};
use tokio::net::UdpSocket;

use super::*;

/// A name server on a port of its own, which knows these records and how often it was asked.
pub(crate) async fn server(records: &[(&str, RData)]) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut known: HashMap<String, Vec<RData>> = HashMap::new();
    for (name, data) in records {
        known.entry(format!("{name}.")).or_default().push(data.clone());
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        let mut octets = [0; 2000];
        loop {
            let (length, from) = socket.recv_from(&mut octets).await.unwrap();
            let mut message = Message::from_vec(&octets[..length]).unwrap();
            let query = message.queries[0].clone();
            count.fetch_add(1, Relaxed);
            let name = query.name().to_ascii().to_lowercase();
            message.metadata.message_type = hickory_resolver::proto::op::MessageType::Response;
            message.metadata.recursion_available = true;
            if name.starts_with("silent.") {
                continue;
            }
            match known.get(&name) {
                _ if name.starts_with("broken.") => message.metadata.response_code = ResponseCode::ServFail,
                None => message.metadata.response_code = ResponseCode::NXDomain,
                Some(records) => {
                    for data in records.iter().filter(|data| data.record_type() == query.query_type()) {
                        message.add_answer(Wire::from_rdata(query.name().clone(), 300, data.clone()));
                    }
                }
            }
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (address, asked)
}

pub(crate) fn a(text: &str) -> RData {
    RData::A(A(text.parse().unwrap()))
}

pub(crate) fn mx(exchange: &str) -> RData {
    RData::MX(MX::new(10, Name::from_ascii(exchange).unwrap()))
}

/// Long enough for a machine with much to do.
pub(crate) fn asking(server: SocketAddr) -> Dns {
    asking_for(server, 5000)
}

/// Where nobody answers.
pub(crate) fn asking_briefly(server: SocketAddr) -> Dns {
    asking_for(server, 300)
}

fn asking_for(server: SocketAddr, timeout_ms: u64) -> Dns {
    Dns::new(&Config { servers: vec![server.to_string()], timeout_ms, ..Config::default() }).unwrap()
}

#[tokio::test]
async fn records_of_each_kind_are_found() {
    let records = [
        ("example.org", a("192.0.2.1")),
        ("example.org", RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))),
        ("example.org", mx("mail.example.org.")),
        ("example.org", RData::TXT(TXT::new(vec!["v=".into(), "x".into()]))),
        ("7.2.0.192.in-addr.arpa", RData::PTR(PTR(Name::from_ascii("host.example.org.").unwrap()))),
    ];
    let (address, asked) = server(&records).await;
    let dns = asking(address);
    let one = async |name: &str, kind| match dns.ask(name, kind).await {
        Answer::Records(records) => records[0].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(one("example.org", Kind::A).await.v4(), Some([192, 0, 2, 1].into()));
    assert_eq!(one("Example.ORG.", Kind::Aaaa).await, Record::Address("2001:db8::1".parse().unwrap()));
    let exchange = "mail.example.org".to_owned();
    assert_eq!(one("example.org", Kind::Mx).await, Record::Mx { preference: 10, exchange });
    assert_eq!(one("example.org", Kind::Txt).await, Record::Text(b"v=x".to_vec()));
    let pointer = of_address("192.0.2.7".parse().unwrap());
    assert_eq!(one(&pointer, Kind::Ptr).await, Record::Name("host.example.org".into()));
    let before = asked.load(Relaxed);
    one("example.org", Kind::Txt).await;
    assert_eq!(asked.load(Relaxed), before, "kept");
}

#[tokio::test]
async fn nothing_is_not_the_same_as_nobody_answering() {
    let (address, asked) = server(&[("example.org", a("192.0.2.1"))]).await;
    let dns = asking(address);
    assert_eq!(dns.ask("example.org", Kind::Mx).await, Answer::Nothing { named: true });
    assert_eq!(dns.ask("nowhere.example", Kind::A).await, Answer::Nothing { named: false });
    assert!(matches!(dns.ask("broken.example", Kind::A).await, Answer::Away(_)));
    let brief = asking_briefly(address);
    assert!(matches!(brief.ask("silent.example", Kind::A).await, Answer::Away(_)));
    let before = asked.load(Relaxed);
    assert_eq!(brief.ask("silent.example", Kind::A).await, Answer::Away("it failed a moment ago".into()));
    assert_eq!(dns.ask("[10.1.0.2]", Kind::A).await, Answer::Nothing { named: false });
    assert_eq!(asked.load(Relaxed), before);
    assert_eq!((&dns.status()["failed"], &brief.status()["failed"]), (&1.into(), &1.into()));
}

#[tokio::test]
async fn names_are_asked_for_as_they_are_written() {
    let names =
        ["a_b.example", "mail_1.example.com", "_dmarc.example", "a_.example", "xn--bcher-kva.example"];
    let records: Vec<_> = names.iter().map(|name| (*name, a("192.0.2.1"))).collect();
    let (address, asked) = server(&records).await;
    let dns = asking(address);
    for name in names.iter().chain(&["bücher.example", "A_B.example."]) {
        let found = dns.ask(name, Kind::A).await;
        assert_eq!(found, Answer::Records(vec![Record::Address([192, 0, 2, 1].into())]), "{name}");
    }
    let before = asked.load(Relaxed);
    for name in ["c_d.example", "-a.example"] {
        assert_eq!(dns.ask(name, Kind::A).await, Answer::Nothing { named: false }, "{name}");
    }
    assert_eq!(asked.load(Relaxed), before + 2, "the server says so");
    // What IDNA does not know may be there all the same.
    let before = asked.load(Relaxed);
    let strange = dns.ask("\u{ad}\u{378}.example", Kind::A).await;
    assert!(
        matches!(&strange, Answer::Away(cause) if cause.starts_with("it cannot be asked for")),
        "{strange:?}"
    );
    assert_eq!(asked.load(Relaxed), before);
}

#[tokio::test]
async fn a_message_with_many_domains_asks_for_few_at_a_time() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = asking_briefly(socket.local_addr().unwrap());
    let names: Vec<String> = (0..50).map(|number| format!("{number}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(dns.domains(&names).await, [Domain::Away; 50]);
    // Those whose turn did not come are told, too.
    assert_eq!(dns.status()["failed"], 50);
    let mut seen = std::collections::HashSet::new();
    let mut octets = [0; 2000];
    while let Ok((length, _)) = socket.try_recv_from(&mut octets) {
        seen.insert(Message::from_vec(&octets[..length]).unwrap().queries[0].name().to_ascii());
    }
    // Two after each other, and who comes just before the end.
    assert!((1..=3 * AT_ONCE).contains(&seen.len()), "{seen:?}");
}

#[tokio::test]
async fn a_dead_server_is_away_in_time() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = asking_briefly(socket.local_addr().unwrap());
    let began = Instant::now();
    let names: Vec<String> = (0..50).map(|number| format!("{number}.example")).collect();
    let asking = names.iter().map(|name| dns.ask(name, Kind::A));
    for answer in together(asking).await {
        assert!(matches!(answer, Answer::Away(_)));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let nobody = Dns { resolver: None, ..dns };
    assert!(matches!(nobody.ask("example.org", Kind::A).await, Answer::Away(_)));
}

#[tokio::test]
async fn domains_that_can_have_mail() {
    let records = [
        ("mx.example", mx("mail.example.")),
        ("a.example", a("192.0.2.1")),
        ("null.example", mx(".")),
        ("text.example", RData::TXT(TXT::new(vec!["x".into()]))),
    ];
    let (address, _) = server(&records).await;
    let dns = asking(address);
    let names =
        ["mx.example", "a.example", "null.example", "text.example", "nowhere.example", "broken.example"];
    let expected =
        [Domain::Exists, Domain::Exists, Domain::NullMx, Domain::Missing, Domain::Missing, Domain::Away];
    assert_eq!(dns.domains(&names).await, expected);
    assert_eq!(asking_briefly(address).domains(&["silent.example"]).await, [Domain::Away]);
    assert_eq!(RecordType::MX, Kind::Mx.record_type());
}

#[tokio::test]
async fn a_list_says_what_it_knows_and_no_more() {
    let records = [
        ("2.0.1.10.list.test", a("127.0.0.3")),
        ("3.0.1.10.list.test", a("127.0.0.9")),
        ("4.0.1.10.list.test", a("127.255.255.254")),
    ];
    let (address, _) = server(&records).await;
    let dns = asking(address);
    let config = crate::config::DnsList {
        name: "l".into(),
        zone: "list.test".into(),
        asks: Asks::Address,
        values: vec!["127.0.0.2-3".parse().unwrap()],
        action: Use::Reject,
    };
    let list = List::new(&config);
    let look_up = async |address: &str| list.look_up(&dns, address.parse().unwrap(), None).await;
    assert_eq!(look_up("10.1.0.2").await, Listing::Listed([127, 0, 0, 3].into()));
    assert_eq!(look_up("10.1.0.3").await, Listing::NotListed);
    assert_eq!(look_up("10.1.0.4").await, Listing::Unknown);
    assert_eq!(look_up("10.1.0.5").await, Listing::NotListed);
    let silent = List::new(&crate::config::DnsList { asks: Asks::SenderDomain, ..config });
    assert_eq!(
        silent.look_up(&asking_briefly(address), "10.1.0.2".parse().unwrap(), Some("silent.example")).await,
        Listing::Unknown
    );
    assert_eq!(list.status()["listed"], 1);
    assert_eq!(list.status()["errors"], 1);
    assert_eq!(silent.status()["away"], 1);
}

#[test]
fn the_hosts_servers_are_known() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.1\n nameserver\tfd00::1\nnameserver x\n";
    fs::write(file.path(), text).unwrap();
    let servers: Vec<String> = of_host(file.path()).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.1:53", "[fd00::1]:53"]);
    assert!(of_host(Path::new("/nowhere")).is_empty());
}
