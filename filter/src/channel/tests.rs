use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use weir_daemon::channel::{BLOCKS, Block, Blocks, OUTCOMES, Outcome, Outcomes};
use weir_daemon::http::{Client, Full, Limits, Method, Request, Token, header};
use weir_daemon::time;

use crate::blocks::Who;
use crate::config::Config;
use crate::customers::Identity;
use crate::events::{Event, Query, Records, search};
use crate::rate::Ask;
use crate::serve::Node;

const LIMITS: Limits = Limits { time: Duration::from_secs(30), body: 1 << 20 };

struct World {
    node: Arc<Node>,
    url: String,
    token: Token,
    directory: tempfile::TempDir,
}

fn token(path: &Path, text: &str) -> Token {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    Token::read(path).unwrap()
}

impl World {
    async fn new(agents: &str) -> Self {
        Self::storing(agents, false).await
    }

    /// `addresses`: also mail addresses.
    async fn storing(agents: &str, addresses: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let token = token(&path, "0123456789abcdef0123456789abcdef\n");
        let text = format!(
            "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"{agents}\"]\n[counters]\nfile = \"\"\n[blocks]\nfile = \"\"\n\
             [channel]\nlisten = [\"127.0.0.1:10026\"]\ntoken_file = \"{}\"\n\
             [[customers.prefixes]]\nprefix = \"10.1.7.0/24\"\nid = \"a\"\n\
             [events]\ndirectory = \"{}\"\nstore_addresses = {addresses}\n",
            path.display(),
            directory.path().join("events").display()
        );
        let config: Config = weir_daemon::config::parse("f", &text).unwrap_or_else(|error| panic!("{error}"));
        let mut node = Node::new(&config).unwrap();
        node.records = Records::open(&config.events).unwrap();
        let node = Arc::new(node);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(super::serve(node.clone(), listener));
        Self { node, url, token, directory }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        token: &Token,
        tag: Option<&str>,
        body: Vec<u8>,
    ) -> (u16, Option<String>, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        request = request.header(header::AUTHORIZATION, token.authorization());
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = request.body(Full::from(body)).unwrap();
        let answer = Client::clear().fetch(request, LIMITS).await.unwrap();
        let tag = answer.headers().get(header::ETAG).map(|tag| tag.to_str().unwrap().to_owned());
        (answer.status().as_u16(), tag, answer.into_body().to_vec())
    }

    async fn blocks(&self, tag: Option<&str>) -> (String, Vec<Block>) {
        let (status, tag, body) = self.ask(Method::GET, BLOCKS, &self.token, tag, Vec::new()).await;
        assert_eq!(status, 200);
        (tag.unwrap(), serde_json::from_slice::<Blocks>(&body).unwrap().blocks)
    }

    fn block(&self, who: &str) {
        let (customers, hour) = (&self.node.customers, Duration::from_secs(3600));
        let who = Who::try_from(who.to_owned()).unwrap();
        self.node.blocks.block(customers, &who, hour, "a bot", "operator").unwrap();
    }

    fn sum(&self, namespace: &str, key: &str) -> u64 {
        let ask = Ask { namespace, key, limit: 0, seconds: 3600, weight: 1, message: None };
        self.node.policy.counters().memory().ask(ask, self.node.clock.now()).sum
    }
}

#[tokio::test]
async fn a_block_is_told_at_once() {
    let world = World::new("127.0.0.1/32").await;
    let (tag, blocks) = world.blocks(None).await;
    assert!(blocks.is_empty());
    let waiting = world.blocks(Some(&tag));
    let blocking = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.block("a");
        std::time::Instant::now()
    };
    let ((newer, blocks), since) = tokio::join!(waiting, blocking);
    assert!(since.elapsed() < Duration::from_secs(1));
    assert_eq!(
        (blocks[0].who.as_str(), blocks[0].prefixes.as_slice()),
        ("a", &["10.1.7.0/24".to_owned()][..])
    );
    assert_ne!(newer, tag);
    let status = world.node.channel.as_ref().unwrap().status();
    assert_eq!(status["agents"][0]["address"], "127.0.0.1", "{status}");
}

#[tokio::test]
async fn strangers_and_wrong_tokens_learn_nothing() {
    let world = World::new("127.0.0.1/32").await;
    let wrong = token(&world.directory.path().join("wrong"), "0123456789abcdef0123456789abcdee");
    let (status, tag, body) = world.ask(Method::GET, BLOCKS, &wrong, None, Vec::new()).await;
    assert_eq!((status, tag), (401, None), "{}", String::from_utf8_lossy(&body));
    let (status, ..) = world.ask(Method::POST, OUTCOMES, &wrong, None, b"{}".to_vec()).await;
    assert_eq!(status, 401);
    for (method, path, expected) in
        [(Method::GET, "/", 404), (Method::DELETE, BLOCKS, 405), (Method::POST, OUTCOMES, 400)]
    {
        assert_eq!(world.ask(method, path, &world.token, None, b"{}".to_vec()).await.0, expected, "{path}");
    }
    let status = world.node.channel.as_ref().unwrap().status();
    assert_eq!(status["refused_without_token"], 2, "{status}");

    let world = World::new("192.0.2.1/32").await;
    let request = Request::get(format!("{}{BLOCKS}", world.url))
        .header(header::AUTHORIZATION, world.token.authorization())
        .body(Full::default());
    assert!(Client::clear().fetch(request.unwrap(), LIMITS).await.is_err());
    assert_eq!(world.node.channel.as_ref().unwrap().status()["refused_strangers"], 1);
}

fn outcome(id: &str, code: Option<u16>) -> Outcome {
    Outcome {
        id: id.to_owned(),
        customer: [10, 1, 7, 1].into(),
        destination: ([192, 0, 2, 1], 25).into(),
        outcome: "refused".to_owned(),
        code,
        text: "no".to_owned(),
        time: 0,
    }
}

#[tokio::test]
async fn replies_are_stored_without_mail_addresses() {
    let text = "5.1.1 <r@example.net>: no such user";
    for (addresses, stored) in [(false, "5.1.1 [address] no such user"), (true, text)] {
        let world = World::storing("127.0.0.1/32", addresses).await;
        let writer = &world.node.records.as_ref().unwrap().writer;
        let (id, at, verdict) = ("m1".to_owned(), time::now() * 1_000_000, "accept".to_owned());
        writer.event(Event { id, at, verdict, ..Event::default() });
        let outcomes = vec![Outcome { text: text.to_owned(), ..outcome("m1", Some(550)) }];
        let report = serde_json::to_vec(&Outcomes { lost: 0, outcomes }).unwrap();
        assert_eq!(world.ask(Method::POST, OUTCOMES, &world.token, None, report).await.0, 204);
        writer.sync();
        let query = Query { limit: 10, ..Query::default() };
        let events = search(&world.directory.path().join("events"), &query).unwrap().events;
        assert_eq!((events[0].reply.as_deref(), events[0].reply_code), (Some(stored), Some(550)));
    }
}

#[tokio::test]
async fn outcomes_are_counted_once_for_customer_and_sender_domain() {
    let world = World::new("127.0.0.1/32").await;
    for (id, domain) in [("m1", Some("Example.ORG")), ("m2", Some("example.org")), ("m3", None), ("m4", None)]
    {
        world.node.judged.note(id, Identity::Customer("a".to_owned()), domain);
    }
    let outcomes = vec![
        outcome("m1", Some(550)),
        outcome("m1", Some(550)),
        outcome("m2", Some(451)),
        outcome("m3", Some(250)),
        outcome("m4", None),
        outcome("other", Some(550)),
    ];
    let report = serde_json::to_vec(&Outcomes { lost: 3, outcomes }).unwrap();
    assert_eq!(world.ask(Method::POST, OUTCOMES, &world.token, None, report).await.0, 204);
    assert_eq!((world.sum("delivery-failures", "a"), world.sum("delivery-failures", "example.org")), (2, 2));
    assert_eq!((world.sum("delivery-failures", "a example.org"), world.sum("deliveries", "a")), (2, 1));
    assert_eq!((world.sum("delivery-rejections", "a"), world.sum("delivery-deferrals", "a")), (1, 1));
    assert_eq!((world.sum("deliveries", "a"), world.sum("deliveries", "example.org")), (1, 0));
    let status = world.node.judged.status();
    assert_eq!((&status["of_unknown_messages"], &status["awaited"]), (&2.into(), &0.into()), "{status}");
    let status = world.node.channel.as_ref().unwrap().status();
    let agent = &status["agents"][0];
    assert_eq!((&agent["outcomes"], &agent["outcomes_lost"]), (&6.into(), &3.into()));
}
