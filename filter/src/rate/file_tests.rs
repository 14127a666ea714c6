use std::fs;

use proptest::prelude::*;

use super::{Ask, File, FileError, Memory, Moment};

const START: u64 = 1_700_000_000_000;

fn ask<'a>(key: &'a str, limit: u64, seconds: u64) -> Ask<'a> {
    Ask { namespace: "outbound", key, limit, seconds, weight: 1, message: None }
}

fn sum(memory: &Memory, key: &str, seconds: u64, now: u64) -> u64 {
    memory.ask(ask(key, 0, seconds), Moment(now)).sum
}

fn opened(path: &std::path::Path, now: u64) -> Result<(Memory, File), FileError> {
    let memory = Memory::new(1000);
    let file = File::open(path, &memory, Moment(now))?;
    Ok((memory, file))
}

#[test]
fn every_count_that_was_saved_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("counters");
    let (memory, mut file) = opened(&path, START).unwrap();
    assert_eq!(sum(&memory, "a", 86_400, START), 0);
    for n in 0..50 {
        assert!(memory.ask(ask("a", 100, 60), Moment(START + n * 100)).within);
        file.save(&memory, Moment(START + n * 100)).unwrap();
    }
    assert!(memory.ask(ask("b", 100, 3600), Moment(START)).within);
    file.save(&memory, Moment(START + 5000)).unwrap();
    // What is counted later is lost with the process.
    assert!(memory.ask(ask("a", 100, 60), Moment(START + 6000)).within);
    drop(file);

    let (memory, mut file) = opened(&path, START + 7000).unwrap();
    assert_eq!((memory.usage().keys, sum(&memory, "a", 60, START + 7000)), (2, 50));
    assert_eq!((sum(&memory, "a", 86_400, START + 7000), sum(&memory, "b", 3600, START + 7000)), (50, 1));
    // Nor is what was forgotten.
    memory.forget("b");
    file.save(&memory, Moment(START + 7000)).unwrap();
    drop(file);
    let (memory, mut file) = opened(&path, START + 7000).unwrap();
    assert_eq!((memory.usage().keys, sum(&memory, "a", 60, START + 7000)), (1, 50));
    // What has run out is not kept.
    file.save(&memory, Moment(START + 100_000_000)).unwrap();
    drop(file);
    let (memory, _file) = opened(&path, START + 7000).unwrap();
    assert_eq!(memory.usage().keys, 0);
}

#[test]
fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("counters");
    let (memory, mut file) = opened(&path, START).unwrap();
    assert!(memory.ask(ask("a", 100, 60), Moment(START)).within);
    file.save(&memory, Moment(START)).unwrap();
    let error = opened(&path, START).unwrap_err();
    assert!(error.to_string().contains("locked"), "{error}");
    assert!(error.to_string().contains("counters.file"), "{error}");
}

#[test]
fn what_is_no_such_file_is_an_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("counters");
    fs::write(&path, "a letter to the editor".repeat(1000)).unwrap();
    let error = opened(&path, START).unwrap_err();
    assert!(matches!(error, FileError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("remove it"), "{error}");
    let (memory, mut file) = opened(&directory.path().join("other"), START).unwrap();
    file.save(&memory, Moment(START)).unwrap();
    drop(file);
    let database = rusqlite::Connection::open(directory.path().join("other")).unwrap();
    database.pragma_update(None, "user_version", 7).unwrap();
    drop(database);
    let error = opened(&directory.path().join("other"), START).unwrap_err();
    assert!(matches!(error, FileError::Version { found: 7, .. }), "{error}");
    fs::write(directory.path().join("empty"), "").unwrap();
    let error = opened(&directory.path().join("empty"), START).unwrap_err();
    assert!(matches!(error, FileError::Damaged { .. }), "{error}");
    let error = opened(&directory.path().join("other/counters"), START).unwrap_err();
    assert!(matches!(error, FileError::Unusable { .. }), "{error}");
}

#[test]
fn no_more_keys_come_back_than_there_is_room_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("counters");
    let (memory, mut file) = opened(&path, START).unwrap();
    for n in 0..100 {
        assert!(memory.ask(ask(&n.to_string(), 5, 60), Moment(START)).within);
    }
    file.save(&memory, Moment(START)).unwrap();
    drop(file);
    let memory = Memory::new(10);
    File::open(&path, &memory, Moment(START)).unwrap();
    assert_eq!(memory.usage().keys, 10);
}

/// A file with the counts of twenty keys, and those counts.
fn filled(directory: &std::path::Path) -> (Vec<u8>, Vec<u64>) {
    let path = directory.join("counters");
    let (memory, mut file) = opened(&path, START).unwrap();
    for n in 0..20_u64 {
        let key = format!("10.1.0.{n}");
        for step in 0..=n {
            assert!(memory.ask(ask(&key, 1000, 3600), Moment(START + step * 90_000)).within);
        }
    }
    file.save(&memory, Moment(START)).unwrap();
    drop(file);
    let sums = (0..20).map(|n| sum(&memory, &format!("10.1.0.{n}"), 3600, START + 1_800_000)).collect();
    (fs::read(path).unwrap(), sums)
}

/// Whatever happens to the file's octets, no limit is loosened: what is there is an error, or says as much.
#[test]
fn damage_never_loosens_a_limit() {
    let directory = tempfile::tempdir().unwrap();
    let (whole, sums) = filled(directory.path());
    let path = directory.path().join("damaged");
    let look = |octets: &[u8]| {
        fs::write(&path, octets).unwrap();
        let Ok((memory, _file)) = opened(&path, START + 1_800_000) else { return false };
        for (n, expected) in sums.iter().enumerate() {
            let found = sum(&memory, &format!("10.1.0.{n}"), 3600, START + 1_800_000);
            assert!(found >= *expected, "10.1.0.{n}: {found} instead of {expected}");
        }
        true
    };
    assert!(look(&whole));
    let mut refused = 0;
    for at in (0..whole.len()).step_by(61) {
        for bit in [0x01, 0x80] {
            let mut octets = whole.clone();
            octets[at] ^= bit;
            refused += usize::from(!look(&octets));
        }
    }
    assert!(refused > 10, "{refused} refused");
    for length in (1..whole.len()).step_by(4096) {
        assert!(!look(&whole[..length]), "cut to {length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Whoever saves and begins anew at any time is told the same as whoever does not.
    #[test]
    fn a_restart_changes_no_answer(
        steps in prop::collection::vec((0u64..40_000, 0usize..3, prop_oneof![Just(60u64), Just(600)], 1u64..4, any::<bool>()), 1..60),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counters");
        let model = Memory::new(1000);
        let mut now = START;
        let (mut memory, mut file) = opened(&path, now).unwrap();
        // Both windows are known from the start: one that is asked later begins with what happens to be there still.
        for counters in [&memory, &model] {
            for seconds in [60, 600] {
                counters.ask(ask("a", 0, seconds), Moment(now));
            }
        }
        for (pause, key, seconds, weight, restarts) in steps {
            now += pause;
            if restarts {
                file.save(&memory, Moment(now)).unwrap();
                drop(file);
                (memory, file) = opened(&path, now).unwrap();
            }
            let key = ["a", "b", "c"][key];
            let ask = Ask { weight, ..ask(key, 5, seconds) };
            prop_assert_eq!(memory.ask(ask, Moment(now)), model.ask(ask, Moment(now)));
        }
    }
}
