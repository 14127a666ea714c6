//! ClamAV through clamd: INSTREAM has it scan what comes over the connection, wherever it runs.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::exchange::exchange;
use super::{Address, Finding, Sample, ScanError, Scanner};

/// Longer answers are not clamd's.
const MAX_ANSWER: u64 = 16 * 1024;

#[derive(Debug)]
pub struct Clamd {
    address: Address,
}

impl Clamd {
    pub fn new(address: Address) -> Self {
        Self { address }
    }

    /// A command without a message: `PING`, `VERSION`.
    ///
    /// # Errors
    /// If clamd does not answer.
    pub async fn say(&self, command: &str) -> Result<String, ScanError> {
        let stream = self.address.connect().await.map_err(ScanError::Connect)?;
        let (reader, mut writer) = tokio::io::split(stream);
        let write = async { writer.write_all(format!("z{command}\0").as_bytes()).await };
        exchange(write, answer(&mut BufReader::new(reader))).await
    }
}

impl Scanner for Clamd {
    type Found = Finding;

    async fn scan(&self, sample: Sample<'_>) -> Result<Finding, ScanError> {
        let stream = self.address.connect().await.map_err(ScanError::Connect)?;
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let read = async { parse(&answer(&mut reader).await?) };
        exchange(send(&sample, &mut writer), read).await
    }
}

/// Each piece behind its length in four octets; a length of 0 ends it.
async fn send(sample: &Sample<'_>, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    writer.write_all(b"zINSTREAM\0").await?;
    let mut at = 0;
    while at < sample.size() {
        let piece = sample.next(at).await?;
        let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
        writer.write_all(&length.to_be_bytes()).await?;
        writer.write_all(&piece).await?;
        at += u64::from(length);
    }
    writer.write_all(&0_u32.to_be_bytes()).await?;
    writer.flush().await
}

/// What stands before the NUL.
async fn answer(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<String, ScanError> {
    let mut octets = Vec::new();
    reader.take(MAX_ANSWER).read_until(0, &mut octets).await?;
    match octets.strip_suffix(b"\0") {
        Some(answer) => Ok(String::from_utf8_lossy(answer).into_owned()),
        None => Err(ScanError::Answer(format!("cut short or too long: \"{}\"", octets.escape_ascii()))),
    }
}

/// `stream: OK`, `stream: Name FOUND`, or a sentence that ends with `ERROR`.
fn parse(answer: &str) -> Result<Finding, ScanError> {
    if answer.contains("size limit exceeded") {
        return Err(ScanError::TooBig("clamd's StreamMaxLength is below clamav.max_size".into()));
    }
    if answer.ends_with("ERROR") {
        return Err(ScanError::Refused(answer.into()));
    }
    match answer.strip_prefix("stream: ") {
        Some("OK") => Ok(Finding::Clean),
        Some(found) => match found.strip_suffix(" FOUND") {
            Some(name) => Ok(Finding::infected(name)),
            None => Err(ScanError::Answer(answer.into())),
        },
        None => Err(ScanError::Answer(answer.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;
    use crate::message::Message;
    use crate::scan::tests::transaction;

    #[test]
    fn answers_are_clean_a_name_or_an_error() {
        assert_eq!(parse("stream: OK").unwrap(), Finding::Clean);
        let found = parse("stream: Win.Test.EICAR_HDB-1 FOUND").unwrap();
        assert_eq!(found, Finding::Infected("Win.Test.EICAR_HDB-1".into()));
        assert!(matches!(parse("INSTREAM size limit exceeded. ERROR"), Err(ScanError::TooBig(_))));
        assert!(matches!(parse("stream: Can't allocate memory ERROR"), Err(ScanError::Refused(_))));
        for answer in ["", "PONG", "stream: ", "stream: FOUND"] {
            assert!(matches!(parse(answer), Err(ScanError::Answer(_))), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_message_is_sent_in_pieces_that_say_their_length() {
        let octets = vec![b'x'; 200_000];
        let message = Message { transaction: transaction(), body: Body::Memory(octets.into()) };
        let sample = Sample::new(&message, u64::MAX);
        let mut wire = Vec::new();
        send(&sample, &mut wire).await.unwrap();
        let mut rest = wire.strip_prefix(b"zINSTREAM\0".as_slice()).unwrap();
        let mut body = Vec::new();
        while let Some((length, following)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap();
            body.extend_from_slice(&following[..length]);
            rest = &following[length..];
        }
        assert!(wire.ends_with(&[0; 4]) && rest.is_empty());
        assert_eq!(body.len() as u64, sample.size());
    }
}
