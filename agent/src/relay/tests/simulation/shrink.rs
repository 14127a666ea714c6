//! A broken law with as little as it takes.

use super::choices::Choices;
use super::run::play;
use super::transcript::Transcript;

/// Sessions played at most to make one smaller.
const TRIES: usize = 6000;

/// The smallest tape that still breaks the same law, and what happens in it.
pub fn report(tape: &[u8]) -> String {
    let tape = shrink(tape);
    let run = play(Choices::of_tape(&tape), Transcript::kept());
    let hex: String = tape.iter().map(|octet| format!("{octet:02x}")).collect();
    format!("{}\n{}\ntape: {hex}", run.broken.unwrap_or_default(), run.transcript)
}

fn broken_by(tape: &[u8]) -> Option<String> {
    Some(kind(&play(Choices::of_tape(tape), Transcript::default()).broken?))
}

/// What was broken, without what differs from one session to the next.
pub fn kind(broken: &str) -> String {
    broken.chars().filter(|c| !c.is_ascii_digit()).take(24).collect()
}

fn shrink(tape: &[u8]) -> Vec<u8> {
    let Some(law) = broken_by(tape) else { return tape.to_vec() };
    let mut best = tape.to_vec();
    let mut tries = 0;
    let mut attempt = |candidate: Vec<u8>, best: &mut Vec<u8>| {
        tries += 1;
        let smaller = tries < TRIES && broken_by(&candidate).as_ref() == Some(&law);
        if smaller {
            *best = candidate;
        }
        smaller
    };
    loop {
        let before = best.clone();
        let mut size = best.len().next_power_of_two();
        while size > 0 {
            let mut at = 0;
            while at < best.len() {
                let end = (at + size).min(best.len());
                let without = [&best[..at], &best[end..]].concat();
                if attempt(without, &mut best) {
                    continue;
                }
                let mut zeroed = best.clone();
                zeroed[at..end].fill(0);
                if zeroed != best {
                    attempt(zeroed, &mut best);
                }
                at = end;
            }
            size /= 2;
        }
        if best == before {
            return best;
        }
    }
}
