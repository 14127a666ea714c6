use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Map as Metadata;
use weir_smtp::envelope::{Mailbox, Path as Mail};

use super::*;
use crate::config::MapFile;
use crate::customers::{Customer, Owner};
use crate::scan::Scanners;
use crate::scan::tests::message;

struct Bench {
    directory: tempfile::TempDir,
    files: Vec<MapFile>,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), files: Vec::new() }
    }

    fn map(mut self, of: Of, action: Use, text: &str) -> Self {
        let file = self.file(self.files.len());
        fs::write(&file, text).unwrap();
        self.files.push(MapFile { file, of, action });
        self
    }

    fn file(&self, number: usize) -> PathBuf {
        self.directory.path().join(number.to_string())
    }

    fn maps(&self) -> anyhow::Result<Maps> {
        Maps::new(&Config { files: self.files.clone() })
    }

    fn say(&self, customer: &str, sender: &str, recipients: &[&str]) -> Said {
        of(&self.maps().unwrap(), customer, sender, recipients)
    }
}

fn of(maps: &Maps, customer: &str, sender: &str, recipients: &[&str]) -> Said {
    let mailbox = |path: &&str| Mailbox { path: Mail::new(path.as_bytes()), parameters: Vec::new() };
    let mut message = message();
    message.transaction.envelope.sender = mailbox(&sender);
    message.transaction.envelope.recipients = recipients.iter().map(mailbox).collect();
    let customer = Some(Arc::new(Customer { id: customer.into(), metadata: Metadata::new() }));
    let scanners = Scanners::default();
    let owner = Owner { customer, ..Owner::default() };
    maps.of(&Facts::new(&message, &scanners).with_owner(owner))
}

#[test]
fn one_recipient_is_enough_to_be_refused_and_all_are_needed_to_pass() {
    let bench = Bench::new().map(Of::Recipient, Use::Reject, "trap.example Never heard of them\n").map(
        Of::Recipient,
        Use::Bypass,
        "abuse.example\n",
    );
    let said = bench.say("c", "a@x.example", &["b@y.example", "c@trap.example"]);
    assert_eq!(said.refused, Some((Use::Reject, "Never heard of them".into())));
    assert_eq!(bench.say("c", "a@x.example", &["b@abuse.example"]).bypass, Some(Cause::Map));
    assert_eq!(bench.say("c", "a@x.example", &["b@abuse.example", "c@y.example"]), Said::default());
    assert_eq!(bench.say("c", "a@x.example", &[]), Said::default());
}

#[test]
fn who_can_be_anybody_is_told_from_who_is_known() {
    let bench =
        Bench::new().map(Of::Customer, Use::Bypass, "4711\n").map(Of::Sender, Use::Bypass, "x.example\n");
    assert_eq!(bench.say("4711", "a@x.example", &["b@y.example"]).bypass, Some(Cause::Allowed));
    assert_eq!(bench.say("4711", "a@z.example", &["b@y.example"]).bypass, Some(Cause::Allowed));
    assert_eq!(bench.say("4712", "a@x.example", &["b@y.example"]).bypass, Some(Cause::Map));
    assert_eq!(bench.say("4712", "a@z.example", &["b@y.example"]).bypass, None);
}

#[test]
fn scores_are_added() {
    let bench = Bench::new()
        .map(Of::Customer, Use::Score, "4711 -2\n")
        .map(Of::Sender, Use::Score, "x.example -1.5\n")
        .map(Of::Recipient, Use::Score, "y.example 4\nz.example -9\n");
    let said = bench.say("4711", "a@x.example", &["b@y.example", "c@z.example"]);
    assert_eq!((said.score, said.lowered_by_envelope), (0.5, -1.5));
    let said = bench.say("4711", "a@w.example", &["c@z.example", "d@w.example"]);
    assert_eq!((said.score, said.lowered_by_envelope), (-2.0, 0.0));
}

#[test]
fn a_changed_file_is_taken_and_a_broken_one_is_not() {
    let bench = Bench::new().map(Of::Sender, Use::Defer, "x.example Later\n");
    let maps = bench.maps().unwrap();
    let refused = |sender: &str| of(&maps, "c", sender, &["b@y.example"]).refused;
    assert_eq!(refused("a@x.example"), Some((Use::Defer, "Later".into())));
    fs::write(bench.file(0), "y.example\n").unwrap();
    maps.refresh();
    assert_eq!(refused("a@x.example"), None);
    let reason = "Mail of this sender is not taken".to_owned();
    assert_eq!(refused("a@y.example"), Some((Use::Defer, reason.clone())));
    fs::write(bench.file(0), "z.example\nnot a name@\n@@\n").unwrap();
    maps.refresh();
    assert_eq!(refused("a@y.example"), Some((Use::Defer, reason)));
    let status = maps.status();
    let problem = status[0]["problem"].as_str().unwrap();
    assert!(
        problem.ends_with("0: line 3: \"@@\" is none of user@example.org, example.org and .example.org"),
        "{problem}"
    );
    fs::remove_file(bench.file(0)).unwrap();
    maps.refresh();
    assert_eq!(maps.status()[0]["entries"], 1);
    fs::write(bench.file(0), "z.example\n\u{e4}.example x\n").unwrap();
    maps.refresh();
    assert_eq!((&maps.status()[0]["problem"], &maps.status()[0]["entries"]), (&Value::Null, &2.into()));
}

#[test]
fn what_cannot_be_read_stops_the_start() {
    let bench = Bench::new().map(Of::Sender, Use::Score, "x.example\n");
    let problem = format!("{:#}", bench.maps().unwrap_err());
    assert!(problem.ends_with("0: line 1: \"\" is no number from -1000 to 1000"), "{problem}");
    fs::write(bench.file(0), b"x.example 1\n\xff\n").unwrap();
    assert!(format!("{:#}", bench.maps().unwrap_err()).ends_with("line 2: is not UTF-8"));
    fs::remove_file(bench.file(0)).unwrap();
    assert!(format!("{:#}", bench.maps().unwrap_err()).contains("No such file"));
}
