//! What a check has found, and how it is told.

use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Columns in front of the words.
const STATE: usize = 9;
const NAME: usize = 17;

/// How bad it is; the worst comes last, where the reader's eye is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Does not apply here.
    Skipped,
    /// Could not be checked.
    Unknown,
    /// Works, and may cease to, or not as well as it could.
    Warning,
    /// Does not work, or will not in the case that matters.
    Problem,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name: the same in every version, for programs.
    pub check: &'static str,
    pub state: State,
    /// What is so, and what it means.
    pub words: String,
    /// What mends it, for a shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Finding {
    fn new(check: &'static str, state: State, words: impl Into<String>) -> Self {
        Self { check, state, words: words.into(), command: None }
    }

    pub fn ok(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(check, State::Ok, words)
    }

    pub fn skipped(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(check, State::Skipped, words)
    }

    pub fn unknown(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(check, State::Unknown, words)
    }

    pub fn warning(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(check, State::Warning, words)
    }

    pub fn problem(check: &'static str, words: impl Into<String>) -> Self {
        Self::new(check, State::Problem, words)
    }

    pub fn mended_by(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }
}

/// All findings, the worst last.
#[derive(Debug)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    pub fn new(mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.state);
        Self { findings }
    }

    /// For scripts: 0 if all is well (warnings or not), 1 if something is wrong, 2 if something could not be checked.
    pub fn exit_status(&self) -> u8 {
        if self.count(State::Problem) > 0 {
            1
        } else if self.count(State::Unknown) > 0 {
            2
        } else {
            0
        }
    }

    pub fn to_json(&self) -> Value {
        let count = |state| self.count(state);
        json!({
            "exit_status": self.exit_status(),
            "summary": {
                "ok": count(State::Ok), "skipped": count(State::Skipped), "unknown": count(State::Unknown),
                "warning": count(State::Warning), "problem": count(State::Problem),
            },
            "findings": self.findings,
        })
    }

    /// For people, in 80 columns; commands are not broken, so that they can be copied.
    pub fn to_table(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let name = finding.check.replace('_', " ");
            // Writing to a String cannot fail.
            let _ = write!(text, "{:STATE$}{name:NAME$} ", finding.state.word());
            let indent = " ".repeat(STATE + NAME + 1);
            let lines = wrapped(&finding.words, WIDTH - indent.len());
            text += &lines.join(&format!("\n{indent}"));
            if let Some(command) = &finding.command {
                let _ = write!(text, "\n{:STATE$}mend it with: {command}", "");
            }
            text.push('\n');
        }
        text.push('\n');
        text += &self.summary();
        text.push('\n');
        text
    }

    fn summary(&self) -> String {
        let states = [State::Ok, State::Skipped, State::Unknown, State::Warning, State::Problem];
        let counts: Vec<String> = states
            .into_iter()
            .map(|state| (state, self.count(state)))
            .filter(|(_, count)| *count > 0)
            .map(|(state, count)| format!("{count} {}", state.word()))
            .collect();
        format!("{} checks: {}", self.findings.len(), counts.join(", "))
    }

    fn count(&self, state: State) -> usize {
        self.findings.iter().filter(|finding| finding.state == state).count()
    }
}

/// Lines of at most so many columns; a longer word has a line of its own.
fn wrapped(words: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split_whitespace() {
        let room = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(line) if room == 0 => line.push_str(word),
            Some(line) if room + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Finding::problem(
                "forwarding",
                "net.ipv4.conf.all.forwarding is 0: mail will not flow straight when the agent is dead",
            )
            .mended_by("sysctl -w net.ipv4.ip_forward=1"),
            Finding::ok("kernel", "6.18.1"),
            Finding::warning("clock", "not synchronised"),
        ])
    }

    #[test]
    fn the_worst_comes_last_in_eighty_columns() {
        let table = report().to_table();
        assert_eq!(
            table,
            "ok       kernel            6.18.1\n\
             warning  clock             not synchronised\n\
             PROBLEM  forwarding        net.ipv4.conf.all.forwarding is 0: mail will not flow\n\
             \u{20}                          straight when the agent is dead\n\
             \u{20}        mend it with: sysctl -w net.ipv4.ip_forward=1\n\
             \n3 checks: 1 ok, 1 warning, 1 PROBLEM\n"
        );
        assert!(table.lines().all(|line| line.chars().count() <= WIDTH));
    }

    #[test]
    fn the_exit_status_is_that_of_the_worst() {
        let status = |findings: &[Finding]| Report::new(findings.to_vec()).exit_status();
        let [ok, warning, unknown, problem] = [
            Finding::ok("a", ""),
            Finding::warning("a", ""),
            Finding::unknown("a", ""),
            Finding::problem("a", ""),
        ];
        assert_eq!(status(&[ok.clone(), warning.clone(), Finding::skipped("a", "")]), 0);
        assert_eq!(status(&[ok.clone(), unknown.clone()]), 2);
        assert_eq!(status(&[unknown, problem, ok, warning]), 1);
    }

    #[test]
    fn programs_get_every_finding() {
        let json = report().to_json();
        assert_eq!(json["exit_status"], 1);
        assert_eq!(json["summary"]["problem"], 1);
        assert_eq!(json["findings"][2]["command"], "sysctl -w net.ipv4.ip_forward=1");
        assert_eq!(json["findings"][0], json!({"check": "kernel", "state": "ok", "words": "6.18.1"}));
    }
}
