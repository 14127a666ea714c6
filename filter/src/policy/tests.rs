use super::{Policy, Verdict};
use crate::config::{Limits, SpamAssassin, WhenAway};
use crate::facts::Facts;
use crate::message::Message;
use crate::rate::{Memory, Moment};
use crate::scan::tests::message;
use crate::scan::{Cause, Report, Scanned, Scanners};

fn policy(minute: u64, hour: u64) -> Policy<Memory> {
    let limits = Limits { messages_per_minute: minute, messages_per_hour: hour };
    Policy::new(Memory::new(1000), &limits, None)
}

fn numbered(number: u64) -> Message {
    let mut message = message();
    message.transaction.id = number.to_string();
    message
}

async fn judge(policy: &Policy<Memory>, message: &Message, now: u64) -> Verdict {
    let scanners = Scanners::default();
    policy.at_end_of_data(&Facts::new(message, &scanners), Moment(now)).await
}

fn text(verdict: &Verdict) -> String {
    verdict.reply("ID").to_string()
}

#[tokio::test]
async fn the_minute_comes_first_and_the_text_says_the_limit() {
    let policy = policy(2, 3);
    let start = 1_000_000_000;
    assert_eq!(judge(&policy, &numbered(1), start).await, Verdict::Accept);
    assert_eq!(judge(&policy, &numbered(2), start).await, Verdict::Accept);
    let third = judge(&policy, &numbered(3), start).await;
    assert_eq!(text(&third), "451 4.7.1 You may only send 2 messages a minute, try later (ID)");
    assert_eq!(third.name(), "defer");
    // A replay of what was counted passes, one of what was refused is refused.
    assert_eq!(judge(&policy, &numbered(1), start).await, Verdict::Accept);
    assert_eq!(judge(&policy, &numbered(3), start).await, third);
    let later = start + 120_000;
    assert_eq!(judge(&policy, &numbered(3), later).await, Verdict::Accept);
    let fourth = judge(&policy, &numbered(4), later).await;
    assert_eq!(text(&fourth), "451 4.7.1 You may only send 3 messages an hour, try later (ID)");
}

#[tokio::test]
async fn sources_are_counted_apart_and_a_slash_64_together() {
    let policy = policy(1, 0);
    let from = |id: u64, address: &str| {
        let mut message = numbered(id);
        message.transaction.customer.address = address.parse().unwrap();
        message
    };
    let now = 1_000_000;
    assert_eq!(judge(&policy, &from(1, "10.1.0.2"), now).await, Verdict::Accept);
    assert_eq!(judge(&policy, &from(2, "10.1.0.3"), now).await, Verdict::Accept);
    assert_eq!(judge(&policy, &from(3, "fd01::1"), now).await, Verdict::Accept);
    assert_eq!(judge(&policy, &from(4, "fd01::ffff:1"), now).await.name(), "defer");
    assert_eq!(judge(&policy, &from(5, "fd01:0:0:1::1"), now).await, Verdict::Accept);
}

#[tokio::test]
async fn limits_of_zero_are_none() {
    let policy = policy(0, 0);
    for number in 0..2000 {
        assert_eq!(judge(&policy, &numbered(number), 1_000_000).await, Verdict::Accept);
    }
}

#[test]
fn spam_is_rejected_at_the_score_and_failures_as_configured() {
    let spam = |when_away| {
        let section = SpamAssassin {
            address: "127.0.0.1:783".to_string().try_into().unwrap(),
            reject_at: 6.0,
            when_away,
            max_size: 1,
            concurrency: 1,
            max_wait: 1,
            timeout: 1,
        };
        Policy::new(Memory::new(1), &Limits::default(), Some(&section)).spam.unwrap()
    };
    let scored = |score| Scanned::Found(Report { score, symbols: String::new() });
    let lenient = spam(WhenAway::AcceptUnscanned);
    assert_eq!(lenient.judge(&scored(5.9)), Verdict::Accept);
    assert_eq!(
        text(&lenient.judge(&scored(6.0))),
        "550 5.7.1 SpamAssassin score 6.0 is at or above 6.0 (ID)"
    );
    assert_eq!(
        text(&lenient.judge(&scored(1000.0))),
        "550 5.7.1 SpamAssassin score 1000.0 is at or above 6.0 (ID)"
    );
    assert_eq!(lenient.judge(&Scanned::Unscanned(Cause::Failed)), Verdict::Accept);
    let strict = spam(WhenAway::Defer);
    assert_eq!(strict.judge(&Scanned::Unscanned(Cause::TimedOut)).name(), "defer");
    // A big message is no failure of the scanner.
    assert_eq!(strict.judge(&Scanned::Unscanned(Cause::TooBig)), Verdict::Accept);
}
