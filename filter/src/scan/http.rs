//! The part of HTTP/1.1 that rspamd's and ICAP's answers are made of (RFC 9112, RFC 3507): a head, and a body that is as long as
//! it says, in chunks, or ends with the connection. One request a connection; nothing is followed, kept or decoded.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::ScanError;

/// Octets of a head.
const MAX_HEAD: u64 = 64 * 1024;

/// Octets of a line that says how long a chunk is.
const MAX_SIZE_LINE: u64 = 1024;

/// Octets read at a time.
const PIECE: u64 = 64 * 1024;

/// A status line and what stands below it.
#[derive(Debug, PartialEq)]
pub(super) struct Head {
    pub(super) protocol: String,
    pub(super) code: u16,
    pub(super) reason: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// From the connection, the empty line included.
    pub(super) async fn read(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Self, ScanError> {
        let mut limited = reader.take(MAX_HEAD);
        let mut text = Vec::new();
        loop {
            let begin = text.len();
            limited.read_until(b'\n', &mut text).await?;
            match text.get(begin..) {
                Some(b"\r\n" | b"\n") => return Self::parse(&text),
                Some(line) if line.ends_with(b"\n") => {}
                _ => return Err(broken("the head is cut short or too long", &text)),
            }
        }
    }

    fn parse(octets: &[u8]) -> Result<Self, ScanError> {
        let text = String::from_utf8_lossy(octets);
        let mut lines = text.lines();
        let mut status = lines.next().unwrap_or_default().splitn(3, ' ');
        let protocol = status.next().unwrap_or_default().to_owned();
        let code = status.next().and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| broken("no status line", octets))?;
        let reason = status.next().unwrap_or_default().trim().to_owned();
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            if line.starts_with([' ', '\t']) {
                // A line that is folded goes on.
                let (_, value) =
                    headers.last_mut().ok_or_else(|| broken("a header begins with a blank", octets))?;
                value.push('\n');
                value.push_str(line.trim());
            } else {
                let (name, value) =
                    line.split_once(':').ok_or_else(|| broken("a header has no colon", octets))?;
                headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        Ok(Self { protocol, code, reason, headers })
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// How the body ends, in HTTP.
    pub(super) fn body(&self) -> Result<Body, ScanError> {
        let chunked =
            self.header("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        match self.header("Content-Length") {
            _ if chunked => Ok(Body::chunked()),
            Some(length) => {
                let length =
                    length.parse().map_err(|_| ScanError::Answer(format!("Content-Length: {length:?}")))?;
                Ok(Body::Sized(length))
            }
            None => Ok(Body::ToTheEnd),
        }
    }
}

/// What is left of a body.
#[derive(Debug)]
pub(super) enum Body {
    Sized(u64),
    ToTheEnd,
    /// What is left of a chunk, and whether it was the first.
    Chunks {
        left: u64,
        begun: bool,
    },
    Ended,
}

impl Body {
    pub(super) fn chunked() -> Self {
        Self::Chunks { left: 0, begun: false }
    }

    /// The next octets; none at the end.
    pub(super) async fn piece(
        &mut self,
        reader: &mut (impl AsyncBufRead + Unpin),
    ) -> Result<Vec<u8>, ScanError> {
        if let Self::Chunks { left: left @ 0, begun } = self {
            if *begun && !line(reader).await?.is_empty() {
                return Err(ScanError::Answer("a chunk is longer than it says".into()));
            }
            *begun = true;
            *left = size(&line(reader).await?)?;
            if *left == 0 {
                *self = Self::Ended;
            }
        }
        let (left, counted) = match self {
            Self::Sized(left) | Self::Chunks { left, .. } => (*left, true),
            Self::ToTheEnd => (PIECE, false),
            Self::Ended => return Ok(Vec::new()),
        };
        let mut octets = Vec::new();
        let count = (&mut *reader).take(left.min(PIECE)).read_to_end(&mut octets).await? as u64;
        if counted && count < left.min(PIECE) {
            return Err(ScanError::Answer("the body is cut short".into()));
        }
        if let Self::Sized(left) | Self::Chunks { left, .. } = self {
            *left -= count;
        }
        Ok(octets)
    }

    /// All of it, `limit` octets at most.
    pub(super) async fn all(
        mut self,
        reader: &mut (impl AsyncBufRead + Unpin),
        limit: usize,
    ) -> Result<Vec<u8>, ScanError> {
        let mut octets = Vec::new();
        loop {
            let piece = self.piece(reader).await?;
            if piece.is_empty() {
                return Ok(octets);
            }
            octets.extend_from_slice(&piece);
            if octets.len() > limit {
                return Err(ScanError::Answer(format!("the body is longer than {limit} octets")));
            }
        }
    }
}

/// A line without its end.
async fn line(reader: &mut (impl AsyncBufRead + Unpin)) -> Result<Vec<u8>, ScanError> {
    let mut octets = Vec::new();
    reader.take(MAX_SIZE_LINE).read_until(b'\n', &mut octets).await?;
    match octets.strip_suffix(b"\n") {
        Some(line) => Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec()),
        None => Err(broken("a chunk's length is cut short", &octets)),
    }
}

/// `1f; extension`
fn size(line: &[u8]) -> Result<u64, ScanError> {
    let digits = line.split(|octet| *octet == b';').next().unwrap_or_default().trim_ascii();
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.is_empty() && !text.starts_with('+'));
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(|| broken("no length of a chunk", line))
}

fn broken(what: &str, octets: &[u8]) -> ScanError {
    let shown: String = String::from_utf8_lossy(octets).chars().take(200).collect();
    ScanError::Answer(format!("{what}: {shown:?}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives out what it has in pieces of this size.
    fn in_pieces(octets: &[u8], piece: usize) -> impl AsyncBufRead + Unpin + '_ {
        tokio::io::BufReader::with_capacity(piece, octets)
    }

    async fn read(octets: &[u8], piece: usize) -> Result<(Head, Vec<u8>), ScanError> {
        let mut reader = in_pieces(octets, piece);
        let head = Head::read(&mut reader).await?;
        let body = head.body()?.all(&mut reader, 1000).await?;
        Ok((head, body))
    }

    #[tokio::test]
    async fn every_way_to_end_a_body_is_known_however_it_is_cut() {
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more".as_slice();
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2; x=y\r\nlo\r\n0\r\n\r\n"
                .as_slice();
        let closed = b"HTTP/1.1 200 Fine and well\nX-Folded: a\n b\n\nhello".as_slice();
        for octets in [sized, chunked, closed] {
            for piece in 1..octets.len() {
                let (head, body) = read(octets, piece).await.unwrap();
                assert_eq!((head.code, body.as_slice()), (200, b"hello".as_slice()));
            }
        }
        let (head, _) = read(closed, 9).await.unwrap();
        assert_eq!((head.reason.as_str(), head.header("x-folded")), ("Fine and well", Some("a\nb")));
    }

    #[tokio::test]
    async fn broken_and_endless_answers_are_errors() {
        let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"A: b\r\n".repeat(20_000)].concat();
        for octets in [
            b"".as_slice(),
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nhel\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
            &endless,
        ] {
            assert!(read(octets, 64).await.is_err(), "{}", octets.escape_ascii());
        }
        let long = [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &[b'x'; 1001]].concat();
        assert!(read(&long, 64).await.is_err());
    }

    proptest! {
        #[test]
        fn a_chunked_body_is_what_went_in(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), piece in 1usize..80) {
            let mut octets = b"ICAP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                octets.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                octets.extend_from_slice(chunk);
                octets.extend_from_slice(b"\r\n");
            }
            octets.extend_from_slice(b"0\r\n\r\n");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (_, body) = runtime.block_on(read(&octets, piece)).unwrap();
            prop_assert_eq!(body, chunks.concat());
        }

        #[test]
        fn no_answer_panics(octets in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..80) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&octets, piece));
        }
    }
}
