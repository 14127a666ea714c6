use std::time::Duration;

use weir_smtp::data::Findings;
use weir_smtp::envelope::{Envelope, Mailbox, Path};

use super::{Bounds, Cause, Limited, Report, Sample, ScanError, Scanned, Scanner};
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

    async fn scan(&self, _: Sample<'_>) -> Result<Report, ScanError> {
        tokio::time::sleep(self.0).await;
        match self.1 {
            Some(score) => Ok(Report { score, symbols: String::new() }),
            None => Err(ScanError::Answer("none".into())),
        }
    }
}

fn limited(scan: Duration, score: Option<f64>) -> Limited<Slow> {
    let bounds = Bounds {
        max_size: 100,
        concurrency: 1,
        max_wait: Duration::from_millis(50),
        timeout: Duration::from_millis(200),
    };
    Limited::new("slow", Slow(scan, score), bounds)
}

#[tokio::test]
async fn results_and_failures_are_told_apart_and_counted() {
    let quick = limited(Duration::ZERO, Some(1.5));
    assert_eq!(quick.scan(&message()).await, Scanned::Found(Report { score: 1.5, symbols: String::new() }));
    let mut big = message();
    big.transaction.findings.size = 101;
    assert_eq!(quick.scan(&big).await, Scanned::Unscanned(Cause::TooBig));
    assert_eq!((quick.counts().scanned, quick.counts().too_big), (1, 1));

    let failing = limited(Duration::ZERO, None);
    assert_eq!(failing.scan(&message()).await, Scanned::Unscanned(Cause::Failed));
    let hung = limited(Duration::from_secs(60), Some(0.0));
    assert_eq!(hung.scan(&message()).await, Scanned::Unscanned(Cause::TimedOut));
    assert_eq!(hung.counts().timed_out, 1);
}

#[tokio::test]
async fn whoever_does_not_get_his_turn_is_busy() {
    let slow = limited(Duration::from_millis(150), Some(0.0));
    let (first, second) = (message(), message());
    let (first, second) = tokio::join!(slow.scan(&first), slow.scan(&second));
    assert!(matches!(first, Scanned::Found(_)));
    assert_eq!(second, Scanned::Unscanned(Cause::Busy));
}
