//! Random words and names, the same in every run.

pub struct Dice(u64);

const SYLLABLES: [&str; 40] = [
    "ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "qui", "ro", "su", "ta", "ve",
    "wi", "xo", "zu", "al", "en", "ir", "os", "un", "bra", "cle", "dri", "flo", "gru", "sta", "pre", "tri",
    "sco", "plu", "tion", "ment", "ing", "est", "ly",
];

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(1))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, count: usize) -> usize {
        ((self.next() >> 33) as usize) % count.max(1)
    }

    pub fn number(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    pub fn word(&mut self) -> String {
        (0..2 + self.below(3)).map(|_| SYLLABLES[self.below(SYLLABLES.len())]).collect()
    }

    /// A word of a small vocabulary, the first ones much more often: so unrelated texts share words, and now and then a few
    /// in a row.
    pub fn frequent_word(&mut self) -> String {
        let rank = self.below(2000).min(self.below(2000)).min(self.below(2000));
        let mut dice = Self::new(rank as u64 + 77);
        dice.next();
        dice.word()
    }

    pub fn name(&mut self) -> String {
        let word = self.word();
        word[..1].to_uppercase() + &word[1..]
    }

    /// A few have most of the mailboxes.
    pub fn mail_provider(&mut self) -> String {
        match self.below(10) {
            0..5 => ["bigmail", "freemail", "hotpost"][self.below(3)].into(),
            _ => self.word(),
        }
    }
}
