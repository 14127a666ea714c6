//! Maps, checks of the envelope, lists and bounces, as the presets use them.

use std::io::Write;

use weir_daemon::config::parse;
use weir_smtp::envelope::{Mailbox, Path};

use super::tests::{found, numbered, text};
use super::{Policy, Verdict};
use crate::config::Config;
use crate::dns::tests::{a, server};
use crate::facts::Facts;
use crate::outside::Outside;
use crate::rate::{Ask, Counters, Memory, Moment};
use crate::scan::{Cause, Scanned, Scanners};

struct Judge {
    policy: Policy<Memory>,
    outside: Outside,
    scanners: Scanners,
    messages: u64,
    now: u64,
}

/// Who sends what.
#[derive(Clone, Copy)]
struct Sent<'a> {
    address: &'a str,
    sender: &'a str,
    recipients: &'a [&'a str],
    /// What SpamAssassin would say.
    score: f64,
}

const FINE: Sent<'_> =
    Sent { address: "10.1.0.9", sender: "a@there.example", recipients: &["b@there.example"], score: 0.0 };

impl Judge {
    async fn new(lines: &str) -> Self {
        Self::with_timeout(lines, 5000).await
    }

    /// Milliseconds for a look-up.
    async fn with_timeout(lines: &str, timeout: u64) -> Self {
        let records = [
            ("there.example", a("192.0.2.1")),
            ("2.0.1.10.bad.test", a("127.0.0.2")),
            ("3.0.1.10.bad.test", a("127.255.255.254")),
            ("4.0.1.10.slow.test", a("127.0.0.2")),
            ("5.0.1.10.bulk.test", a("127.0.0.2")),
            ("6.0.1.10.good.test", a("127.0.9.3")),
            ("8.0.1.10.bulk.test", a("127.0.0.2")),
            ("8.0.1.10.good.test", a("127.0.9.3")),
        ];
        let (address, _) = server(&records).await;
        let lists: String = [("bad", "reject"), ("slow", "defer"), ("bulk", "bulk"), ("good", "allow")]
            .iter()
            .map(|(name, action)| {
                format!(
                    "[[dns.lists]]\nname = \"{name}\"\nzone = \"{name}.test\"\nvalues = [\"127.0.*.2-3\"]\nuse = \"{action}\"\n"
                )
            })
            .collect();
        let text = format!(
            "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n[spamassassin]\naddress = \"127.0.0.1:1\"\n\
             [dns]\nservers = [\"{address}\"]\ntimeout_ms = {timeout}\n{lists}{lines}"
        );
        let config: Config = parse("filter.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        Self {
            policy: Policy::new(Memory::new(10_000), &config),
            outside: Outside::new(&config).unwrap(),
            scanners: Scanners::new(&config),
            messages: 0,
            now: 1_000_000_000,
        }
    }

    /// The verdict, and why SpamAssassin was not asked.
    async fn judge(&mut self, sent: Sent<'_>) -> (Verdict, Option<Cause>) {
        self.messages += 1;
        let mailbox = |path: &str| Mailbox { path: Path::new(path.as_bytes()), parameters: Vec::new() };
        let mut message = numbered(self.messages);
        message.transaction.customer.address = sent.address.parse().unwrap();
        message.transaction.envelope.sender = mailbox(sent.sender);
        message.transaction.envelope.recipients = sent.recipients.iter().map(|one| mailbox(one)).collect();
        let mut facts = Facts::new(&message, &self.scanners).with_outside(&self.outside);
        if sent.score != 0.0 {
            facts = facts.with_spamassassin(found(sent.score));
        }
        let verdict = self.policy.at_end_of_data(&facts, Moment(self.now)).await;
        let cause = facts.spamassassin_if_known().and_then(Scanned::unscanned);
        (verdict, cause.filter(|cause| !cause.is_failure()))
    }

    async fn told(&mut self, sent: Sent<'_>) -> String {
        text(&self.judge(sent).await.0)
    }

    async fn bulk(&self, source: &str) -> u64 {
        self.sum("outbound-bulk", source).await
    }

    async fn sum(&self, namespace: &str, source: &str) -> u64 {
        let ask = Ask { namespace, key: source, limit: 0, seconds: 28_800, weight: 1, message: None };
        self.policy.counters().rate(ask, Moment(self.now)).await.unwrap().sum
    }
}

fn map(lines: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn lists_refuse_and_spare_whom_they_have_and_nobody_else() {
    for preset in ["volume", "reject"] {
        let mut judge = Judge::new(&format!("[policy]\npreset = \"{preset}\"\n")).await;
        let from = |address| Sent { address, ..FINE };
        assert_eq!(
            judge.told(from("10.1.0.2")).await,
            "550 5.7.1 Your mail is not taken: listed by bad (ID)"
        );
        // The list says that it will not answer.
        assert_eq!(judge.judge(from("10.1.0.3")).await, (Verdict::Accept, None));
        assert_eq!(
            judge.told(from("10.1.0.4")).await,
            "451 4.7.1 Your mail is not taken: listed by slow (ID)"
        );
        let clean = Sent { score: 0.1, ..from("10.1.0.5") };
        assert_eq!(judge.judge(clean).await.0, Verdict::Accept);
        assert_eq!(judge.bulk("10.1.0.5").await, 1);
        assert_eq!(judge.judge(from("10.1.0.6")).await, (Verdict::Accept, Some(Cause::Allowed)));
        assert_eq!(judge.bulk("10.1.0.6").await, 0, "{preset}: it is not unscanned");
        // In both lists: the first use holds.
        assert_eq!(judge.judge(from("10.1.0.8")).await, (Verdict::Accept, None));
        assert_eq!(judge.bulk("10.1.0.8").await, 1);
        assert_eq!(judge.outside.status()["lists"]["bad"]["errors"], 1);
    }
}

#[tokio::test]
async fn a_name_server_that_does_not_answer_refuses_nobody() {
    let lines = "[envelope]\nsender_domain_exists = \"reject\"\nrecipient_domain_exists = \"reject\"\n";
    let mut judge = Judge::new(lines).await;
    let gone = Sent { sender: "a@gone.example", ..FINE };
    let told = "550 5.1.8 The sender's domain gone.example has neither MX nor address (ID)";
    assert_eq!(judge.told(gone).await, told);
    assert_eq!(judge.outside.status()["envelope"]["sender_domain_exists"], 1);
    let mut judge = Judge::with_timeout(lines, 300).await;
    let silent = Sent { sender: "a@silent.example", recipients: &["b@broken.example"], ..FINE };
    assert_eq!(judge.judge(silent).await.0, Verdict::Accept);
    assert_eq!(judge.outside.status()["envelope"]["sender_domain_exists"], 0);
    assert_eq!(judge.outside.status()["dns"]["failed"], 2);
}

#[tokio::test]
async fn the_envelope_is_logged_or_refused() {
    let lines = "[envelope]\nsender_fqdn = \"log\"\nrecipient_fqdn = \"reject\"\nhelo_required = \"off\"\n";
    let mut judge = Judge::new(lines).await;
    assert_eq!(judge.judge(Sent { sender: "a@localhost", ..FINE }).await.0, Verdict::Accept);
    let told = judge.told(Sent { recipients: &["b@there.example", "b"], ..FINE }).await;
    assert_eq!(told, "550 5.1.3 Each recipient's address needs a domain in full (ID)");
    let status = judge.outside.status();
    assert_eq!(
        (&status["envelope"]["sender_fqdn"], &status["envelope"]["recipient_fqdn"]),
        (&1.into(), &1.into())
    );
}

#[tokio::test]
async fn many_bounces_to_one_recipient_are_spared_and_count_as_bulk() {
    let mut judge = Judge::new("[policy]\ndsn_bypass_above = 3\n").await;
    let bounce = Sent { sender: "", ..FINE };
    for _ in 0..3 {
        assert_eq!(judge.judge(bounce).await, (Verdict::Accept, None));
    }
    let before = judge.bulk("10.1.0.9").await;
    assert_eq!(judge.judge(bounce).await, (Verdict::Accept, Some(Cause::Bounce)));
    assert_eq!(judge.bulk("10.1.0.9").await, before + 1);
    // One of its recipients has few.
    let two = Sent { recipients: &["b@there.example", "c@there.example"], ..bounce };
    assert_eq!(judge.judge(two).await, (Verdict::Accept, None));
    // No bounce, and another customer's.
    assert_eq!(judge.judge(FINE).await.1, None);
    assert_eq!(judge.judge(Sent { address: "10.1.0.8", ..bounce }).await.1, None);
    judge.now += 310_000;
    assert_eq!(judge.judge(bounce).await.1, None);
    // What many recipients get is no bounce.
    let recipients: Vec<String> = (0..11).map(|number| format!("{number}@there.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    for _ in 0..5 {
        assert_eq!(judge.judge(Sent { recipients: &recipients, ..bounce }).await.1, None);
    }
}

#[tokio::test]
async fn maps_refuse_before_limits_and_bypass_behind_them() {
    let refused = map("spam.example No more of this\n");
    let bypass = map("friend.example\n");
    let customers = map("10.1.0.7\n");
    let lines = format!(
        "[limits]\nmessages_per_hour = 4\n[[maps.files]]\nfile = {:?}\nof = \"sender\"\nuse = \"reject\"\n\
         [[maps.files]]\nfile = {:?}\nof = \"sender\"\nuse = \"bypass\"\n\
         [[maps.files]]\nfile = {:?}\nof = \"customer\"\nuse = \"bypass\"\n",
        refused.path(),
        bypass.path(),
        customers.path()
    );
    let mut judge = Judge::new(&lines).await;
    for _ in 0..6 {
        let sent = Sent { sender: "a@spam.example", ..FINE };
        assert_eq!(judge.told(sent).await, "550 5.7.1 No more of this (ID)");
    }
    let friend = Sent { sender: "a@friend.example", ..FINE };
    assert_eq!(judge.judge(friend).await, (Verdict::Accept, Some(Cause::Map)));
    assert_eq!(judge.bulk("10.1.0.9").await, 1, "anybody can say that he is a friend");
    let customer = Sent { address: "10.1.0.7", ..FINE };
    for _ in 0..4 {
        assert_eq!(judge.judge(customer).await, (Verdict::Accept, Some(Cause::Allowed)));
    }
    assert_eq!(judge.bulk("10.1.0.7").await, 0);
    assert_eq!(judge.told(customer).await, "451 4.7.1 You may only send 4 messages an hour, try later (ID)");
}

#[tokio::test]
async fn what_bypasses_for_a_sender_is_bulk_without_any_scanner() {
    let (senders, customers) = (map("friend.example\n"), map("10.1.0.7\n"));
    let friend = Sent { sender: "a@friend.example", ..FINE };
    for (preset, unscanned, bulk) in [("volume", "bulk", 1), ("reject", "bulk", 1), ("volume", "clean", 0)] {
        let lines = format!(
            "[policy]\npreset = \"{preset}\"\nunscanned = \"{unscanned}\"\n\
             [[maps.files]]\nfile = {:?}\nof = \"sender\"\nuse = \"bypass\"\n\
             [[maps.files]]\nfile = {:?}\nof = \"customer\"\nuse = \"bypass\"\n",
            senders.path(),
            customers.path()
        );
        let mut judge = Judge::new(&lines).await;
        judge.scanners = Scanners::default();
        assert_eq!(judge.judge(friend).await, (Verdict::Accept, None));
        assert_eq!(judge.bulk("10.1.0.9").await, bulk, "{preset} {unscanned}");
        for sent in [FINE, Sent { address: "10.1.0.7", ..friend }] {
            assert_eq!(judge.judge(sent).await.0, Verdict::Accept);
        }
        assert_eq!((judge.bulk("10.1.0.9").await, judge.bulk("10.1.0.7").await), (bulk, 0));
    }
}

#[tokio::test]
async fn a_score_that_is_lowered_for_a_sender_counts_as_it_was() {
    let (senders, customers) = (map("good.example -5\nbad.example 1\n"), map("10.1.0.7 -5\n"));
    let counts = async |preset: &str, address: &str, sender: &str, score: f64| {
        let lines = format!(
            "[policy]\npreset = \"{preset}\"\nunscanned = \"clean\"\n\
             [[maps.files]]\nfile = {:?}\nof = \"sender\"\nuse = \"score\"\n\
             [[maps.files]]\nfile = {:?}\nof = \"customer\"\nuse = \"score\"\n",
            senders.path(),
            customers.path()
        );
        let mut judge = Judge::new(&lines).await;
        let sent = Sent { address, sender, recipients: FINE.recipients, score };
        assert_eq!(judge.judge(sent).await.0, Verdict::Accept, "{preset} {address} {sender} {score}");
        (judge.bulk(address).await, judge.sum("outbound-spam", address).await)
    };
    let good = "a@good.example";
    assert_eq!(counts("volume", "10.1.0.9", good, 7.0).await, (1, 1));
    assert_eq!(counts("volume", "10.1.0.9", good, 5.0).await, (1, 0));
    assert_eq!(counts("volume", "10.1.0.9", good, 3.0).await, (0, 0));
    assert_eq!(counts("reject", "10.1.0.9", good, 7.0).await, (1, 0));
    // What the customer has is his: only what the sender has besides is not taken from the score.
    assert_eq!(counts("volume", "10.1.0.7", good, 7.0).await, (0, 0));
    assert_eq!(counts("volume", "10.1.0.7", good, 10.0).await, (1, 0));
    assert_eq!(counts("volume", "10.1.0.9", "a@bad.example", 4.5).await, (1, 0));
}

#[tokio::test]
async fn scores_of_maps_are_added_and_lift_no_limit_for_a_sender() {
    let senders = map("good.example -5\nbad.example 5\n");
    let customers = map("10.1.0.7 -5\n");
    let lines = format!(
        "[policy]\npreset = \"reject\"\n[[maps.files]]\nfile = {:?}\nof = \"sender\"\nuse = \"score\"\n\
         [[maps.files]]\nfile = {:?}\nof = \"customer\"\nuse = \"score\"\n",
        senders.path(),
        customers.path()
    );
    let mut judge = Judge::new(&lines).await;
    let spam = Sent { score: 7.0, ..FINE };
    assert_eq!(judge.judge(spam).await.0.name(), "reject");
    let good = Sent { sender: "a@good.example", ..spam };
    assert_eq!(judge.judge(good).await.0, Verdict::Accept);
    assert_eq!(judge.bulk("10.1.0.9").await, 1);
    assert_eq!(judge.judge(Sent { address: "10.1.0.7", ..spam }).await.0, Verdict::Accept);
    assert_eq!(judge.bulk("10.1.0.7").await, 0);
    let told = judge.told(Sent { sender: "a@bad.example", score: 1.0, ..FINE }).await;
    assert_eq!(told, "550 5.7.1 SpamAssassin score 6.0 is at or above 6.0 (ID)");
}
