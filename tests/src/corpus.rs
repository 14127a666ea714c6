//! Messages for the comparison of what was sent with what arrived.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

const LARGEST: f64 = 5_000_000.0;
/// RFC 5321 section 4.5.3.1.6: 1000 octets with CRLF.
const LONGEST_LINE: usize = 998;

/// Message `number` of the corpus, lines ended by LF: always the same bytes for the same number.
///
/// Sizes are log-uniform from 1 byte to 5 MB. A third of the messages is 8-bit, a third full of lines
/// with dots where they matter, the rest plain; most have a header.
pub fn message(number: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(number);
    let size = LARGEST.powf(random.random::<f64>());
    // From 1 to 5,000,000: fits, and the fraction is of no interest.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let size = size as usize;
    let mut message = Vec::with_capacity(size + LONGEST_LINE);
    let header = header(number);
    if header.len() < size {
        message.extend_from_slice(&header);
    }
    let style = number % 3;
    while message.len() < size {
        let room = size - message.len() - 1;
        line(&mut message, room, style, &mut random);
        message.push(b'\n');
    }
    message
}

fn header(number: u64) -> Vec<u8> {
    format!(
        "From: sender@customer.test\nTo: m{number}@destination.test\nSubject: corpus {number}\n\
         Date: Sat, 21 Nov 2026 00:00:00 +0000\nMessage-ID: <corpus-{number}@customer.test>\n\
         MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    )
    .into_bytes()
}

/// At most `room` bytes, and at most as long as a line may be.
fn line(message: &mut Vec<u8>, room: usize, style: u64, random: &mut StdRng) {
    let length = match random.random_range(0..10) {
        0 => 0,
        1 => LONGEST_LINE,
        _ => random.random_range(1..=LONGEST_LINE),
    }
    .min(room);
    let start = message.len();
    match style {
        0 => fill(message, length, random, |byte| b' ' + byte % 95),
        // Everything but NUL, CR and LF, which Postfix itself changes.
        1 => {
            fill(message, length, random, |byte| if matches!(byte, 0 | b'\n' | b'\r') { 0xe4 } else { byte });
        }
        _ => {
            let dots = random.random_range(0..=3.min(length));
            message.extend(std::iter::repeat_n(b'.', dots));
            let rest = if random.random_bool(0.5) { 0 } else { length - dots };
            fill(message, rest, random, |byte| if byte % 3 == 0 { b'.' } else { b'a' + byte % 26 });
        }
    }
    // A line that begins with blanks would continue a header field where there is no header.
    if let Some(first @ (b' ' | b'\t')) = message.get_mut(start) {
        *first = b'x';
    }
}

fn fill(message: &mut Vec<u8>, length: usize, random: &mut StdRng, shape: impl Fn(u8) -> u8) {
    let start = message.len();
    message.resize(start + length, 0);
    random.fill_bytes(&mut message[start..]);
    for byte in &mut message[start..] {
        *byte = shape(*byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_lines_and_contents_are_as_described() {
        let messages: Vec<_> = (0..200).map(message).collect();
        assert!(messages.iter().all(|message| message.ends_with(b"\n")));
        assert!(messages.iter().any(|message| message.len() < 10));
        assert!(messages.iter().any(|message| message.len() > 2_000_000));
        let longest =
            messages.iter().flat_map(|message| message.split(|byte| *byte == b'\n')).map(<[u8]>::len).max();
        assert_eq!(longest, Some(LONGEST_LINE));
        assert!(messages.iter().any(|message| message.windows(3).any(|bytes| bytes == b"\n.\n")));
        assert!(messages.iter().any(|message| message.iter().any(|byte| *byte >= 0x80)));
    }

    #[test]
    fn a_number_is_always_the_same_message() {
        assert_eq!(message(7), message(7));
    }
}
