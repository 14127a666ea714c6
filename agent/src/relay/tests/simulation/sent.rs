//! Octets that were sent, as messages and replies.

use super::peer::Sent;

/// The number in `#D17`.
pub fn number(text: &[u8], letter: char) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, tail) = text.split_once(&format!("#{letter}"))?;
    tail.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The body itself.
pub fn content(sent: &Sent) -> Result<Vec<u8>, String> {
    match sent {
        Sent::Stuffed(octets) => unstuffed(octets),
        Sent::Counted(octets) => Ok(octets.clone()),
    }
}

/// Takes the stuffing off. What no line of a message may have is an error.
fn unstuffed(sent: &[u8]) -> Result<Vec<u8>, String> {
    let mut message = Vec::with_capacity(sent.len());
    let mut rest = sent;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").ok_or("a message without a last CRLF")?;
        let line = &rest[..end];
        if line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            return Err(format!("a lax server could see another line end in {}", line.escape_ascii()));
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        message.extend_from_slice(b"\r\n");
        rest = &rest[end + 2..];
    }
    Ok(message)
}

/// The whole replies in a stream, each with all its lines and CRLF ends, as a log would show them.
pub fn replies(unheard: &mut Vec<u8>, octets: &[u8]) -> Vec<Vec<u8>> {
    unheard.extend_from_slice(octets);
    let (mut replies, mut begin, mut at) = (Vec::new(), 0, 0);
    while let Some(end) = unheard[at..].iter().position(|octet| *octet == b'\n') {
        let line = &unheard[at..at + end];
        at += end + 1;
        if line.get(3) != Some(&b'-') {
            let lines = unheard[begin..at].split_inclusive(|octet| *octet == b'\n');
            let reply = lines.flat_map(|line| {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                [line.strip_suffix(b"\r").unwrap_or(line), b"\r\n"].concat()
            });
            replies.push(reply.collect());
            begin = at;
        }
    }
    unheard.drain(..begin);
    replies
}
