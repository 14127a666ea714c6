//! What is shown while it runs, and at the end.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Value, json};

use crate::load::Load;
use crate::run::Outcome;

/// To standard error, so that standard output has the result only.
pub(crate) struct Progress {
    pub(crate) verbose: bool,
    terminal: bool,
}

impl Progress {
    pub(crate) fn new(verbose: bool) -> Self {
        Self { verbose, terminal: std::io::stderr().is_terminal() }
    }

    pub(crate) fn say(&self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    /// The log of faults.
    pub(crate) fn log(&self, text: &str) {
        if self.verbose {
            self.say(text);
        }
    }

    pub(crate) fn numbers(&self, load: &Load) {
        let (done, tried) = (load.done.load(Relaxed), load.tried_again.load(Relaxed));
        let seconds = load.start.elapsed().as_secs();
        let text = format!(
            "{seconds} s: {done} of {} messages, {} refused, {tried} tries repeated",
            load.messages,
            load.refused.load(Relaxed)
        );
        if self.terminal {
            eprint!("\r\x1b[K{text}");
            // A terminal that is gone shows nothing.
            let _ = std::io::stderr().flush();
        } else if self.verbose {
            eprintln!("{text}");
        }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

impl Outcome {
    pub(crate) fn is_good(&self) -> bool {
        self.account.broken() == 0 && self.left.is_empty()
    }

    /// What must be nought, in words and numbers.
    fn laws(&self) -> [(&'static str, usize); 7] {
        let account = &self.account;
        [
            ("acknowledged and not delivered", account.lost),
            ("refused by the filter and delivered", account.refused_but_delivered),
            ("delivered with other bytes", account.altered),
            ("refused for no reason", account.wrongly_refused),
            ("delivered twice for no reason", account.unexplained_duplicates),
            ("neither taken nor refused in time", account.unfinished),
            ("left over in the daemons", self.left.len()),
        ]
    }

    fn traffic(&self) -> [(&'static str, u64); 7] {
        let account = &self.account;
        [
            ("messages", account.messages as u64),
            ("octets", account.octets),
            ("acknowledged", account.acknowledged as u64),
            ("refused", account.refused as u64),
            ("tries that were deferred (4xx)", account.deferred),
            ("tries whose connection was lost or not made", account.connections_lost),
            ("tries that only the destination knew the end of", account.left_open as u64),
        ]
    }

    pub(crate) fn text(&self) -> String {
        // Writing to a String cannot fail.
        let mut text = String::new();
        let row = |text: &mut String, what: &str, number: u64| {
            let _ = writeln!(text, "  {what:<64} {number:>12}");
        };
        let total: usize = self.faults.values().sum();
        let _ = writeln!(text, "faults, {total} in {:.0} s", self.took.as_secs_f64());
        for (fault, count) in &self.faults {
            row(&mut text, &fault.to_string(), *count as u64);
        }
        text += "mail\n";
        for (what, number) in self.traffic() {
            row(&mut text, what, number);
        }
        text += "duplicates that SMTP cannot avoid, and what lost the answer\n";
        for (reason, count) in &self.account.duplicates {
            row(&mut text, reason, *count as u64);
        }
        text += "descriptors and MiB of memory, before and after\n";
        for (before, after) in self.before.iter().zip(&self.after) {
            let mebibytes = |octets| octets / 1024 / 1024;
            let _ = writeln!(
                text,
                "  {:<64} {:>3} {:>3}  {:>3} {:>3}",
                before.name,
                before.descriptors,
                after.descriptors,
                mebibytes(before.memory),
                mebibytes(after.memory)
            );
        }
        text += "must be 0\n";
        for (what, number) in self.laws() {
            row(&mut text, what, number as u64);
        }
        for line in self.account.examples.iter().chain(&self.left) {
            let _ = writeln!(text, "BROKEN: {line}");
        }
        let verdict = if self.is_good() { "every law held" } else { "BROKEN" };
        let _ = writeln!(
            text,
            "{verdict} (seed {}, back end {}, {} senders)",
            self.wanted.seed,
            self.wanted.backend.name(),
            self.wanted.senders
        );
        text
    }

    pub(crate) fn json(&self) -> Value {
        let faults: serde_json::Map<_, _> =
            self.faults.iter().map(|(fault, count)| (fault.to_string(), json!(count))).collect();
        let named = |pairs: &[(&str, u64)]| -> serde_json::Map<_, _> {
            pairs.iter().map(|(name, number)| ((*name).to_owned(), json!(number))).collect()
        };
        json!({
            "good": self.is_good(),
            "seed": self.wanted.seed,
            "backend": self.wanted.backend.name(),
            "senders": self.wanted.senders,
            "seconds": self.took.as_secs(),
            "faults": faults,
            "mail": named(&self.traffic()),
            "duplicates": self.account.duplicates,
            "must_be_0": named(&self.laws().map(|(what, number)| (what, number as u64))),
            "broken": self.account.examples.iter().chain(&self.left).collect::<Vec<_>>(),
        })
    }
}
