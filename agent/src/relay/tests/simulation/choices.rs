//! The one source of chance in a simulation: a tape of octets. It is written by a seed, by the fuzzer, or
//! by the shrinker, and the same tape always gives the same session. Zero is the plain choice everywhere, so
//! a tape of zeros is a customer who sends one message to peers that work.

#[derive(Debug, Clone)]
pub struct Choices {
    tape: Vec<u8>,
    at: usize,
    /// The state of the generator that goes on where the tape ends. Without one, zeros follow.
    random: Option<u64>,
}

impl Choices {
    pub fn of_seed(seed: u64) -> Self {
        Self { tape: Vec::new(), at: 0, random: Some(seed) }
    }

    pub fn of_tape(tape: &[u8]) -> Self {
        Self { tape: tape.to_vec(), at: 0, random: None }
    }

    /// The octets that were used.
    pub fn used(&self) -> &[u8] {
        &self.tape[..self.at.min(self.tape.len())]
    }

    fn octet(&mut self) -> usize {
        if self.at >= self.tape.len()
            && let Some(state) = &mut self.random
        {
            self.tape.extend_from_slice(&next(state).to_le_bytes());
        }
        let octet = self.tape.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(octet)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        match limit {
            0 | 1 => 0,
            2..=256 => self.octet() % limit,
            _ => (self.octet() << 8 | self.octet()) % limit,
        }
    }

    /// True `in_256` times of 256.
    pub fn odds(&mut self, in_256: usize) -> bool {
        in_256 > 0 && self.octet() >= 256 - in_256.min(256)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
