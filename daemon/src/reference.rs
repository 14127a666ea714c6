//! The example file and the reference of a configuration type, generated from its doc comments,
//! defaults and `#[schemars(example = ...)]`, so that they can't lag behind the code.

use std::fmt::Write;
use std::path::Path;

use schemars::JsonSchema;
use serde_json::Value;

use crate::schema::{Node, Schema};

/// Columns of a comment line in an example file.
const WIDTH: usize = 100;

/// An annotated TOML file with every key: doc comments as comments, defaults as values, required
/// keys with their example. It loads as it is.
pub fn example<T: JsonSchema>() -> String {
    let schema = Schema::of::<T>();
    let mut text = String::new();
    for paragraph in schema.root().description() {
        comment(&mut text, &paragraph);
    }
    example_section(&mut text, schema.root(), "", None);
    text
}

fn example_section(text: &mut String, section: Node<'_>, path: &str, defaults: Option<&Value>) {
    let (sections, values): (Vec<_>, Vec<_>) = section.keys().partition(|(_, node)| node.is_section());
    for (name, node) in values {
        text.push('\n');
        for paragraph in node.description() {
            comment(text, &paragraph);
        }
        if !node.values().is_empty() {
            comment(text, &format!("One of {}.", node.accepted()));
        }
        let default = node.default().or_else(|| defaults?.get(name).filter(|value| !value.is_null()));
        let (value, note, active) = match (default, node.example()) {
            (Some(default), _) => (default.clone(), format!("Default: {}", toml_value(default)), true),
            (None, Some(example)) if section.requires(name) => (example.clone(), "Required.".into(), true),
            (None, Some(example)) => (example.clone(), "Not set by default.".into(), false),
            (None, None) if section.requires(name) => (placeholder(node), "Required.".into(), true),
            (None, None) => (placeholder(node), "Not set by default.".into(), false),
        };
        comment(text, &note);
        let _ = writeln!(text, "{}{name} = {}", if active { "" } else { "#" }, toml_value(&value));
    }
    for (name, node) in sections {
        let below = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        text.push('\n');
        for paragraph in node.description() {
            comment(text, &paragraph);
        }
        let required = section.requires(name);
        comment(text, if required { "Required section." } else { "Optional section." });
        let _ = writeln!(text, "[{below}]");
        example_section(text, node, &below, node.default());
    }
}

/// A reference in Markdown: one table of keys for each section.
pub fn markdown<T: JsonSchema>() -> String {
    let schema = Schema::of::<T>();
    let mut text = String::new();
    for paragraph in schema.root().description() {
        let _ = writeln!(text, "{paragraph}\n");
    }
    markdown_section(&mut text, schema.root(), "", None);
    text
}

fn markdown_section(text: &mut String, section: Node<'_>, path: &str, defaults: Option<&Value>) {
    let (sections, values): (Vec<_>, Vec<_>) = section.keys().partition(|(_, node)| node.is_section());
    if !values.is_empty() {
        text.push_str("| Key | Accepted | Default | Meaning |\n|---|---|---|---|\n");
    }
    for (name, node) in values {
        let default = node.default().or_else(|| defaults?.get(name).filter(|value| !value.is_null()));
        let default = match default {
            Some(default) => format!("`{}`", toml_value(default)),
            None if section.requires(name) => "required".into(),
            None => "not set".into(),
        };
        let meaning = node.description().join(" ").replace('|', "\\|");
        let accepted = node.accepted().replace('|', "\\|");
        let _ = writeln!(text, "| `{name}` | {accepted} | {default} | {meaning} |");
    }
    for (name, node) in sections {
        let below = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        let note = if section.requires(name) { "" } else { " (optional)" };
        text.truncate(text.trim_end().len());
        let _ = writeln!(text, "\n\n## `[{below}]`{note}\n");
        for paragraph in node.description() {
            let _ = writeln!(text, "{paragraph}\n");
        }
        markdown_section(text, node, &below, node.default());
    }
}

/// For the tests that keep generated files current: compares the file at `path` with `text`, or
/// writes it if the environment has `UPDATE_GENERATED`.
///
/// # Errors
/// What differs and how to bring the file up to date.
pub fn check_generated(path: &Path, text: &str) -> Result<(), String> {
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        return std::fs::write(path, text).map_err(|cause| format!("{}: {cause}", path.display()));
    }
    let written = std::fs::read_to_string(path).map_err(|cause| format!("{}: {cause}", path.display()))?;
    if written == text {
        return Ok(());
    }
    Err(format!("{} is not what the types say; run the tests with UPDATE_GENERATED=1", path.display()))
}

fn comment(text: &mut String, paragraph: &str) {
    let mut line = String::from("#");
    for word in paragraph.split_whitespace() {
        if line.len() > 1 && line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// For a key without example: the first word of an enumeration, else something of its type.
fn placeholder(node: Node<'_>) -> Value {
    let kinds: [(&str, Value); 5] = [
        ("string", "".into()),
        ("integer", 0.into()),
        ("number", 0.into()),
        ("boolean", false.into()),
        ("array", Value::Array(Vec::new())),
    ];
    if let Some(first) = node.values().first() {
        return (*first).into();
    }
    kinds.into_iter().find(|(kind, _)| node.admits(kind)).map_or_else(|| "".into(), |(_, value)| value)
}

fn toml_value(value: &Value) -> String {
    match value {
        Value::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(toml_value).collect();
            format!("[{}]", elements.join(", "))
        }
        Value::Object(members) => {
            let members: Vec<_> =
                members.iter().map(|(name, value)| format!("{name} = {}", toml_value(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        // JSON's strings, numbers and booleans are TOML's.
        other => other.to_string(),
    }
}
