//! What scanners say of a message, as scripts see it: from the scanners, or as it was recorded.

use super::Answer;
use crate::facts::Facts;
use crate::scan::{Report, Scanned, Scanners};

/// The scanners that a script can name.
pub const SCANNERS: [&str; 6] = ["spamassassin", "rspamd", "clamav", "icap", "outbreak", "filetype"];

/// A file in a message, by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Behind those of the archives that it is in: `a.zip/b.exe`.
    pub name: String,
    /// `executable`, ... (docs/files.md)
    pub class: String,
    /// In how many archives it is.
    pub depth: u64,
}

/// Results in place of those of scanners: for sample messages, `weir-filter try`, and tests. A scanner of which nothing
/// is said has found nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recorded {
    pub score: f64,
    /// Of both.
    pub virus: Option<String>,
    /// 0, 50 or 100.
    pub outbreak: u32,
    pub files: Vec<File>,
    /// Scanners that are as if they could not be reached.
    pub away: Vec<String>,
}

impl Recorded {
    /// What a script is told. `depth`: archives within each other that are opened.
    ///
    /// # Errors
    /// If there is no such scanner.
    pub fn scan(&self, scanner: &str, depth: Option<u64>) -> Result<Answer, String> {
        let away = self.away.iter().any(|one| one == scanner);
        let cause = away.then_some("failed");
        match scanner {
            "spamassassin" | "rspamd" if away => Ok(scored(0.0, "", cause)),
            "spamassassin" | "rspamd" => Ok(scored(self.score, "", cause)),
            "clamav" | "icap" => Ok(infected(self.virus.as_deref().filter(|_| !away), cause)),
            "outbreak" => Ok(level(if away { 0 } else { self.outbreak }, cause)),
            "filetype" => {
                let seen = |file: &&File| !away && depth.is_none_or(|depth| file.depth <= depth);
                Ok(files(self.files.iter().filter(seen), cause))
            }
            _ => Err(unknown(scanner)),
        }
    }
}

/// What the scanners of this node say.
pub(super) async fn scan(facts: &Facts<'_>, scanner: &str) -> Result<Answer, String> {
    if !SCANNERS.contains(&scanner) {
        return Err(unknown(scanner));
    }
    if !facts.has_scanner(scanner) {
        return Err(missing(scanner));
    }
    match scanner {
        "spamassassin" => Ok(report(facts.spamassassin().await)),
        _ => Err(missing(scanner)),
    }
}

/// Why a script that asks this scanner by its name would fail on this node, unless it asks with `has` before.
pub(super) fn cannot_ask(scanners: &Scanners, scanner: &str) -> Option<String> {
    if !SCANNERS.contains(&scanner) {
        return Some(unknown(scanner));
    }
    (!scanners.has(scanner)).then(|| missing(scanner))
}

fn missing(scanner: &str) -> String {
    format!("{scanner} is not on this node: configure it, or ask has({scanner:?}) before")
}

fn unknown(scanner: &str) -> String {
    format!("{scanner:?} is none of {}", SCANNERS.join(", "))
}

fn report(scanned: &Scanned<Report>) -> Answer {
    let symbols = scanned.found().map_or("", |report| report.symbols.as_str());
    let cause = match scanned {
        Scanned::Unscanned(cause) => Some(cause.name()),
        Scanned::Found(_) | Scanned::Partly(_) => scanned.unscanned().map(crate::scan::Cause::name),
    };
    scored(scanned.score(), symbols, cause)
}

/// `scanned` is false where not all of the message was seen; `cause` says why.
fn with_cause(mut fields: Vec<(&'static str, Answer)>, cause: Option<&str>) -> Answer {
    fields.push(("scanned", Answer::Truth(cause.is_none())));
    fields.push(("cause", Answer::maybe(cause, Answer::text)));
    Answer::Table(fields)
}

fn scored(score: f64, symbols: &str, cause: Option<&str>) -> Answer {
    let names = symbols.split(',').map(str::trim).filter(|name| !name.is_empty());
    let symbols = Answer::List(names.map(Answer::text).collect());
    with_cause(vec![("score", Answer::Number(score)), ("symbols", symbols)], cause)
}

fn infected(virus: Option<&str>, cause: Option<&str>) -> Answer {
    let fields =
        vec![("infected", Answer::Truth(virus.is_some())), ("virus", Answer::maybe(virus, Answer::text))];
    with_cause(fields, cause)
}

fn level(level: u32, cause: Option<&str>) -> Answer {
    with_cause(vec![("level", Answer::Number(f64::from(level)))], cause)
}

fn files<'f>(files: impl Iterator<Item = &'f File>, cause: Option<&str>) -> Answer {
    let file = |file: &File| {
        Answer::Table(vec![("name", Answer::text(&file.name)), ("class", Answer::text(&file.class))])
    };
    with_cause(vec![("files", Answer::List(files.map(file).collect()))], cause)
}
