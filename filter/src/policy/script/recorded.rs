//! What scanners say of a message, as scripts see it: from the scanners, or as it was recorded.

use super::Answer;
use super::live::outbreaks;
use crate::facts::Facts;
use crate::files::{Files, Found};
use crate::outbreak;
use crate::rate::Moment;
use crate::scan::{Cause, Finding, Report, Scanned, Scanners};

/// The scanners that a script can name.
pub const SCANNERS: [&str; 6] = ["spamassassin", "rspamd", "clamav", "icap", "outbreak", "filetype"];

/// Why a candidate is told nothing of outbreaks.
const NOT_ASKED: &str = "not-asked";

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
    /// What lists and names in the DNS say where nobody is asked: everything is there, or nothing. None: nobody knows.
    pub listed: Option<bool>,
}

impl Recorded {
    pub(super) fn is_away(&self, scanner: &str) -> bool {
        self.away.iter().any(|one| one == scanner)
    }

    /// What a script is told. `depth`: archives within each other that are opened.
    ///
    /// # Errors
    /// If there is no such scanner.
    pub fn scan(&self, scanner: &str, depth: Option<u64>) -> Result<Answer, String> {
        let away = self.is_away(scanner);
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

/// What the scanners of this node say. `depth`: archives within each other that are opened.
pub(super) async fn scan(
    facts: &Facts<'_>,
    scanner: &str,
    depth: Option<u64>,
    now: Moment,
) -> Result<Answer, String> {
    if !SCANNERS.contains(&scanner) {
        return Err(unknown(scanner));
    }
    let results = facts.results();
    if !is_there(results.scanners(), outbreaks(facts), scanner) {
        return Err(missing(scanner));
    }
    match scanner {
        "spamassassin" => Ok(report(results.spamassassin().await)),
        "rspamd" => Ok(report(results.rspamd().await)),
        "clamav" => Ok(finding(&[results.clamav().await])),
        "icap" => {
            let mut engines = Vec::new();
            for engine in results.scanners().engines() {
                engines.extend(results.icap(engine).await);
            }
            Ok(finding(&engines))
        }
        "outbreak" => Ok(outbreak(facts.outbreak(now).await, unseen(facts))),
        "filetype" => Ok(match depth.map(|depth| usize::try_from(depth).unwrap_or(usize::MAX)) {
            None => seen(facts, facts.files().await),
            Some(depth) => seen(facts, facts.files_to(depth).await),
        }),
        _ => Err(missing(scanner)),
    }
}

/// What was found out about others who send it, if somebody has asked. Nobody is asked, for that counts the message.
///
/// # Errors
/// If this node tells no outbreaks.
pub(super) fn known_outbreak(facts: &Facts<'_>) -> Result<Answer, String> {
    if !outbreaks(facts) {
        return Err(missing("outbreak"));
    }
    let cause = if facts.is_closed() { unseen(facts) } else { NOT_ASKED };
    Ok(outbreak(facts.outbreak_if_known(), cause))
}

/// `cause`: why nothing was found out, if nothing was.
fn outbreak(finding: Option<&outbreak::Finding>, cause: &str) -> Answer {
    match finding {
        Some(finding) => level(finding.level.max(finding.attachment).number(), None),
        None => level(0, Some(cause)),
    }
}

pub(super) fn unseen(facts: &Facts<'_>) -> &'static str {
    if facts.is_closed() { Cause::Privacy.name() } else { Cause::Failed.name() }
}

fn seen(facts: &Facts<'_>, found: Option<&Files>) -> Answer {
    let Some(found) = found else { return files(std::iter::empty(), Some(unseen(facts))) };
    let file =
        |found: &Found| File { name: found.path.clone(), class: found.class.name().to_owned(), depth: 0 };
    let all: Vec<File> = found.found().iter().map(file).collect();
    files(all.iter(), found.unscannable().map(|found| found.class.name()))
}

/// Whether scripts can ask this scanner on this node.
pub(super) fn is_there(scanners: &Scanners, outbreaks: bool, scanner: &str) -> bool {
    match scanner {
        "outbreak" => outbreaks,
        "filetype" => true,
        "icap" => scanners.engines().len() > 0,
        "spamassassin" | "rspamd" | "clamav" => scanners.has(scanner),
        _ => false,
    }
}

/// Why a script that asks this scanner by its name would fail on this node, unless it asks with `has` before.
pub(super) fn cannot_ask(scanners: &Scanners, outbreaks: bool, scanner: &str) -> Option<String> {
    if !SCANNERS.contains(&scanner) {
        return Some(unknown(scanner));
    }
    (!is_there(scanners, outbreaks, scanner)).then(|| missing(scanner))
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
        Scanned::Found(_) | Scanned::Partly(_) => scanned.unscanned().map(Cause::name),
    };
    scored(scanned.score(), symbols, cause)
}

/// The first infection of several engines; not scanned if one has not seen all of the message.
fn finding(engines: &[&Scanned<Finding>]) -> Answer {
    let virus = engines.iter().filter_map(|one| one.found()).find_map(Finding::infection);
    let cause = engines.iter().find_map(|one| one.unscanned()).map(Cause::name);
    infected(virus, cause)
}

/// `scanned` is false where not all of the message was seen; `cause` says why.
pub(super) fn with_cause(mut fields: Vec<(&'static str, Answer)>, cause: Option<&str>) -> Answer {
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

#[cfg(test)]
mod tests {
    use super::{SCANNERS, cannot_ask, finding, report};
    use crate::config::Config;
    use crate::scan::{Cause, Finding, Report, Scanned, Scanners};

    #[test]
    fn what_a_node_has_can_be_asked_and_nothing_else() {
        let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n\
                    [spamassassin]\naddress = \"127.0.0.1:783\"\n[clamav]\naddress = \"127.0.0.1:3310\"\n";
        let config: Config = weir_daemon::config::parse("filter.toml", text).unwrap();
        let scanners = Scanners::new(&config);
        let there: Vec<&str> =
            SCANNERS.into_iter().filter(|name| cannot_ask(&scanners, false, name).is_none()).collect();
        assert_eq!(there, ["spamassassin", "clamav", "filetype"]);
        assert!(cannot_ask(&scanners, true, "outbreak").is_none());
        assert!(cannot_ask(&scanners, false, "icap").unwrap().starts_with("icap is not on this node"));
        assert!(cannot_ask(&scanners, false, "spamd").unwrap().contains("is none of spamassassin, "));
    }

    #[test]
    fn results_are_tables() {
        let scored = Scanned::Partly(Report { score: 4.5, symbols: "A, B".into() });
        let told = report(&scored).to_json().to_string();
        assert_eq!(told, r#"{"score":4.5,"symbols":["A","B"],"scanned":false,"cause":"too-big"}"#);
        let infected = Scanned::Found(Finding::Infected("Eicar".into()));
        let away = Scanned::Unscanned(Cause::Failed);
        let told = finding(&[&away, &infected]).to_json().to_string();
        assert_eq!(told, r#"{"infected":true,"virus":"Eicar","scanned":false,"cause":"failed"}"#);
        let told = finding(&[&Scanned::Found(Finding::Clean)]).to_json().to_string();
        assert_eq!(told, r#"{"infected":false,"virus":null,"scanned":true,"cause":null}"#);
    }
}
