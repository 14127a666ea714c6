//! Keys that are unknown, missing or of the wrong type, found by comparing the file with the
//! schema: deserialisation would stop at the first of them.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, path_text};
use super::problems::Problems;
use crate::schema::{Node, Schema, Step};

/// Names less alike than this are not offered as what was meant.
const ALIKE: f64 = 0.75;

pub(super) fn check(schema: &Schema, document: &mut Document<'_>, problems: &mut Problems) {
    let mut findings = Findings::default();
    let broken = document.is_broken();
    look_at_table(schema, schema.root(), document.root_mut(), &mut Vec::new(), &mut findings);
    for (place, what) in findings.unknown {
        problems.add(&path_text(&place), what);
    }
    for (place, what) in findings.mistyped {
        problems.add(&path_text(&place), what);
        document.replace(schema, &place);
    }
    for (place, what) in findings.missing {
        // The line that has the key may be the one that is not TOML.
        if !broken {
            problems.add(&path_text(&place), what);
        }
        document.replace(schema, &place);
    }
}

#[derive(Default)]
struct Findings {
    /// Already removed.
    unknown: Vec<(Vec<Step>, String)>,
    mistyped: Vec<(Vec<Step>, String)>,
    missing: Vec<(Vec<Step>, String)>,
}

fn look_at_table(
    schema: &Schema,
    node: Node<'_>,
    table: &mut DeTable<'_>,
    path: &mut Vec<Step>,
    findings: &mut Findings,
) {
    let names: Vec<String> = table.keys().map(|key| key.get_ref().to_string()).collect();
    for name in names {
        path.push(Step::Key(name.clone()));
        match (node.key(&name), table.get_mut(name.as_str())) {
            (Some(child), Some(value)) => look_at_value(schema, child, value, path, findings),
            _ => {
                findings.unknown.push((path.clone(), unknown(schema, node, &name)));
                table.remove(name.as_str());
            }
        }
        path.pop();
    }
    for (name, child) in node.keys().filter(|(name, _)| node.requires(name)) {
        if !table.contains_key(name) {
            path.push(Step::Key(name.to_string()));
            findings.missing.push((path.clone(), missing(name, child, path.len() == 1)));
            path.pop();
        }
    }
}

fn look_at_value(
    schema: &Schema,
    node: Node<'_>,
    value: &mut Spanned<DeValue<'_>>,
    path: &mut Vec<Step>,
    findings: &mut Findings,
) {
    let (kind, called) = kind_of(value.get_ref());
    if !node.admits(kind) {
        findings.mistyped.push((path.clone(), format!("is {called}; accepted: {}", node.accepted())));
        return;
    }
    match value.get_mut() {
        DeValue::Table(table) if node.is_section() => look_at_table(schema, node, table, path, findings),
        DeValue::Array(array) => {
            let Some(element) = node.element() else { return };
            for (index, value) in array.iter_mut().enumerate() {
                path.push(Step::Index(index));
                look_at_value(schema, element, value, path, findings);
                path.pop();
            }
        }
        _ => {}
    }
}

fn kind_of(value: &DeValue<'_>) -> (&'static str, &'static str) {
    match value {
        DeValue::String(_) => ("string", "a string"),
        DeValue::Integer(_) => ("integer", "an integer"),
        DeValue::Float(_) => ("number", "a number with a fraction"),
        DeValue::Boolean(_) => ("boolean", "true or false"),
        DeValue::Datetime(_) => ("string", "a date"),
        DeValue::Array(_) => ("array", "a list"),
        DeValue::Table(_) => ("object", "a section"),
    }
}

fn unknown(schema: &Schema, node: Node<'_>, name: &str) -> String {
    let known: Vec<&str> = node.keys().map(|(name, _)| name).collect();
    let alike = |candidate: &&str| strsim::jaro_winkler(candidate, name);
    let nearest = known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    if let Some(nearest) = nearest.filter(|nearest| alike(nearest) >= ALIKE) {
        return format!("unknown key; did you mean `{nearest}`?");
    }
    if let [section, ..] = schema.sections_with(name).as_slice() {
        return format!("unknown key here; it belongs into section [{section}]");
    }
    format!("unknown key; accepted here: {}", known.join(", "))
}

fn missing(name: &str, node: Node<'_>, top: bool) -> String {
    if node.is_section() {
        let required: Vec<&str> =
            node.keys().filter(|(key, _)| node.requires(key)).map(|(key, _)| key).collect();
        let header = if top { format!(" [{name}]") } else { String::new() };
        return format!("required section{header} is missing; it needs {}", required.join(", "));
    }
    let example =
        node.example().map_or_else(String::new, |example| format!(", for example `{name} = {example}`"));
    format!(
        "required key is missing; accepted: {}{}",
        accepted_plain(node),
        if node.values().is_empty() { example } else { String::new() }
    )
}

/// Without the example, which follows as a whole line.
fn accepted_plain(node: Node<'_>) -> String {
    let accepted = node.accepted();
    accepted.split(", for example").next().unwrap_or_default().to_string()
}
