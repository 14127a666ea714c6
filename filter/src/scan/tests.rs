use std::time::{Duration, Instant};

use weir_smtp::data::Findings;
use weir_smtp::envelope::{Envelope, Mailbox, Path};

use super::{Bounds, BreakerRule, Cause, Limited, Oversize, Report, Sample, ScanError, Scanned, Scanner};
use crate::body::Body;
use crate::message::{Customer, Message, Transaction};

pub(crate) fn transaction() -> Transaction {
    let sender = Mailbox { path: Path::new(&b"s@example.org"[..]), parameters: Vec::new() };
    Transaction {
        id: "id-1".into(),
        customer: Customer {
            address: "10.1.0.2".parse().unwrap(),
            port: Some(40_000),
            helo: Some("host.example".into()),
            protocol: None,
            destination: None,
        },
        envelope: Envelope::new(sender),
        findings: Findings { size: 10, ..Findings::default() },
    }
}

pub(crate) fn message() -> Message {
    Message { transaction: transaction(), body: Body::Memory(b"Subject: x\r\n".as_slice().into()) }
}

/// Waits, then answers with a score, or fails if there is none.
struct Slow(Duration, Option<f64>);

impl Scanner for Slow {
    type Found = Report;

    async fn scan(&self, sample: Sample<'_>) -> Result<Report, ScanError> {
        assert!(sample.size() > 12);
        tokio::time::sleep(self.0).await;
        match self.1 {
            Some(score) => Ok(report(score)),
            None => Err(ScanError::Answer("none".into())),
        }
    }
}

fn report(score: f64) -> Report {
    Report { score, symbols: String::new() }
}

fn bounds() -> Bounds {
    Bounds {
        max_size: 100,
        oversize: Oversize::Head,
        concurrency: 1,
        max_wait: Duration::from_secs(60),
        timeout: Duration::from_millis(200),
        breaker: BreakerRule { failures: 2, pause: Duration::from_millis(100) },
    }
}

async fn scan(limited: &Limited<Slow>, message: &Message) -> Scanned<Report> {
    limited.scan(message, Instant::now() + Duration::from_secs(60)).await
}

fn sized(octets: usize) -> Message {
    Message { body: Body::Memory(vec![b'x'; octets].into()), ..message() }
}

#[tokio::test]
async fn results_and_failures_are_told_apart_and_counted() {
    let quick = Limited::new("quick", Slow(Duration::ZERO, Some(1.5)), bounds());
    assert_eq!(scan(&quick, &sized(100)).await, Scanned::Found(report(1.5)));
    let head = scan(&quick, &sized(101)).await;
    assert_eq!(head, Scanned::Partly(report(1.5)));
    assert!(head.is_unscanned() && head.score() > 1.0);
    assert_eq!((quick.counts().asked, quick.counts().scanned, quick.counts().heads), (2, 1, 1));
    let whole = Limited::new(
        "whole",
        Slow(Duration::ZERO, Some(1.5)),
        Bounds { oversize: Oversize::Skip, ..bounds() },
    );
    assert_eq!(scan(&whole, &sized(101)).await, Scanned::Unscanned(Cause::TooBig));
    assert_eq!(whole.counts().too_big, 1);

    let failing = Limited::new("failing", Slow(Duration::ZERO, None), bounds());
    assert_eq!(scan(&failing, &message()).await, Scanned::Unscanned(Cause::Failed));
    let hung = Limited::new("hung", Slow(Duration::from_secs(60), Some(0.0)), bounds());
    let scanned = scan(&hung, &message()).await;
    assert_eq!((scanned.unscanned(), scanned.score()), (Some(Cause::TimedOut), 0.0));
    assert_eq!((hung.counts().timed_out, hung.counts().running), (1, 0));
    assert!(!Scanned::<Report>::Unscanned(Cause::NotConfigured).is_unscanned());
}

#[tokio::test]
async fn whoever_would_wait_too_long_is_sent_on_at_once() {
    let bounds =
        Bounds { max_wait: Duration::from_millis(120), timeout: Duration::from_secs(60), ..bounds() };
    let slow = Limited::new("slow", Slow(Duration::from_millis(100), Some(0.0)), bounds);
    assert!(matches!(scan(&slow, &message()).await, Scanned::Found(_)));
    // The second waits for the first; the third would for both.
    let [first, second, third] = [message(), message(), message()];
    let began = Instant::now();
    let last = async {
        let scanned = scan(&slow, &third).await;
        (scanned, began.elapsed())
    };
    let (first, second, (third, after)) = tokio::join!(scan(&slow, &first), scan(&slow, &second), last);
    assert!(matches!((first, second), (Scanned::Found(_), Scanned::Found(_))));
    assert_eq!(third, Scanned::Unscanned(Cause::Busy));
    assert!(after < Duration::from_millis(100), "{after:?}");
}

#[tokio::test]
async fn who_waits_does_so_for_three_times_the_limit_at_most() {
    let wait = Duration::from_millis(50);
    let bounds = Bounds { max_wait: wait, timeout: Duration::from_secs(60), ..bounds() };
    // Nothing is known of a scan before the first is over.
    let slow = Limited::new("slow", Slow(Duration::from_millis(2000), Some(0.0)), bounds);
    let [first, second] = [message(), message()];
    let began = Instant::now();
    let waiting = async {
        let scanned = scan(&slow, &second).await;
        (scanned, began.elapsed())
    };
    let (first, (second, after)) = tokio::join!(scan(&slow, &first), waiting);
    assert!(matches!(first, Scanned::Found(_)));
    assert_eq!(second, Scanned::Unscanned(Cause::Busy));
    assert!(after >= 3 * wait && after < Duration::from_millis(2000), "{after:?}");
}

#[tokio::test]
async fn a_scan_ends_with_the_time_for_the_verdict() {
    let hung = Limited::new(
        "hung",
        Slow(Duration::from_secs(60), Some(0.0)),
        Bounds { timeout: Duration::from_secs(60), ..bounds() },
    );
    let began = Instant::now();
    for _ in 0..3 {
        let scanned = hung.scan(&message(), Instant::now() + Duration::from_millis(50)).await;
        // It is not to blame for the little time that it had.
        assert_eq!(scanned, Scanned::Unscanned(Cause::TimedOut));
    }
    assert!(began.elapsed() < Duration::from_secs(30));
    assert_eq!(hung.scan(&message(), began).await, Scanned::Unscanned(Cause::Busy));
}

#[tokio::test]
async fn a_scanner_that_fails_is_left_alone_and_tried_again() {
    let failing = Limited::new("failing", Slow(Duration::ZERO, None), bounds());
    let mut causes = Vec::new();
    for _ in 0..4 {
        causes.extend(scan(&failing, &message()).await.unscanned());
    }
    let (failed, open) = (Cause::Failed, Cause::BreakerOpen);
    assert_eq!(causes, [failed, failed, open, open]);
    assert_eq!((failing.counts().breaker_open, failing.counts().breaker), (2, "open"));
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(scan(&failing, &message()).await.unscanned(), Some(failed));
    assert_eq!(scan(&failing, &message()).await.unscanned(), Some(open));
}

#[tokio::test]
async fn a_trial_that_is_cut_off_does_not_leave_it_shut() {
    let hung = Limited::new("hung", Slow(Duration::from_secs(60), Some(0.0)), bounds());
    for _ in 0..2 {
        assert_eq!(scan(&hung, &message()).await.unscanned(), Some(Cause::TimedOut));
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    let cut = tokio::time::timeout(Duration::from_millis(20), scan(&hung, &message())).await;
    assert!(cut.is_err());
    assert_eq!((hung.counts().running, hung.counts().waiting), (0, 0));
    assert_eq!(scan(&hung, &message()).await.unscanned(), Some(Cause::TimedOut));
}
