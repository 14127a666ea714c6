//! rspamd over HTTP: the message as the body of `POST /checkv2`, who sent it in headers, the answer in JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::exchange::exchange;
use super::http::Head;
use super::{Address, Report, Sample, ScanError, Scanner, received};
use crate::message::Transaction;

/// Octets of an answer.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Recipients that it is told of: what it makes of them does not need all of a large list.
const MAX_RECIPIENTS: usize = 100;

#[derive(Debug)]
pub struct Rspamd {
    address: Address,
}

impl Rspamd {
    pub fn new(address: Address) -> Self {
        Self { address }
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// If it does not answer, or another program does.
    pub async fn ping(&self) -> Result<(), ScanError> {
        let stream = self.address.connect().await.map_err(ScanError::Connect)?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let request = b"GET /ping HTTP/1.1\r\nHost: rspamd\r\nConnection: close\r\n\r\n";
        let write = async { writer.write_all(request).await };
        let answer = exchange(write, answer(&mut reader)).await?;
        if answer.trim_ascii() == b"pong" { Ok(()) } else { Err(broken("no pong", &answer)) }
    }
}

impl Scanner for Rspamd {
    type Found = Report;

    async fn scan(&self, sample: Sample<'_>) -> Result<Report, ScanError> {
        let stream = self.address.connect().await.map_err(ScanError::Connect)?;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let read = async { parse(&answer(&mut reader).await?) };
        exchange(send(&sample, &mut writer), read).await
    }
}

async fn send(sample: &Sample<'_>, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    writer.write_all(request(sample.transaction, sample.size()).as_bytes()).await?;
    sample.write_to(writer).await?;
    writer.flush().await
}

/// The head of the request. What the customer said is cut and cleaned: it cannot add a header.
fn request(transaction: &Transaction, size: u64) -> String {
    let customer = &transaction.customer;
    let path = |path: &[u8]| received::plain(path, b"<>");
    let mut head = format!(
        "POST /checkv2 HTTP/1.1\r\n\
         Host: rspamd\r\n\
         Connection: close\r\n\
         User-Agent: weir-filter\r\n\
         Content-Length: {size}\r\n\
         Queue-Id: {}\r\n\
         IP: {}\r\n\
         From: {}\r\n",
        received::plain(transaction.id.as_bytes(), b""),
        customer.address.to_canonical(),
        path(transaction.envelope.sender.path.as_bytes()),
    );
    // Writing to a String cannot fail.
    if let Some(helo) = &customer.helo {
        let _ = write!(head, "Helo: {}\r\n", received::plain(helo.as_bytes(), b""));
    }
    for recipient in transaction.envelope.recipients.iter().take(MAX_RECIPIENTS) {
        let _ = write!(head, "Rcpt: {}\r\n", path(recipient.path.as_bytes()));
    }
    head.push_str("\r\n");
    head
}

/// The body of the answer.
async fn answer(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, ScanError> {
    let mut reader = BufReader::new(reader);
    let head = Head::read(&mut reader).await?;
    if !head.protocol.starts_with("HTTP/") {
        return Err(ScanError::Answer(format!("not HTTP but {:?}", head.protocol)));
    }
    let body = head.body()?.all(&mut reader, MAX_ANSWER).await?;
    match head.code {
        200 => Ok(body),
        // It could do nothing with this message, or with this question.
        400..=499 => Err(ScanError::Refused(format!("HTTP {} {}", head.code, head.reason))),
        _ => Err(ScanError::Answer(format!("HTTP {} {}", head.code, head.reason))),
    }
}

#[derive(Deserialize)]
struct Answer {
    score: f64,
    #[serde(default)]
    symbols: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(default)]
    is_skipped: bool,
}

fn parse(body: &[u8]) -> Result<Report, ScanError> {
    let answer: Answer = serde_json::from_slice(body).map_err(|cause| broken(&cause.to_string(), body))?;
    if !answer.score.is_finite() {
        return Err(broken("no score", body));
    }
    let mut symbols: Vec<String> = answer.symbols.into_keys().collect();
    if answer.is_skipped {
        // Its own settings say that this one is none of its business.
        symbols.push("SKIPPED".into());
    }
    Ok(Report { score: answer.score, symbols: symbols.join(",") })
}

fn broken(what: &str, body: &[u8]) -> ScanError {
    let shown: String = String::from_utf8_lossy(body).chars().take(200).collect();
    ScanError::Answer(format!("{what}: {shown:?}"))
}

#[cfg(test)]
mod tests {
    use weir_smtp::envelope::{Mailbox, Path};

    use super::*;
    use crate::scan::tests::transaction;

    #[test]
    fn an_answer_gives_score_and_symbols() {
        let answer = br#"{"is_skipped":false,"score":15.5,"required_score":15.0,"action":"reject","symbols":{"GTUBE":
            {"name":"GTUBE","score":0.0,"options":["x"]},"ARC_NA":{"score":0}},"message-id":"x","time_real":0.002}"#;
        let report = parse(answer).unwrap();
        assert_eq!((report.score, report.symbols.as_str()), (15.5, "ARC_NA,GTUBE"));
        assert_eq!(parse(br#"{"score":0,"is_skipped":true}"#).unwrap().symbols, "SKIPPED");
        for answer in [&b""[..], b"{}", b"{\"score\":\"1\"}", b"{\"score\":null}", b"{\"score\":1", b"<html>"]
        {
            assert!(parse(answer).is_err(), "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn a_customer_cannot_add_headers() {
        let mut transaction = transaction();
        transaction.customer.helo = Some("evil\r\nPass: all".into());
        let recipient = |path: &'static [u8]| Mailbox { path: Path::new(path), parameters: Vec::new() };
        transaction.envelope.recipients = std::iter::repeat_n(recipient(b"r@example.net"), 150)
            .chain([recipient(b"a\r\nSettings-ID: x@y")])
            .collect();
        let head = request(&transaction, 7);
        assert!(
            head.contains("\r\nIP: 10.1.0.2\r\nFrom: s@example.org\r\nHelo: evil??Pass: all\r\nRcpt: r@"),
            "{head}"
        );
        assert_eq!(head.matches("Rcpt: ").count(), MAX_RECIPIENTS);
        transaction.envelope.recipients.drain(..150);
        assert!(request(&transaction, 7).ends_with("Rcpt: a??Settings-ID: x@y\r\n\r\n"));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for text in ["SPAMD/1.1 0 EX_OK\r\n\r\n", "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"] {
            assert!(matches!(answer(&mut text.as_bytes()).await, Err(ScanError::Answer(_))), "{text}");
        }
        let refused = "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n";
        assert!(matches!(answer(&mut refused.as_bytes()).await, Err(ScanError::Refused(_))));
    }
}
