//! The whole engine against peers that do anything, in any order, checked after every step.
//!
//! | module | what it is |
//! |---|---|
//! | `choices` | the tape that decides everything |
//! | `customer`, `peer`, `mouth` | the three peers |
//! | `world` | the network, the spool, and the engine's outputs |
//! | `run` | the schedule, and the laws of every step |
//! | `oracle`, `judge`, `laws`, `sent` | the session as it must be |
//! | `shrink`, `transcript` | a failure as people want to read it |
//!
//! `WEIR_SIM_STEPS` is how many steps to take, `WEIR_SIM_SEED` the first seed. All seeds are played, and each
//! law that was broken is reported once.

mod choices;
mod customer;
mod judge;
mod laws;
mod mouth;
mod oracle;
mod peer;
mod run;
mod sent;
mod shrink;
mod transcript;
mod world;

use self::choices::Choices;
use self::run::play;
use self::transcript::Transcript;

/// Plays the session that a tape describes. What is broken comes back as its transcript.
pub fn replay(tape: &[u8]) -> Result<(), String> {
    let run = play(Choices::of_tape(tape), Transcript::default());
    match run.broken {
        None => Ok(()),
        Some(_) => Err(shrink::report(tape)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use super::{Choices, Transcript, play, replay, shrink};

    fn setting(name: &str) -> Option<u64> {
        std::env::var(name).ok()?.parse().ok()
    }

    #[test]
    fn the_laws_hold_in_any_session() {
        let wanted = setting("WEIR_SIM_STEPS").unwrap_or(300_000);
        let first = setting("WEIR_SIM_SEED").unwrap_or(1);
        let (mut steps, mut seeds, begin) = (0, 0, Instant::now());
        let mut broken: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
        while steps < wanted && broken.len() < 12 {
            let seed = first + seeds;
            let run = play(Choices::of_seed(seed), Transcript::default());
            if let Some(law) = &run.broken {
                let known = broken.entry(shrink::kind(law)).or_insert_with(|| (seed, run.tape.clone()));
                // Short ones are quicker to make smaller.
                if run.tape.len() < known.1.len() {
                    *known = (seed, run.tape);
                }
            }
            steps += run.steps;
            seeds += 1;
        }
        let seconds = begin.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (steps as f64 / seconds, seeds as f64 / seconds);
        println!("{steps} steps in {seeds} sessions, {:.0} steps/s, {:.0} sessions/s", rate.0, rate.1);
        let reports = broken.values().map(|(seed, tape)| format!("seed {seed}: {}\n", shrink::report(tape)));
        assert!(broken.is_empty(), "{}", reports.collect::<String>());
    }

    #[test]
    fn a_plain_session_delivers() {
        assert_eq!(replay(&[]), Ok(()));
        let run = play(Choices::of_tape(&[]), Transcript::kept());
        assert!(run.transcript.contains("Accept Delivered"), "{}", run.transcript);
    }
}
