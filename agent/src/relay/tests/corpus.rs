//! What the fuzzer found worth keeping, replayed with the stable compiler: every file of the corpus through
//! the function that its target calls.

use std::fs;
use std::path::Path;

use super::simulation;

#[path = "../../../../fuzz/src/parsers.rs"]
mod parsers;

/// Plays each file of one target's corpus, and says how many there were.
fn replay(target: &str, play: impl Fn(&[u8])) -> usize {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files {
        // The last one printed is the one that failed.
        println!("{}", file.display());
        play(&fs::read(file).unwrap());
    }
    files.len()
}

#[test]
fn every_parser_keeps_its_promises_on_the_corpus() {
    for (target, parse) in parsers::TARGETS {
        assert!(replay(target, parse) > 0, "{target} has no corpus");
    }
}

#[test]
fn the_engine_keeps_the_laws_on_the_corpus() {
    let played = replay("engine", |tape| {
        if let Err(report) = simulation::replay(tape) {
            panic!("{report}");
        }
    });
    assert!(played > 0);
}
