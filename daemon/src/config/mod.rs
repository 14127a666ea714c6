//! Configuration files in TOML. A file is checked as a whole: an operator sees every mistake at
//! once, each with its line, its key, what is wrong and what is accepted.

mod document;
mod problems;
mod structure;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::schema::Schema;
use document::Document;
pub use problems::{Problem, Problems};

/// Larger files are refused before they are parsed.
const MAX_FILE_SIZE: u64 = 4 * 1024 * 1024;

/// A mistake in one value can hide another in the same value; this bounds the search.
const MAX_VALUE_PROBLEMS: usize = 200;

/// What a type alone cannot say about its values: ranges, order, keys that exclude each other.
pub trait Check {
    /// Adds a problem for every value that cannot be used, named by its key path, for example
    /// `filter.nodes[1]`.
    fn check(&self, problems: &mut Problems);
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// Every problem of the file, in the order of its lines.
pub fn load<T: DeserializeOwned + JsonSchema + Check>(path: &Path) -> Result<T, Problems> {
    let name = path.display().to_string();
    match read(path) {
        Ok(text) => parse(&name, &text),
        Err(cause) => {
            let mut problems = Problems::new(&name);
            problems.add("", format!("cannot be read: {cause}"));
            Err(problems)
        }
    }
}

/// As [`load`], of a text already read; `name` stands in front of each problem.
///
/// # Errors
/// Every problem of the text, in the order of its lines.
pub fn parse<T: DeserializeOwned + JsonSchema + Check>(name: &str, text: &str) -> Result<T, Problems> {
    let mut problems = Problems::new(name);
    let schema = Schema::of::<T>();
    let example = crate::reference::example::<T>();
    let mut document = Document::parse(text, &example, &mut problems);
    // Keys are looked up in what was written, even after a wrong value was replaced.
    let written = document.clone();
    structure::check(&schema, &mut document, &mut problems);
    let value = deserialize::<T>(&schema, &mut document, &mut problems);
    if let Some(value) = &value {
        let mut found = Problems::new(name);
        value.check(&mut found);
        problems.extend(found, |key| document.is_as_written(key));
    }
    problems.locate(|key| written.line_of(key));
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(problems),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let size = File::open(path)?.take(MAX_FILE_SIZE + 1).read_to_string(&mut text)?;
    if size as u64 > MAX_FILE_SIZE {
        return Err(std::io::Error::other(format!("larger than {MAX_FILE_SIZE} bytes")));
    }
    Ok(text)
}

/// The values, one wrong one after the other noted and replaced by one that is known to be good,
/// until the rest can be read.
fn deserialize<T: DeserializeOwned>(
    schema: &Schema,
    document: &mut Document<'_>,
    problems: &mut Problems,
) -> Option<T> {
    for _ in 0..MAX_VALUE_PROBLEMS {
        let error = match T::deserialize(document.deserializer()) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let place = error.span().and_then(|span| document.locate(&span));
        let Some(place) = place else {
            if problems.is_empty() {
                problems.add("", error.message().to_string());
            }
            return None;
        };
        let accepted = schema.at(&place).map_or_else(String::new, |node| node.accepted());
        let what = match error.message().split(", expected ").next() {
            // What is expected is said better by the schema than by the name of a Rust type.
            Some(what) if !accepted.is_empty() => format!("{what}; accepted: {accepted}"),
            _ => error.message().to_string(),
        };
        problems.add(&document::path_text(&place), what);
        if !document.replace(schema, &place) {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests;
