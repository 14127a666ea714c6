//! Virus engines over ICAP (RFC 3507): the message goes as the body of a web page that a browser would get (RESPMOD), and the
//! engine says that nothing need be changed (204), names an infection, or sends something else in its place.

use std::io;

use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::exchange::exchange;
use super::http::{Body, Head};
use super::{Address, Finding, Sample, ScanError, Scanner, received};

/// Where engines say what they found. `X-Virus-ID` is a name by itself, in the others a name is part of the value.
const VIRUS_ID: &str = "X-Virus-ID";
const VIRUS_NAME: &str = "X-Virus-Name";
const INFECTION_FOUND: &str = "X-Infection-Found";
const VIOLATIONS_FOUND: &str = "X-Violations-Found";

/// What engines write into `X-Virus-ID` when they found none.
const NO_THREATS: [&str; 4] = ["", "no threats", "clean", "none"];

/// Interim answers (100) before the answer, at most.
const MAX_INTERIM: usize = 4;

#[derive(Debug)]
pub struct Icap {
    address: Address,
    /// The path of the URL, without the first slash.
    service: String,
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub code: u16,
    pub reason: String,
    pub methods: String,
    pub service: String,
}

impl Icap {
    pub fn new(address: Address, service: String) -> Self {
        Self { address, service }
    }

    /// The engine's OPTIONS.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn options(&self) -> Result<Options, ScanError> {
        let stream = self.address.connect().await.map_err(ScanError::Connect)?;
        let (reader, mut writer) = tokio::io::split(stream);
        let request = format!("{}Encapsulated: null-body=0\r\n\r\n", self.request("OPTIONS"));
        let write = async { writer.write_all(request.as_bytes()).await };
        let mut reader = BufReader::new(reader);
        let head = exchange(write, answer(&mut reader)).await?;
        let header = |name| head.header(name).unwrap_or_default().to_owned();
        let (methods, service) = (header("Methods"), header("Service"));
        Ok(Options { code: head.code, methods, service, reason: head.reason })
    }

    fn request(&self, method: &str) -> String {
        let host = match &self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".into(),
        };
        format!(
            "{method} icap://{host}/{} ICAP/1.0\r\n\
             Host: {host}\r\n\
             User-Agent: weir-filter\r\n\
             Connection: close\r\n",
            self.service
        )
    }

    async fn send(&self, sample: &Sample<'_>, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let name: String = received::plain(sample.transaction.id.as_bytes(), b"")
            .chars()
            .map(|one| if one.is_ascii_alphanumeric() { one } else { '-' })
            .collect();
        let asked = format!("GET http://weir.invalid/{name}.eml HTTP/1.1\r\nHost: weir.invalid\r\n\r\n");
        let given = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: message/rfc822\r\nContent-Length: {}\r\n\r\n",
            sample.size()
        );
        let head = format!(
            "{}Allow: 204\r\nEncapsulated: req-hdr=0, res-hdr={}, res-body={}\r\n\r\n{asked}{given}",
            self.request("RESPMOD"),
            asked.len(),
            asked.len() + given.len()
        );
        writer.write_all(head.as_bytes()).await?;
        let mut at = 0;
        while at < sample.size() {
            let piece = sample.next(at).await?;
            writer.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            writer.write_all(&piece).await?;
            writer.write_all(b"\r\n").await?;
            at += piece.len() as u64;
        }
        writer.write_all(b"0\r\n\r\n").await?;
        writer.flush().await
    }
}

impl Scanner for Icap {
    type Found = Finding;

    async fn scan(&self, sample: Sample<'_>) -> Result<Finding, ScanError> {
        let stream = self.address.connect().await.map_err(ScanError::Connect)?;
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let read = async {
            let head = answer(&mut reader).await?;
            verdict(&head, &mut reader, &sample).await
        };
        exchange(self.send(&sample, &mut writer), read).await
    }
}

/// The head of the answer.
async fn answer(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Head, ScanError> {
    for _ in 0..=MAX_INTERIM {
        let head = Head::read(reader).await?;
        if !head.protocol.starts_with("ICAP/") {
            return Err(ScanError::Answer(format!("not ICAP but {:?}", head.protocol)));
        }
        if head.code != 100 {
            return Ok(head);
        }
    }
    Err(ScanError::Answer("nothing but interim answers".into()))
}

async fn verdict(
    head: &Head,
    reader: &mut (impl AsyncBufRead + Unpin),
    sample: &Sample<'_>,
) -> Result<Finding, ScanError> {
    if let Some(name) = infection(head) {
        return Ok(Finding::infected(&name));
    }
    match head.code {
        204 => Ok(Finding::Clean),
        200 => page(head, reader, sample).await,
        // It could do nothing with this message, or with this question.
        400..=499 => Err(ScanError::Refused(format!("ICAP {} {}", head.code, head.reason))),
        _ => Err(ScanError::Answer(format!("ICAP {} {}", head.code, head.reason))),
    }
}

/// The name that the engine gives in a header.
fn infection(head: &Head) -> Option<String> {
    let named = [VIRUS_ID, VIRUS_NAME].into_iter().find_map(|header| {
        let name = head.header(header)?;
        (!NO_THREATS.contains(&name.to_ascii_lowercase().as_str())).then(|| name.to_owned())
    });
    named
        .or_else(|| head.header(INFECTION_FOUND).map(threat))
        .or_else(|| head.header(VIOLATIONS_FOUND).map(violation))
}

/// `Type=0; Resolution=2; Threat=Eicar-Test-Signature;`
fn threat(value: &str) -> String {
    let name = value.split(';').find_map(|part| part.trim().strip_prefix("Threat="));
    name.unwrap_or(value).to_owned()
}

/// How many there are, and for each four lines: file, threat, number, what was done.
fn violation(value: &str) -> String {
    value.lines().nth(2).unwrap_or(value).to_owned()
}

/// What comes in place of the message. The message itself: the engine found nothing, and does not know 204.
async fn page(
    head: &Head,
    reader: &mut (impl AsyncBufRead + Unpin),
    sample: &Sample<'_>,
) -> Result<Finding, ScanError> {
    let parts = head.header("Encapsulated").unwrap_or_default();
    if parts.contains("res-hdr=") {
        let http = Head::read(reader).await?;
        if http.code != 200 {
            return Ok(Finding::infected(&format!(
                "refused by the engine with {} {}",
                http.code, http.reason
            )));
        }
    }
    if !parts.contains("res-body=") {
        return Err(ScanError::Answer(format!("200 without a body: Encapsulated: {parts:?}")));
    }
    let mut body = Body::chunked();
    let mut at = 0;
    loop {
        let piece = body.piece(reader).await?;
        if piece.is_empty() {
            break;
        }
        let mut rest = piece.as_slice();
        while !rest.is_empty() {
            let sent = sample.piece(at).await?;
            let same = rest.len().min(sent.len());
            if same == 0 || rest.get(..same) != sent.get(..same) {
                return Ok(replaced());
            }
            rest = rest.get(same..).unwrap_or_default();
            at += same as u64;
        }
    }
    Ok(if at == sample.size() { Finding::Clean } else { replaced() })
}

fn replaced() -> Finding {
    Finding::infected("replaced by the engine")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::tests::message;

    async fn judge(octets: &[u8]) -> Result<Finding, ScanError> {
        let message = message();
        let sample = Sample::new(&message, 1000);
        let mut reader = octets;
        let head = answer(&mut reader).await?;
        verdict(&head, &mut reader, &sample).await
    }

    async fn named(headers: &str) -> String {
        match judge(format!("ICAP/1.0 200 OK\r\n{headers}\r\n\r\n").as_bytes()).await {
            Ok(Finding::Infected(name)) => name,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn infections_are_named_in_several_ways() {
        assert_eq!(named("X-Infection-Found: Type=0; Resolution=2; Threat=Eicar-Test;").await, "Eicar-Test");
        assert_eq!(named("X-Virus-ID: EICAR Test\r\nX-Infection-Found: Type=0").await, "EICAR Test");
        assert_eq!(named("X-Violations-Found: 1\r\n\tmail.eml\r\n\tEicar\r\n\t0\r\n\t0").await, "Eicar");
        assert_eq!(named("X-Infection-Found: yes").await, "yes");
        let refused =
            b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=30\r\n\r\nHTTP/1.1 403 Forbidden\r\n\r\n";
        assert_eq!(
            judge(refused).await.unwrap(),
            Finding::infected("refused by the engine with 403 Forbidden")
        );
    }

    #[tokio::test]
    async fn clean_is_204_or_the_message_itself() {
        let clean = b"ICAP/1.0 100 Continue\r\n\r\nICAP/1.0 204 Unmodified\r\nX-Virus-ID: No threats\r\n\r\n";
        assert_eq!(judge(clean).await.unwrap(), Finding::Clean);
        let message = message();
        let mut octets = Vec::new();
        Sample::new(&message, 1000).write_to(&mut octets).await.unwrap();
        let page = |body: &[u8]| {
            let mut wire =
                b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=19\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
                    .to_vec();
            for chunk in body.chunks(7) {
                wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            wire
        };
        // The date in the lines that are added is that of the same second.
        let same = judge(&page(&octets)).await.unwrap();
        let short = judge(&page(octets.get(..20).unwrap())).await.unwrap();
        let other = judge(&page(b"<html>This was blocked</html>")).await.unwrap();
        let longer = judge(&page(&[octets.as_slice(), b"x"].concat())).await.unwrap();
        assert_eq!((short, other, longer), (replaced(), replaced(), replaced()));
        assert!(same == Finding::Clean || octets != whole(&message).await, "{same:?}");
    }

    async fn whole(message: &crate::message::Message) -> Vec<u8> {
        let mut octets = Vec::new();
        Sample::new(message, 1000).write_to(&mut octets).await.unwrap();
        octets
    }

    #[tokio::test]
    async fn what_says_nothing_of_the_message_is_no_verdict() {
        assert!(matches!(judge(b"ICAP/1.0 404 No Service\r\n\r\n").await, Err(ScanError::Refused(_))));
        for octets in [
            b"ICAP/1.0 503 Overloaded\r\n\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"ICAP/1.0 200 OK\r\n\r\n",
            b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, null-body=19\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            &b"ICAP/1.0 100 Continue\r\n\r\n".repeat(10),
        ] {
            assert!(matches!(judge(octets).await, Err(ScanError::Answer(_))), "{}", octets.escape_ascii());
        }
    }

    #[tokio::test]
    async fn the_parts_are_where_the_head_says() {
        let message = message();
        let sample = Sample::new(&message, 1000);
        let icap = Icap::new("127.0.0.1:1344".to_string().try_into().unwrap(), "avscan".into());
        let mut wire = Vec::new();
        icap.send(&sample, &mut wire).await.unwrap();
        let text = String::from_utf8(wire).unwrap();
        let (head, parts) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("RESPMOD icap://127.0.0.1:1344/avscan ICAP/1.0\r\nHost: 127.0.0.1:1344\r\n"),
            "{head}"
        );
        let offsets: Vec<usize> = head
            .split_once("Encapsulated: ")
            .unwrap()
            .1
            .split(", ")
            .map(|part| part.split_once('=').unwrap().1.trim().parse().unwrap())
            .collect();
        assert!(parts[offsets[0]..].starts_with("GET http://weir.invalid/id-1.eml HTTP/1.1\r\n"));
        assert!(parts[offsets[1]..].starts_with("HTTP/1.1 200 OK\r\n"));
        let body = Body::chunked().all(&mut &parts.as_bytes()[offsets[2]..], 1000).await.unwrap();
        assert_eq!(body.len() as u64, sample.size());
    }
}
