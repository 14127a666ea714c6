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

pub(crate) fn asking(server: SocketAddr) -> Dns {
    Dns::new(&Config { servers: vec![server.to_string()], timeout_ms: 300, ..Config::default() }).unwrap()
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
    assert!(matches!(dns.ask("silent.example", Kind::A).await, Answer::Away(_)));
    let before = asked.load(Relaxed);
    assert_eq!(dns.ask("silent.example", Kind::A).await, Answer::Away("it failed a moment ago".into()));
    assert_eq!(dns.ask("[10.1.0.2]", Kind::A).await, Answer::Nothing { named: false });
    assert_eq!(asked.load(Relaxed), before);
    assert_eq!(dns.status()["failed"], 2);
}

#[tokio::test]
async fn a_dead_server_is_away_in_time() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let dns = asking(socket.local_addr().unwrap());
    let began = Instant::now();
    let names: Vec<String> = (0..50).map(|number| format!("{number}.example")).collect();
    let asking = names.iter().map(|name| dns.ask(name, Kind::A));
    for answer in futures(asking).await {
        assert!(matches!(answer, Answer::Away(_)));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let nobody = Dns { resolver: None, ..dns };
    assert!(matches!(nobody.ask("example.org", Kind::A).await, Answer::Away(_)));
}

async fn futures<F: Future<Output = Answer>>(asking: impl Iterator<Item = F>) -> Vec<Answer> {
    let mut asking: Vec<_> = asking.map(Box::pin).collect();
    let mut answers = Vec::new();
    std::future::poll_fn(|context| {
        asking.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Ready(answer) => {
                answers.push(answer);
                false
            }
            std::task::Poll::Pending => true,
        });
        if asking.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    answers
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
    assert_eq!(dns.domain("mx.example").await, Domain::Exists);
    assert_eq!(dns.domain("a.example").await, Domain::Exists);
    assert_eq!(dns.domain("null.example").await, Domain::NullMx);
    assert_eq!(dns.domain("text.example").await, Domain::Missing);
    assert_eq!(dns.domain("nowhere.example").await, Domain::Missing);
    assert_eq!(dns.domain("silent.example").await, Domain::Away);
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
        silent.look_up(&dns, "10.1.0.2".parse().unwrap(), Some("silent.example")).await,
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
