use std::sync::atomic::Ordering::Relaxed;

use weir_daemon::config::parse;

use crate::config::Config;
use crate::dns::tests::{a, mx, server};
use crate::facts::Facts;
use crate::outside::Outside;
use crate::policy::Verdict;
use crate::policy::script::live::{Counting, Live};
use crate::policy::script::tests::script_with;
use crate::policy::script::{Bounds, Context, Recorded, Replies};
use crate::rate::{Memory, Moment};
use crate::scan::Scanners;
use crate::scan::tests::message;

async fn outside(lines: &str) -> (Outside, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let records = [
        ("there.example", a("192.0.2.1")),
        ("there.example", mx("mail.there.example.")),
        (
            "1.2.0.192.in-addr.arpa",
            hickory_resolver::proto::rr::RData::PTR(hickory_resolver::proto::rr::rdata::PTR(
                "host.example.".parse().unwrap(),
            )),
        ),
        ("2.0.1.10.list.test", a("127.0.0.2")),
        ("9.0.1.10.list.test", a("127.255.255.254")),
        ("2.0.1.10.list.dnswl.org", a("127.0.9.3")),
        ("3.0.1.10.list.dnswl.org", a("127.0.9.2")),
        ("4.0.1.10.swl.spamhaus.org", a("127.0.2.3")),
        ("5.0.1.10.swl.spamhaus.org", a("127.255.255.254")),
        ("example.org.6.0.1.10.resl.emailreg.org", a("127.0.7.0")),
        ("example.org.7.0.1.10.resl.emailreg.org", a("127.0.10.0")),
    ];
    let (address, asked) = server(&records).await;
    let text = format!(
        "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n{lines}\n[dns]\nservers = [\"{address}\"]\ntimeout_ms = 400\n\
         [[dns.lists]]\nname = \"bad\"\nzone = \"list.test\"\nvalues = [\"127.0.0.2\"]\nuse = \"reject\"\n"
    );
    let config: Config = parse("filter.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    (Outside::new(&config).unwrap(), asked)
}

/// What a script says of a message from this address, with SpamAssassin's score given.
async fn told(outside: Option<&Outside>, source: &str, address: &str, recorded: &Recorded) -> String {
    let script = script_with(source, Bounds::default()).unwrap();
    let mut message = message();
    message.transaction.customer.address = address.parse().unwrap();
    message.transaction.envelope.sender.path = weir_smtp::envelope::Path::new("s@example.org");
    let scanners = Scanners::default();
    let mut facts = Facts::new(&message, &scanners);
    if let Some(outside) = outside {
        facts = facts.with_outside(outside);
    }
    let (replies, counting) = (Replies::default(), Counting::<Memory>::Nowhere);
    let mut world =
        Live::new(&facts, Context::Data, counting, &replies, "p", Moment(1_600_000_000_000)).await;
    world.recorded = Some(recorded);
    match script.call(&mut world).await {
        Ok(Some(Verdict::Refuse(refusal))) => refusal.text,
        Ok(_) => "accepted".into(),
        Err(error) => format!("error: {error}"),
    }
}

/// What an expression gives.
async fn value(outside: Option<&Outside>, address: &str, expression: &str) -> String {
    let source = format!("function data(message) reject(tostring({expression})) end");
    told(outside, &source, address, &Recorded::default()).await
}

#[tokio::test]
async fn names_and_lists_are_asked() {
    let (outside, _) = outside("").await;
    for (expression, expected) in [
        ("dns('there.example', 'A').answers[1]", "192.0.2.1"),
        ("dns('there.example', 'mx').answers[1].exchange", "mail.there.example"),
        ("dns('there.example', 'MX').answers[1].preference", "10"),
        ("dns('192.0.2.1', 'PTR').answers[1]", "host.example"),
        ("#dns('there.example', 'TXT').answers", "0"),
        ("dns('there.example', 'TXT').exists", "true"),
        ("dns('gone.example', 'A').exists", "false"),
        ("dns('gone.example', 'A').unknown", "false"),
        ("dns('silent.example', 'A').unknown", "true"),
        ("dnsbl('bad').listed", "true"),
        ("dnsbl('bad').value", "127.0.0.2"),
        ("dnsbl('bad', '10.1.0.3').listed", "false"),
        ("dnsbl('list.test', '10.1.0.9').unknown", "true"),
        ("dnsbl('list.test', '10.1.0.9').listed", "false"),
        ("dnswl('list.test')", "true"),
        ("dnswl('list.test', '10.1.0.3')", "false"),
    ] {
        assert_eq!(value(Some(&outside), "10.1.0.2", expression).await, expected, "{expression}");
    }
    for (expression, error) in [
        ("dns('x.example', 'SOA')", "dns: \"SOA\" is none of A, AAAA, MX, TXT, PTR"),
        ("dns()", "dns: name must be a text"),
        ("dnsbl('unknown')", "dnsbl: \"unknown\" is none of dns.lists; a zone has a dot"),
        ("dnsbl('list.test', 'x')", "dnsbl: address must be an IP address"),
        ("http('http://127.0.0.1/')", "http: 127.0.0.1 is none of script.http_hosts"),
        ("http('http://127.0.0.1/', {body = 'x'})", "http: body is for method"),
        ("http('http://127.0.0.1/', {follow = true})", "http: \"follow\" is none of method"),
    ] {
        let told = value(Some(&outside), "10.1.0.2", expression).await;
        assert!(told.contains(error), "{expression}: {told}");
    }
}

#[tokio::test]
async fn nobody_is_asked_where_nobody_is_to_be() {
    assert_eq!(value(None, "10.1.0.2", "dnsbl('bad').unknown").await, "true");
    assert_eq!(value(None, "10.1.0.2", "dnswl('bad')").await, "false");
    assert_eq!(value(None, "10.1.0.2", "http('http://x/').failed").await, "not asked");
    let listed = Recorded { listed: Some(true), ..Recorded::default() };
    let source = "function data() if dnswl('bad') then reject(dns('x.example', 'A').answers[1]) end end";
    assert_eq!(told(None, source, "10.1.0.2", &listed).await, "127.0.0.3");
}

/// As a candidate does, and `try --ask`.
#[tokio::test]
async fn nothing_is_posted_where_it_is_only_asked() {
    let (outside, _) = outside("[script]\nhttp_hosts = [\"127.0.0.1:1\"]\n").await;
    let source = "function data(message)
        local get = http('http://127.0.0.1:1/').failed
        local post = http('http://127.0.0.1:1/', { method = 'POST', body = 'x' }).failed
        local there = pcall(http, 'http://127.0.0.1:2/', { method = 'POST' })
        reject(tostring(get == 'not asked') .. ' ' .. tostring(post == 'not asked') .. ' ' .. tostring(there))
    end";
    let script = script_with(source, Bounds::default()).unwrap();
    let (message, scanners, replies) = (message(), Scanners::default(), Replies::default());
    let facts = Facts::new(&message, &scanners).with_outside(&outside);
    for (only_asks, expected, asked) in [(true, "false true false", 1), (false, "false false false", 3)] {
        let counting = Counting::<Memory>::Nowhere;
        let mut world = Live::new(&facts, Context::Data, counting, &replies, "p", Moment(0)).await;
        world.only_asks = only_asks;
        let verdict = script.call(&mut world).await.unwrap().unwrap();
        assert_eq!(verdict.refusal().unwrap().text, expected);
        assert_eq!(outside.fetcher().status()["asked"], asked);
    }
}

/// Names that nobody answers take the script's time, and do not make it fail.
#[tokio::test]
async fn silence_does_not_fail_a_script() {
    let (outside, asked) = outside("").await;
    let source = "function data() local n = 0 for i = 1, 40 do \
                  if dns('silent.' .. i .. '.example', 'A').unknown then n += 1 end end reject(tostring(n)) end";
    let script = script_with(source, Bounds { wall: std::time::Duration::from_secs(1), ..Bounds::default() });
    let message = message();
    let scanners = Scanners::default();
    let facts = Facts::new(&message, &scanners).with_outside(&outside);
    let (replies, counting) = (Replies::default(), Counting::<Memory>::Nowhere);
    let mut world = Live::new(&facts, Context::Data, counting, &replies, "p", Moment(0)).await;
    let verdict = script.unwrap().call(&mut world).await.unwrap().unwrap();
    assert_eq!(verdict.refusal().unwrap().text, "40");
    assert!(asked.load(Relaxed) > 1);
}

#[tokio::test]
async fn seed_003_spares_whom_a_list_knows() {
    let (outside, _) = outside("").await;
    let source = include_str!("../../../../examples/seed-003.luau");
    let spam = Recorded { score: 9.0, ..Recorded::default() };
    for (address, accepted) in [
        // list.dnswl.org: trusted highly, and less.
        ("10.1.0.2", true),
        ("10.1.0.3", false),
        // swl.spamhaus.org: listed, and an error.
        ("10.1.0.4", true),
        ("10.1.0.5", false),
        // resl.emailreg.org: one digit, and two.
        ("10.1.0.6", true),
        ("10.1.0.7", false),
        ("10.1.0.8", false),
        ("fd01::8", false),
    ] {
        let told = told(Some(&outside), source, address, &spam).await;
        assert_eq!(told == "accepted", accepted, "{address}: {told}");
    }
    let virus = Recorded { virus: Some("Eicar".into()), ..spam };
    assert_eq!(told(Some(&outside), source, "10.1.0.2", &virus).await, "Rejected by virus filter");
}
