//! The messages: each follows from the run's seed and its own number, so nothing of it has to be kept.

use std::io::Write as _;
use std::sync::OnceLock;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// In the head of messages that the nodes are to refuse; the scanner finds it.
pub(crate) const REFUSE: &[u8] = b"\r\nX-Weir-Fault: refuse\r\n";

const SMALLEST: f64 = 1.0;
const LARGEST: f64 = 262_144.0;
/// One message in so many is to be refused.
const REFUSED: u32 = 10;

/// One message, as the customer means it: lines ended by CRLF, no dots doubled.
pub(crate) struct Message {
    pub(crate) to_be_refused: bool,
    pub(crate) content: Vec<u8>,
}

impl Message {
    pub(crate) fn new(seed: u64, number: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let to_be_refused = random.random_range(0..REFUSED) == 0;
        let mut content = head(number, to_be_refused);
        let filler = filler();
        let size = size(&mut random);
        let start = random.random_range(0..filler.len() - size);
        // Not between a CR and its LF.
        let start = start + usize::from(filler[start] == b'\n');
        content.extend_from_slice(&filler[start..(start + size).min(filler.len())]);
        if !content.ends_with(b"\r\n") {
            // A CR alone at the cut would be a message that weir refuses.
            content.extend_from_slice(if content.ends_with(b"\r") { b"\n" } else { b"\r\n" });
        }
        Self { to_be_refused, content }
    }
}

fn head(number: usize, refuse: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    // Writing to memory cannot fail.
    let _ = write!(
        head,
        "From: sender@customer.test\r\nTo: user@destination.test\r\nSubject: number {number}\r\n\
         Message-ID: <{number}@customer.test>"
    );
    head.extend_from_slice(if refuse { REFUSE } else { b"\r\n" });
    head.extend_from_slice(b"\r\n");
    head
}

fn size(random: &mut StdRng) -> usize {
    let size = random.random_range(SMALLEST.ln()..LARGEST.ln()).exp();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the two constants")]
    let size = size as usize;
    size
}

/// Lines of all lengths up to 76; some begin with a dot.
fn filler() -> &'static [u8] {
    static FILLER: OnceLock<Vec<u8>> = OnceLock::new();
    FILLER.get_or_init(|| {
        let mut random = StdRng::seed_from_u64(1);
        let mut filler = Vec::new();
        while filler.len() < 1 << 20 {
            if random.random_range(0..8) == 0 {
                filler.push(b'.');
            }
            let length = random.random_range(0..76);
            filler.extend((0..length).map(|_| random.random_range(b' '..=b'~')));
            filler.extend_from_slice(b"\r\n");
        }
        filler
    })
}

/// As RFC 5321 section 4.5.2 wants it after DATA, the final dot included.
pub(crate) fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + content.len() / 32 + 8);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// FNV-1a over a message that comes in parts: enough to see any alteration that is no attack.
#[derive(Clone, Copy)]
pub(crate) struct Digest(u64);

impl Digest {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, octets: &[u8]) {
        for octet in octets {
            self.0 = (self.0 ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(crate) fn of(octets: &[u8]) -> u64 {
        let mut digest = Self::new();
        digest.add(octets);
        digest.get()
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

/// The name of one try to send one message, the local part of its reverse-path: the destination tells by it which
/// try brought what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Try {
    pub(crate) message: usize,
    pub(crate) number: u32,
}

impl Try {
    pub(crate) fn address(self) -> String {
        format!("m{}.{}@customer.test", self.message, self.number)
    }

    /// From `MAIL FROM:<m12.3@customer.test> ...`.
    pub(crate) fn of_mail(line: &str) -> Option<Self> {
        let local = line.split_once("<m")?.1.split_once('@')?.0;
        let (message, number) = local.split_once('.')?;
        Some(Self { message: message.parse().ok()?, number: number.parse().ok()? })
    }
}
