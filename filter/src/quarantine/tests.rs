use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use age::x25519::Identity;

use super::{Config, Label, Quarantine, Wish, armored, decrypt, find, list, remove, store};
use crate::body::Body;
use crate::facts::Facts;
use crate::message::Message;
use crate::rate::{Memory, Moment, Once};
use crate::scan::Scanners;
use crate::scan::tests::transaction;

const NOW: Moment = Moment(1_600_000_000_000);

fn config(directory: &Path, key: &Identity) -> Config {
    Config {
        enabled: true,
        directory: directory.join("below/quarantine"),
        public_key: Some(key.to_public().to_string()),
        max_sample_size: 1000,
        ..Config::default()
    }
}

fn message(id: &str, text: &str) -> Message {
    let mut transaction = transaction();
    id.clone_into(&mut transaction.id);
    Message { transaction, body: Body::Memory(text.to_owned().into()) }
}

async fn take(quarantine: &Quarantine, counters: &Once<Memory>, message: &Message, closed: bool) -> bool {
    let scanners = Scanners::default();
    let facts = Facts::new(message, &scanners);
    let facts = if closed { facts.closed() } else { facts };
    let wish = Wish { rule: "script", before: "", now: NOW, only_asks: false };
    quarantine.take(&facts, counters, wish).await
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_sample_is_read_with_the_key_and_not_without() {
    let (directory, key) = (tempfile::tempdir().unwrap(), Identity::generate());
    let config = config(directory.path(), &key);
    let quarantine = Quarantine::open(&config).unwrap().unwrap();
    let counters = Once::new(Memory::new(100), 100);
    assert!(
        take(&quarantine, &counters, &message("one/../1", "Subject: secret\r\n\r\nbody\r\n"), false).await
    );
    assert!(Quarantine::open(&config).unwrap_err().to_string().contains("another weir-filter"));
    drop(quarantine);
    let kept = find(&config.directory, "one/../1").unwrap();
    assert_eq!((kept.label.customer.as_str(), kept.label.rule.as_str()), ("10.1.0.2", "script"));
    assert_eq!((mode(&config.directory), mode(&kept.path)), (0o700, 0o600));
    assert_eq!(list(&config.directory).unwrap(), (vec![kept.clone()], vec![]));
    let octets = fs::read(&kept.path).unwrap();
    assert!(memchr::memmem::find(&octets, b"secret").is_none());
    assert_eq!(decrypt(&kept, &key).unwrap(), b"Subject: secret\r\n\r\nbody\r\n");
    let other = decrypt(&kept, &Identity::generate()).unwrap_err().to_string();
    assert!(other.contains("the key is not the one of quarantine.public_key"), "{other}");
    assert!(armored(&kept).unwrap().starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"));
    // Damaged, it is no other message.
    let head = octets.iter().position(|octet| *octet == b'\n').unwrap() + 1;
    for at in (head..octets.len()).step_by(7) {
        let mut damaged = octets.clone();
        damaged[at] ^= 1;
        fs::write(&kept.path, &damaged).unwrap();
        assert!(decrypt(&kept, &key).is_err(), "{at}");
    }
    fs::write(&kept.path, "{").unwrap();
    assert_eq!(list(&config.directory).unwrap().1.len(), 1);
    remove(&kept).unwrap();
    let missing = find(&config.directory, "one/../1").unwrap_err().to_string();
    assert!(missing.starts_with("there is no sample one/../1 in "), "{missing}");
}

#[tokio::test]
async fn what_is_not_stored_is_counted_by_its_reason() {
    let (directory, key) = (tempfile::tempdir().unwrap(), Identity::generate());
    let config = Config { max_per_hour: 3, ..config(directory.path(), &key) };
    let quarantine = Quarantine::open(&config).unwrap().unwrap();
    let counters = Once::new(Memory::new(100), 100);
    assert!(!take(&quarantine, &counters, &message("closed", "x"), true).await);
    assert!(!take(&quarantine, &counters, &message("large", &"x".repeat(1001)), false).await);
    for (id, taken) in [("1", true), ("1", true), ("2", true), ("3", false)] {
        assert_eq!(take(&quarantine, &counters, &message(id, "x"), false).await, taken, "{id}");
    }
    for (id, taken) in [("4", true), ("5", false)] {
        let mut other = message(id, "x");
        other.transaction.customer.address = "10.1.0.9".parse().unwrap();
        assert_eq!(take(&quarantine, &counters, &other, false).await, taken, "{id}");
    }
    while quarantine.status()["waiting"] != 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let status = quarantine.status();
    let without = &status["not_stored"];
    for (why, count) in
        [("privacy", 1), ("too_large", 1), ("customer_limit", 1), ("limit", 1), ("line_full", 0)]
    {
        assert_eq!(without[why], count, "{why}: {status}");
    }
    assert_eq!((&status["stored"], &status["repeated"]), (&3.into(), &1.into()), "{status}");
    // Off, it takes none.
    let off = Quarantine::asked_only(&Config::default());
    assert!(!take(&off, &counters, &message("6", "x"), false).await);
}

#[test]
fn samples_go_when_their_time_or_room_is_over() {
    let (directory, key) = (tempfile::tempdir().unwrap(), Identity::generate());
    let directory = directory.path();
    let write = |id: &str, days: u64| {
        let label = Label { id: id.into(), time: days, customer: "c".into(), rule: "r".into() };
        assert!(store::write(directory, &key.to_public(), &label, b"x").unwrap());
        let then = SystemTime::now() - Duration::from_secs(days * 86_400);
        let path = store::path_of(directory, id);
        fs::File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
        fs::metadata(path).unwrap().len()
    };
    write("old", 8);
    write("six", 6);
    // The encryption adds a recipient of random length: no two samples need be of one size.
    let room = write("five", 5) + write("new", 0);
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(store::sweep(directory, week, u64::MAX).unwrap().samples, 3);
    assert!(find(directory, "old").is_err() && find(directory, "six").is_ok());
    let usage = store::sweep(directory, week, room).unwrap();
    assert_eq!(usage.samples, 2);
    assert!(find(directory, "six").is_err() && find(directory, "five").is_ok());
    fs::write(directory.join("half.new"), "x").unwrap();
    // Switched off, what is there goes in its time all the same.
    let off = Config { directory: directory.to_owned(), keep_days: 1, ..Config::default() };
    drop(Quarantine::open(&off).unwrap().unwrap());
    let left: Vec<_> = list(directory).unwrap().0.into_iter().map(|kept| kept.label.id).collect();
    assert_eq!((left, directory.join("half.new").exists()), (vec!["new".to_owned()], false));
    assert!(Quarantine::open(&Config { directory: directory.join("none"), ..off }).unwrap().is_none());
}

/// At each length around the 64 KiB that are encrypted at a time.
#[test]
fn a_message_comes_back_whatever_its_length() {
    let (directory, key) = (tempfile::tempdir().unwrap(), Identity::generate());
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
        let message: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
        let id = length.to_string();
        let label = Label { id: id.clone(), time: 0, customer: "c".into(), rule: "r".into() };
        assert!(store::write(directory.path(), &key.to_public(), &label, &message).unwrap());
        assert!(!store::write(directory.path(), &key.to_public(), &label, b"other").unwrap());
        assert_eq!(decrypt(&find(directory.path(), &id).unwrap(), &key).unwrap(), message);
    }
}
