use std::sync::Arc;

use serde_json::Map;

use super::{Policy, Verdict};
use crate::config::{self, Config};
use crate::customers::{Customer, Owner};
use crate::facts::Facts;
use crate::message::Message;
use crate::quarantine::Quarantine;
use crate::rate::{Memory, Moment};
use crate::scan::tests::message;
use crate::scan::{Cause, Report, Scanned, Scanners};
use weir_daemon::config::parse;

const START: u64 = 1_000_000_000;
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

/// A policy, and the messages it has judged, each with an id of its own.
struct Judge {
    policy: Policy<Memory>,
    messages: u64,
    now: u64,
}

impl Judge {
    fn new(lines: &str) -> Self {
        let text = format!("[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n{lines}");
        let config: Config = parse("filter.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        Self { policy: Policy::new(Memory::new(10_000), &config), messages: 0, now: START }
    }

    async fn judge(&mut self, message: Message, scanned: Scanned) -> Verdict {
        let scanners = Scanners::default();
        let facts = Facts::new(&message, &scanners).with_spamassassin(scanned);
        self.policy.at_end_of_data(&facts, Moment(self.now)).await
    }

    /// A message of its own, with this score.
    async fn scored(&mut self, score: f64) -> Verdict {
        self.messages += 1;
        let message = numbered(self.messages);
        self.judge(message, found(score)).await
    }

    async fn clean(&mut self) -> Verdict {
        self.scored(0.0).await
    }

    /// So many, evenly over so long: how many were accepted.
    async fn many(&mut self, count: u64, score: f64, over: u64) -> u64 {
        let mut accepted = 0;
        for _ in 0..count {
            accepted += u64::from(self.scored(score).await == Verdict::Accept);
            self.now += over / count;
        }
        accepted
    }
}

pub(super) fn found(score: f64) -> Scanned {
    Scanned::Found(Report { score, symbols: String::new() })
}

pub(super) fn numbered(number: u64) -> Message {
    let mut message = message();
    message.transaction.id = number.to_string();
    message
}

pub(super) fn text(verdict: &Verdict) -> String {
    verdict.reply("ID").to_string()
}

#[test]
fn points_are_those_of_the_worst_that_is_known() {
    let judge = Judge::new("");
    let (message, scanners) = (numbered(1), Scanners::default());
    let points = |score, verdict: &Verdict| {
        let facts = Facts::new(&message, &scanners).with_spamassassin(found(score));
        judge.policy.points(&facts, verdict)
    };
    let refused = |code, rule| Verdict::Refuse(super::Refusal::new(rule, code, "5.7.1", "no"));
    for (score, expected) in [(4.0, 0), (4.1, 3), (6.0, 3), (6.1, 10)] {
        assert_eq!(points(score, &Verdict::Accept), Some(expected), "{score}");
    }
    assert_eq!(points(0.0, &refused(554, "virus")), Some(10));
    assert_eq!(
        (points(0.0, &refused(550, "script")), points(9.0, &refused(550, "script"))),
        (Some(5), Some(10))
    );
    assert_eq!(points(9.0, &refused(451, "outbound-spam")), None);
}

/// What the preset wants a sample of, and what becomes of the message.
#[tokio::test]
async fn volume_takes_samples_of_spam_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let key = age::x25519::Identity::generate().to_public().to_string();
    let config = config::Quarantine {
        enabled: true,
        public_key: Some(key),
        directory: directory.path().join("quarantine"),
        ..config::Quarantine::default()
    };
    let quarantine = Quarantine::open(&config).unwrap();
    let judge = Judge::new("[outbreak]\nenabled = false\n");
    let scanners = Scanners::default();
    for (number, score) in [(1, 8.0), (2, 8.1), (2, 8.1), (3, 9.0), (4, 30.0)] {
        let message = numbered(number);
        let facts = Facts::new(&message, &scanners).with_spamassassin(found(score));
        let facts = facts.with_quarantine(quarantine.as_ref());
        assert_eq!(judge.policy.at_end_of_data(&facts, Moment(START)).await, Verdict::Accept);
    }
    // Ends when all is written.
    drop(quarantine);
    let samples = crate::quarantine::list(&config.directory).unwrap().0;
    let mut ids: Vec<_> =
        samples.iter().map(|one| (one.label.id.as_str(), one.label.rule.as_str())).collect();
    ids.sort_unstable();
    // The second came twice, as an agent replays it; the fourth is one too many of this source.
    assert_eq!(ids, [("2", "spamassassin"), ("3", "spamassassin")]);
}

#[tokio::test]
async fn the_minute_comes_first_and_the_text_says_the_limit() {
    let mut judge = Judge::new("[limits]\nmessages_per_minute = 2\nmessages_per_hour = 3");
    assert_eq!(judge.judge(numbered(1), found(0.0)).await, Verdict::Accept);
    assert_eq!(judge.judge(numbered(2), found(0.0)).await, Verdict::Accept);
    let third = judge.judge(numbered(3), found(0.0)).await;
    assert_eq!(text(&third), "451 4.7.1 You may only send 2 messages a minute, try later (ID)");
    assert_eq!(third.name(), "defer");
    // A replay of what was counted passes, one of what was refused is refused.
    assert_eq!(judge.judge(numbered(1), found(0.0)).await, Verdict::Accept);
    assert_eq!(judge.judge(numbered(3), found(0.0)).await, third);
    judge.now += 120 * SECOND;
    assert_eq!(judge.judge(numbered(3), found(0.0)).await, Verdict::Accept);
    let fourth = judge.judge(numbered(4), found(0.0)).await;
    assert_eq!(text(&fourth), "451 4.7.1 You may only send 3 messages an hour, try later (ID)");
}

#[tokio::test]
async fn sources_are_counted_apart_and_a_slash_64_together() {
    let mut judge = Judge::new("[limits]\nmessages_per_minute = 1");
    let from = |id: u64, address: &str| {
        let mut message = numbered(id);
        message.transaction.customer.address = address.parse().unwrap();
        message
    };
    assert_eq!(judge.judge(from(1, "10.1.0.2"), found(0.0)).await, Verdict::Accept);
    assert_eq!(judge.judge(from(2, "10.1.0.3"), found(0.0)).await, Verdict::Accept);
    assert_eq!(judge.judge(from(3, "fd01::1"), found(0.0)).await, Verdict::Accept);
    assert_eq!(judge.judge(from(4, "fd01::ffff:1"), found(0.0)).await.name(), "defer");
    assert_eq!(judge.judge(from(5, "fd01:0:0:1::1"), found(0.0)).await, Verdict::Accept);
}

#[tokio::test]
async fn limits_of_zero_are_none() {
    let mut judge = Judge::new("[limits]\nmessages_per_minute = 0\nmessages_per_hour = 0\nbulk_messages = 0");
    assert_eq!(judge.many(2000, 5.0, 0).await, 2000);
}

#[tokio::test]
async fn a_source_that_sent_spam_for_a_day_may_send_little() {
    let mut judge = Judge::new("");
    assert_eq!(judge.many(99, 7.0, HOUR).await, 99);
    judge.now += HOUR;
    assert_eq!(judge.many(12, 0.0, 0).await, 12);
    judge.now += HOUR;
    assert_eq!(judge.scored(7.0).await, Verdict::Accept);
    judge.now += 120 * SECOND;
    // The text says ten, so ten pass.
    assert_eq!(judge.many(12, 0.0, 0).await, 10);
    let refusal = judge.clean().await;
    assert_eq!(
        text(&refusal),
        "451 4.7.1 You have sent spam and may only send 10 messages a minute, try later (ID)"
    );
    assert_eq!(refusal.refusal().unwrap().rule, "suspect-minute");
    // A day and the width of a bucket later it is forgotten.
    judge.now += 25 * HOUR;
    assert_eq!(judge.many(12, 0.0, 0).await, 12);
}

#[tokio::test]
async fn what_looks_like_bulk_mail_and_spam_is_let_through_in_small_numbers() {
    let mut judge = Judge::new("");
    // Not above 4: nobody counts it.
    assert_eq!(judge.many(601, 4.0, 8 * HOUR).await, 601);
    let mut judge = Judge::new("");
    assert_eq!(judge.many(600, 4.1, 7 * HOUR).await, 600);
    let refusal = judge.scored(4.1).await;
    assert_eq!(text(&refusal), "451 4.7.1 You may only send 600 bulk messages in 8 hours, try later (ID)");
    assert_eq!(judge.clean().await, Verdict::Accept);
    // Spam counts as both, and its own limit is met first.
    let mut judge = Judge::new("[limits]\nsuspect_after = 0");
    assert_eq!(judge.many(200, 6.1, 7 * HOUR).await, 200);
    let refusal = judge.scored(1000.0).await;
    assert_eq!(text(&refusal), "451 4.7.1 You may only send 200 spam messages in 8 hours, try later (ID)");
    assert_eq!(refusal.refusal().unwrap().rule, "outbound-spam");
    // What was refused as spam had been counted as bulk mail before.
    assert_eq!(judge.many(500, 4.1, 50 * 60 * SECOND).await, 600 - 201);
}

#[tokio::test]
async fn spam_is_rejected_after_it_was_counted() {
    let mut judge = Judge::new("[policy]\nreject_at = 10.0\n[limits]\nsuspect_after = 3");
    let refusal = judge.scored(10.0).await;
    assert_eq!(text(&refusal), "550 5.7.1 SpamAssassin score 10.0 is at or above 10.0 (ID)");
    assert_eq!(judge.many(2, 11.0, 0).await, 0);
    // Three are suspect, though none came through.
    assert_eq!(judge.many(20, 0.0, 0).await, 7);
}

#[tokio::test]
async fn the_preset_reject_refuses_spam_and_counts_what_was_not_scanned() {
    let lines = "[policy]\npreset = \"reject\"\n[limits]\nbulk_messages = 2";
    let mut judge = Judge::new(lines);
    assert_eq!(judge.many(5, 5.9, 0).await, 5);
    assert_eq!(text(&judge.scored(6.0).await), "550 5.7.1 SpamAssassin score 6.0 is at or above 6.0 (ID)");
    for number in 100..102 {
        assert_eq!(judge.judge(numbered(number), Scanned::Unscanned(Cause::TooBig)).await, Verdict::Accept);
    }
    let third = judge.judge(numbered(102), Scanned::Unscanned(Cause::TooBig)).await;
    assert_eq!(text(&third), "451 4.7.1 You may only send 2 bulk messages in 8 hours, try later (ID)");
    let mut judge = Judge::new(&lines.replace("[limits]", "unscanned = \"clean\"\n[limits]"));
    for number in 100..110 {
        assert_eq!(judge.judge(numbered(number), Scanned::Unscanned(Cause::TooBig)).await, Verdict::Accept);
    }
}

#[tokio::test]
async fn without_a_scanner_nothing_is_bulk_mail_and_one_that_is_away_may_defer() {
    let mut judge = Judge::new("[limits]\nbulk_messages = 1");
    for number in 0..3 {
        let verdict = judge.judge(numbered(number), Scanned::Unscanned(Cause::NotConfigured)).await;
        assert_eq!(verdict, Verdict::Accept);
    }
    let strict = "[spamassassin]\naddress = \"127.0.0.1:783\"\nwhen_away = \"defer\"";
    let mut judge = Judge::new(strict);
    let away = judge.judge(numbered(1), Scanned::Unscanned(Cause::TimedOut)).await;
    assert_eq!(text(&away), "451 4.7.1 Temporarily unable to scan your message, try later (ID)");
    // A big message is no failure of the scanner.
    assert_eq!(judge.judge(numbered(2), Scanned::Unscanned(Cause::TooBig)).await, Verdict::Accept);
}

/// Six addresses, each within its own limit.
#[tokio::test]
async fn all_addresses_of_a_customer_are_limited_together() {
    let customer = Customer { id: "c-7".into(), metadata: Map::new() };
    let known = Owner { customer: Some(Arc::new(customer)), ..Owner::default() };
    let prefix = Owner { prefix: Some("10.1.0.0/24".parse().unwrap()), ..Owner::default() };
    for (owner, expected) in [(known, 500), (prefix, 500), (Owner::default(), 600)] {
        let judge = Judge::new("");
        let mut accepted = 0;
        for number in 0..600u64 {
            let mut message = numbered(number);
            message.transaction.customer.address = [10, 1, 0, u8::try_from(number % 6).unwrap()].into();
            let scanners = Scanners::default();
            let facts =
                Facts::new(&message, &scanners).with_owner(owner.clone()).with_spamassassin(found(0.0));
            let verdict = judge.policy.at_end_of_data(&facts, Moment(START)).await;
            if verdict == Verdict::Accept {
                accepted += 1;
            } else {
                let expected = "451 4.7.1 Your account may only send 500 messages a minute, try later (ID)";
                assert_eq!(text(&verdict), expected);
            }
        }
        assert_eq!(accepted, expected);
    }
}

/// Nobody may look at them, which is no reason to take them for bulk mail.
#[tokio::test]
async fn content_that_is_closed_is_not_bulk_mail() {
    for preset in ["volume", "reject"] {
        let judge = Judge::new(&format!(
            "[policy]\npreset = \"{preset}\"\n[limits]\nbulk_messages = 1\n\
             [spamassassin]\naddress = \"127.0.0.1:1\"\n[clamav]\naddress = \"127.0.0.1:1\"\n"
        ));
        for number in 0..3 {
            let (message, scanners) = (numbered(number), Scanners::default());
            let facts = Facts::new(&message, &scanners).closed();
            assert_eq!(judge.policy.at_end_of_data(&facts, Moment(START)).await, Verdict::Accept, "{preset}");
        }
    }
}

#[tokio::test]
async fn recipients_are_counted_by_their_number_and_sender_domains_beneath_their_source() {
    let with = |id: u64, sender: &[u8], recipients: usize| {
        let mut message = numbered(id);
        let mailbox = |path: &[u8]| weir_smtp::envelope::Mailbox {
            path: weir_smtp::envelope::Path::new(path),
            parameters: Vec::new(),
        };
        message.transaction.envelope.sender = mailbox(sender);
        message.transaction.envelope.recipients = vec![mailbox(b"r@example.net"); recipients];
        message
    };
    let mut judge = Judge::new("[limits]\nrecipients_per_hour = 10");
    assert_eq!(judge.judge(with(1, b"s@a.test", 6), found(0.0)).await, Verdict::Accept);
    let refusal = judge.judge(with(2, b"s@a.test", 5), found(0.0)).await;
    assert_eq!(text(&refusal), "451 4.7.1 You may only send 10 recipients an hour, try later (ID)");
    assert_eq!(judge.judge(with(3, b"s@a.test", 4), found(0.0)).await, Verdict::Accept);

    let mut judge = Judge::new("[limits]\nsender_domain_messages_per_hour = 1");
    assert_eq!(judge.judge(with(1, b"s@a.test", 1), found(0.0)).await, Verdict::Accept);
    assert_eq!(judge.judge(with(2, b"t@A.TEST", 1), found(0.0)).await.name(), "defer");
    assert_eq!(judge.judge(with(3, b"s@b.test", 1), found(0.0)).await, Verdict::Accept);
    // A bounce has no domain.
    for id in 4..7 {
        assert_eq!(judge.judge(with(id, b"", 1), found(0.0)).await, Verdict::Accept);
    }
}

#[tokio::test]
async fn the_operator_says_it_in_his_words() {
    let mut judge = Judge::new(
        "[limits]\nmessages_per_minute = 1\n[texts]\ncontact = \"https://help.test/{id}\"\n\
         limit = \"Over {limit}.\\nSee {contact}\"",
    );
    assert_eq!(judge.clean().await, Verdict::Accept);
    assert_eq!(
        text(&judge.clean().await),
        "451 4.7.1 Over 1 message a minute. 4.7.1 See https://help.test/ID"
    );
}
