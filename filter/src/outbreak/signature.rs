//! A message in a few numbers, most of which another copy has too.

use serde::{Deserialize, Serialize};

use super::words;
use crate::content::Content;

/// Numbers of a signature. Of two messages about as large a part is equal as of their shingles are shared (Broder's minhash).
pub const KEYS: usize = 24;

/// Words in a row that make a shingle.
const WORDS: usize = 3;

/// A message with fewer different shingles says nothing that others would not say by chance.
const MIN_SHINGLES: usize = 10;

/// Octets of the smallest attachment that is counted.
const MIN_ATTACHMENT: usize = 512;

/// Attachments of a message that are counted.
pub(super) const MAX_ATTACHMENTS: usize = 16;

/// What a message is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// None of a message that is too short.
    pub text: Option<Text>,
    /// Of the content of each attachment.
    pub attachments: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    pub keys: [u32; KEYS],
    pub fingerprint: Fingerprint,
}

/// 64 bits (Charikar's simhash), the same on every node and at any time: similar messages differ in few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Copies of one message differ in 10 bits or fewer, unrelated ones in about 32.
    const NEAR: u32 = 10;

    pub fn is_near(self, other: Self) -> bool {
        (self.0 ^ other.0).count_ones() <= Self::NEAR
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| format!("{text:?} is no fingerprint: 16 hexadecimal digits"))
    }
}

impl Signature {
    /// `seed`: chosen by the node and not known to senders, who could otherwise add words that make up the whole signature.
    pub fn of(content: &Content, seed: u64) -> Self {
        let files = content.parts().iter().filter(|part| {
            let shown = part.is_text() || part.media.starts_with("image/");
            !shown && part.data.len() >= MIN_ATTACHMENT
        });
        let attachments = files.take(MAX_ATTACHMENTS).map(|part| hash(&part.data, seed)).collect();
        Self { text: Text::of(&words::of(content), seed), attachments }
    }
}

impl Text {
    /// `hashes`: of the words.
    pub(super) fn of(hashes: &[u64], seed: u64) -> Option<Self> {
        let mut shingles: Vec<u64> =
            hashes.windows(WORDS).map(|row| row.iter().fold(0, |sum, word| mix(sum ^ word))).collect();
        shingles.sort_unstable();
        shingles.dedup();
        (shingles.len() >= MIN_SHINGLES)
            .then(|| Self { keys: least(&shingles, seed), fingerprint: simhash(&shingles) })
    }
}

/// Of each of [`KEYS`] orders of all shingles the first one that is here.
fn least(shingles: &[u64], seed: u64) -> [u32; KEYS] {
    let mut orders = [0; KEYS];
    let mut order = seed;
    for slot in &mut orders {
        order = mix(order);
        *slot = order;
    }
    orders.map(|order| {
        let least = shingles.iter().map(|shingle| mix(shingle ^ order)).min().unwrap_or_default();
        // The order is part of the key: what is first in one says nothing in another.
        (mix(least ^ order) >> 32) as u32
    })
}

fn simhash(shingles: &[u64]) -> Fingerprint {
    let mut votes = [0_i32; 64];
    for shingle in shingles {
        for (bit, vote) in votes.iter_mut().enumerate() {
            *vote += if shingle >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
    Fingerprint(
        votes.iter().enumerate().fold(0, |sum, (bit, vote)| if *vote > 0 { sum | 1 << bit } else { sum }),
    )
}

/// FNV-1a over words of eight octets, with a good end. Not for secrets.
pub(super) fn hash(octets: &[u8], seed: u64) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325 ^ seed;
    for chunk in octets.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = mix((sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3));
    }
    mix(sum ^ octets.len() as u64)
}

/// The end of splitmix64.
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (number ^ number >> 31).wrapping_add(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Fingerprint, KEYS, Text, hash};

    fn words(range: std::ops::Range<usize>) -> Vec<u64> {
        range.map(|at| hash(format!("word{at}").as_bytes(), 0)).collect()
    }

    fn shared(left: &Text, right: &Text) -> usize {
        left.keys.iter().zip(&right.keys).filter(|(left, right)| left == right).count()
    }

    #[test]
    fn as_much_of_two_signatures_is_equal_as_of_their_texts() {
        let text = |words: Vec<u64>| Text::of(&words, 7).unwrap();
        let whole = text(words(0..300));
        assert_eq!(shared(&whole, &text(words(0..300))), KEYS);
        let half = shared(&whole, &text(words(100..400)));
        assert!((6..=18).contains(&half), "half of the shingles: {half} of {KEYS}");
        assert!(shared(&whole, &text(words(1000..1300))) <= 1);
        assert_ne!(whole.keys, Text::of(&words(0..300), 8).unwrap().keys, "nobody outside knows the seed");
        assert!(Text::of(&words(0..11), 7).is_none());
    }

    #[test]
    fn fingerprints_of_copies_are_near() {
        let print = |words: Vec<u64>| Text::of(&words, 1).unwrap().fingerprint;
        let whole = print(words(0..300));
        let edited = print([words(0..290), words(900..903)].concat());
        assert!(whole.is_near(edited), "{whole} {edited}");
        assert!(!whole.is_near(print(words(1000..1300))));
        assert_eq!(whole.to_string().parse(), Ok(whole));
        assert!("xyz".parse::<Fingerprint>().is_err());
    }

    proptest! {
        #[test]
        fn order_and_repetition_of_texts_do_not_matter(count in 20_usize..80) {
            let once = words(0..count);
            let twice = [once.clone(), once.clone()].concat();
            let left = Text::of(&once, 3).unwrap();
            let right = Text::of(&twice, 3).unwrap();
            prop_assert!(shared(&left, &right) >= KEYS / 2);
        }
    }
}
