//! What the demo prints: steps with what was expected and what was seen.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

const WIDTH: usize = 96;

/// What a step found: whether it is what was expected, and in words.
pub(crate) struct Seen {
    pub(crate) as_expected: bool,
    pub(crate) words: String,
}

pub(crate) struct Report {
    colour: bool,
    steps: usize,
    failed: usize,
    start: Instant,
}

impl Report {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { colour, steps: 0, failed: 0, start: Instant::now() }
    }

    pub(crate) fn text(&self, text: &str) {
        println!("{text}");
    }

    pub(crate) fn heading(&self, text: &str) {
        println!("{}", self.paint("1", text));
    }

    /// Something that takes a while and shows nothing by itself.
    pub(crate) fn preparation<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let result = self.waiting(what, work);
        let seconds = start.elapsed().as_secs_f64();
        match &result {
            Ok(_) => println!("  {what} {}", self.paint("2", &format!("({seconds:.1} s)"))),
            Err(_) => println!("  {what}: {}", self.paint("31", "FAILED")),
        }
        result
    }

    /// One step. An error in it is a step that failed; the next ones are tried all the same.
    pub(crate) fn step(&mut self, title: &str, expected: &str, work: impl FnOnce() -> Result<Seen>) {
        self.steps += 1;
        println!("\n{}", self.paint("1", &format!("{}. {title}", self.steps)));
        self.item("expected", expected);
        let seen = self
            .waiting("looking", work)
            .unwrap_or_else(|error| Seen { as_expected: false, words: format!("error: {error:#}") });
        self.item("seen", &seen.words);
        if seen.as_expected {
            println!("   {}", self.paint("1;32", "ok"));
        } else {
            self.failed += 1;
            println!("   {}", self.paint("1;31", "FAILED"));
        }
    }

    /// The last line; whether all steps went as expected.
    pub(crate) fn conclude(&self) -> bool {
        let seconds = self.start.elapsed().as_secs_f64();
        let good = self.steps - self.failed;
        let line = format!("{good} of {} steps as expected, in {seconds:.0} s", self.steps);
        println!("\n{}", self.paint(if self.failed == 0 { "1;32" } else { "1;31" }, &line));
        self.failed == 0
    }

    fn item(&self, name: &str, text: &str) {
        for (number, line) in wrapped(text, WIDTH).iter().enumerate() {
            let name = if number == 0 { name } else { "" };
            println!("   {} {line}", self.paint("2", &format!("{name:8}")));
        }
    }

    /// On a terminal a line that counts the seconds while `work` goes on.
    fn waiting<T>(&self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if !std::io::stdout().is_terminal() {
            return work();
        }
        let done = Arc::new(AtomicBool::new(false));
        let counter = thread::spawn({
            let (done, what, start) = (Arc::clone(&done), what.to_owned(), Instant::now());
            move || {
                while !done.load(Ordering::Relaxed) {
                    print!("\r  {what} ... {:.1} s", start.elapsed().as_secs_f64());
                    // A terminal that is gone shows nothing; the demo goes on.
                    let _ = std::io::stdout().flush();
                    thread::park_timeout(Duration::from_millis(100));
                }
                print!("\r\x1b[K");
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        counter.thread().unpark();
        let _ = counter.join();
        result
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![];
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    lines
}
