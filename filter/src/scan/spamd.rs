//! SpamAssassin through spamd's protocol: SYMBOLS gives the score and the names of the tests that
//! hit, and leaves the message alone.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Address, Report, Sample, ScanError, Scanner};

/// Longer answers are not SYMBOLS answers.
const MAX_ANSWER: u64 = 64 * 1024;

#[derive(Debug)]
pub struct Spamd {
    address: Address,
}

impl Spamd {
    pub fn new(address: Address) -> Self {
        Self { address }
    }
}

impl Scanner for Spamd {
    type Found = Report;

    async fn scan(&self, sample: Sample<'_>) -> Result<Report, ScanError> {
        let mut stream = self.address.connect().await.map_err(ScanError::Connect)?;
        let head = format!("SYMBOLS SPAMC/1.5\r\nContent-length: {}\r\n\r\n", sample.size());
        stream.write_all(head.as_bytes()).await?;
        sample.write_to(&mut stream).await?;
        // spamd starts when it has seen the end of its input.
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        parse(&answer)
    }
}

/// `SPAMD/1.1 0 EX_OK`, headers, an empty line, the names of the tests.
fn parse(answer: &[u8]) -> Result<Report, ScanError> {
    let text = String::from_utf8_lossy(answer);
    let broken =
        |what: &str| ScanError::Answer(format!("{what}: {:?}", text.chars().take(200).collect::<String>()));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| broken("no empty line"))?;
    let mut lines = head.split("\r\n");
    let mut status = lines.next().unwrap_or_default().split_ascii_whitespace();
    if !status.next().is_some_and(|word| word.starts_with("SPAMD/")) {
        return Err(broken("not spamd"));
    }
    if status.next() != Some("0") {
        return Err(ScanError::Refused(text.lines().next().unwrap_or_default().chars().take(200).collect()));
    }
    let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
    let header = |name: &str| {
        headers.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    // A body that is shorter than announced was cut.
    let announced: Option<usize> = header("Content-length").and_then(|length| length.parse().ok());
    if announced.is_some_and(|length| length > body.len()) {
        return Err(broken("cut short"));
    }
    let score = header("Spam").and_then(parse_score).ok_or_else(|| broken("no score"))?;
    Ok(Report { score, symbols: body.trim().to_string() })
}

/// `True ; 1000.0 / 5.0`
fn parse_score(value: &str) -> Option<f64> {
    let (_, numbers) = value.split_once(';')?;
    let (score, _) = numbers.split_once('/')?;
    score.trim().parse().ok().filter(|score: &f64| score.is_finite())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_answer_gives_score_and_symbols() {
        let answer =
            b"SPAMD/1.1 0 EX_OK\r\nContent-length: 13\r\nSpam: True ; 1000.1 / 5.0\r\n\r\nGTUBE,NO_RELA";
        let report = parse(answer).unwrap();
        assert_eq!((report.score, report.symbols.as_str()), (1000.1, "GTUBE,NO_RELA"));
        let negative = parse(b"SPAMD/1.1 0 EX_OK\r\nspam: False ; -2.3 / 5.0\r\n\r\n").unwrap();
        assert_eq!(negative.score, -2.3);
    }

    #[test]
    fn broken_answers_are_errors() {
        for answer in [
            &b""[..],
            b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1000.1 / 5.0\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"SPAMD/1.1 76 Bad header line\r\n\r\n",
            b"SPAMD/1.1 0 EX_OK\r\n\r\n",
            b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; NaN / 5.0\r\n\r\n",
            b"SPAMD/1.1 0 EX_OK\r\nContent-length: 13\r\nSpam: True ; 1 / 5.0\r\n\r\nGTU",
        ] {
            assert!(parse(answer).is_err(), "{}", answer.escape_ascii());
        }
    }
}
