//! Everything that is wrong with a configuration file.

use std::fmt;

/// All problems of one file. An error for `anyhow` and friends; prints one problem a line, as
/// `agent.toml:12: filter.nodes[1]: ...`.
#[derive(Debug)]
pub struct Problems {
    file: String,
    entries: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; none if the problem is with the file as a whole.
    pub line: Option<usize>,
    /// The key's path, for example `filter.nodes[1]`; empty for the whole file.
    pub key: String,
    /// What is wrong, and what is accepted.
    pub what: String,
}

impl Problems {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.to_string(), entries: Vec::new() }
    }

    /// Adds a problem with the value at `key`; the line is found later.
    pub fn add(&mut self, key: &str, what: impl Into<String>) {
        self.entries.push(Problem { line: None, key: key.to_string(), what: what.into() });
    }

    pub(super) fn add_at(&mut self, line: usize, key: &str, what: impl Into<String>) {
        self.entries.push(Problem { line: Some(line), key: key.to_string(), what: what.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.entries.iter()
    }

    pub(super) fn extend(&mut self, other: Problems, keep: impl Fn(&str) -> bool) {
        self.entries.extend(other.entries.into_iter().filter(|problem| keep(&problem.key)));
    }

    /// Gives each problem its line and sorts them by it.
    pub(super) fn locate(&mut self, line_of: impl Fn(&str) -> Option<usize>) {
        for problem in &mut self.entries {
            if problem.line.is_none() && !problem.key.is_empty() {
                problem.line = line_of(&problem.key);
            }
        }
        self.entries.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.entries.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", self.file)?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            if !problem.key.is_empty() {
                write!(f, ": {}", problem.key)?;
            }
            write!(f, ": {}", problem.what)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
