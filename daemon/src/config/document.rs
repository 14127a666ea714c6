//! A TOML text with the place of every key, in which a wrong value can be replaced by a good one.

use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problems::Problems;
use crate::schema::{Schema, Step};

#[derive(Clone)]
pub(super) struct Document<'a> {
    text: &'a str,
    root: Spanned<DeTable<'a>>,
    /// The example file of the same type: where good values come from.
    example: DeTable<'a>,
    /// Places whose value is no longer what was written.
    replaced: HashSet<String>,
    /// Lines that are not TOML; what is said of their keys elsewhere would mislead.
    broken: bool,
}

impl<'a> Document<'a> {
    /// Notes every syntax error and goes on after it.
    pub(super) fn parse(text: &'a str, example: &'a str, problems: &mut Problems) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut lines = HashSet::new();
        for error in &errors {
            let line = line_at(text, error.span().map_or(text.len(), |span| span.start));
            // The first error of a line is the mistake, the rest follow from it.
            if lines.insert(line) {
                problems.add_at(line, "", format!("not TOML: {}", error.message()));
            }
        }
        let example = DeTable::parse_recoverable(example).0.into_inner();
        Self { text, root, example, replaced: HashSet::new(), broken: !errors.is_empty() }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn deserializer(&self) -> toml::de::Deserializer<'a> {
        toml::de::Deserializer::from(self.root.clone())
    }

    /// The place whose value or key has exactly this span.
    pub(super) fn locate(&self, span: &Range<usize>) -> Option<Vec<Step>> {
        let mut path = Vec::new();
        locate_in_table(self.root.get_ref(), span, &mut path).then_some(path)
    }

    /// The line of the key, or of the nearest table above it that the file has.
    pub(super) fn line_of(&self, key: &str) -> Option<usize> {
        let mut line = None;
        let mut table = Some(self.root.get_ref());
        let mut value: Option<&Spanned<DeValue<'_>>> = None;
        for step in parse_path(key) {
            let span = match step {
                Step::Key(name) => {
                    let Some((key, below)) = table.and_then(|table| table.get_key_value(name.as_str()))
                    else {
                        break;
                    };
                    value = Some(below);
                    // A section's header is where its keys are looked for, not its first line below.
                    key.span()
                }
                Step::Index(index) => {
                    let Some(DeValue::Array(array)) = value.map(Spanned::get_ref) else { break };
                    let Some(below) = array.get(index) else { break };
                    value = Some(below);
                    below.span()
                }
            };
            line = Some(line_at(self.text, span.start));
            table = match value.map(Spanned::get_ref) {
                Some(DeValue::Table(table)) => Some(table),
                _ => None,
            };
        }
        line
    }

    /// Whether nothing at, above (in the same list) or below `key` was replaced.
    pub(super) fn is_as_written(&self, key: &str) -> bool {
        let list =
            |key: &str| key.trim_end_matches(']').trim_end_matches(|c: char| c.is_ascii_digit()).to_string();
        let wanted = list(key);
        !self.replaced.iter().any(|place| {
            let place_list = list(place);
            place == key
                || place_list == wanted && wanted.ends_with('[')
                || place_list.trim_end_matches('[') == key
                || key.starts_with(&format!("{place}."))
        })
    }

    pub(super) fn root_mut(&mut self) -> &mut DeTable<'a> {
        self.root.get_mut()
    }

    /// Puts the example's value in the place of a wrong or missing one, or removes it if the key
    /// may be absent. False if neither can be done.
    pub(super) fn replace(&mut self, schema: &Schema, place: &[Step]) -> bool {
        // Twice in one place: the replacement itself is not accepted.
        if !self.replaced.insert(path_text(place)) {
            return false;
        }
        let Some((last, above)) = place.split_last() else { return false };
        let good = example_at(&self.example, place);
        let Some(parent) = descend(self.root.get_mut(), above) else { return false };
        match (parent, last) {
            (Container::Table(table), Step::Key(name)) => {
                if !schema.at(above).is_some_and(|node| node.requires(name)) {
                    return table.remove(name.as_str()).is_some();
                }
                let Some(good) = good else { return false };
                table.insert(Spanned::new(0..0, name.clone().into()), Spanned::new(0..0, good));
                true
            }
            (Container::Array(array), Step::Index(index)) => match (array.get_mut(*index), good) {
                (Some(element), Some(good)) => {
                    *element = Spanned::new(0..0, good);
                    true
                }
                _ => self.replace(schema, above),
            },
            _ => false,
        }
    }
}

/// The value at this place in the example; every element of a list is like its first.
fn example_at<'a>(example: &DeTable<'a>, place: &[Step]) -> Option<DeValue<'a>> {
    let (first, rest) = place.split_first()?;
    let Step::Key(name) = first else { return None };
    let mut value = example.get(name.as_str())?.get_ref();
    for step in rest {
        value = match (value, step) {
            (DeValue::Table(table), Step::Key(name)) => table.get(name.as_str())?.get_ref(),
            (DeValue::Array(array), Step::Index(_)) => array.first()?.get_ref(),
            _ => return None,
        };
    }
    Some(without_places(value))
}

enum Container<'t, 'a> {
    Table(&'t mut DeTable<'a>),
    Array(&'t mut DeArray<'a>),
}

fn descend<'t, 'a>(root: &'t mut DeTable<'a>, path: &[Step]) -> Option<Container<'t, 'a>> {
    let mut here = Container::Table(root);
    for step in path {
        let value = match (here, step) {
            (Container::Table(table), Step::Key(name)) => table.get_mut(name.as_str())?,
            (Container::Array(array), Step::Index(index)) => array.get_mut(*index)?,
            _ => return None,
        };
        here = match value.get_mut() {
            DeValue::Table(table) => Container::Table(table),
            DeValue::Array(array) => Container::Array(array),
            _ => return None,
        };
    }
    Some(here)
}

fn locate_in_table(table: &DeTable<'_>, span: &Range<usize>, path: &mut Vec<Step>) -> bool {
    for (key, value) in table {
        path.push(Step::Key(key.get_ref().to_string()));
        if locate_in_value(value, span, path) || key.span() == *span {
            return true;
        }
        path.pop();
    }
    false
}

fn locate_in_value(value: &Spanned<DeValue<'_>>, span: &Range<usize>, path: &mut Vec<Step>) -> bool {
    match value.get_ref() {
        DeValue::Table(table) if locate_in_table(table, span, path) => return true,
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                path.push(Step::Index(index));
                if locate_in_value(element, span, path) {
                    return true;
                }
                path.pop();
            }
        }
        _ => {}
    }
    value.span() == *span
}

/// `a.b[1]` from its steps.
pub(super) fn path_text(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(name) if text.is_empty() => text.push_str(name),
            Step::Key(name) => {
                text.push('.');
                text.push_str(name);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

fn parse_path(text: &str) -> Vec<Step> {
    let mut path = Vec::new();
    for part in text.split('.') {
        let mut pieces = part.split('[');
        path.extend(pieces.next().filter(|name| !name.is_empty()).map(|name| Step::Key(name.to_string())));
        path.extend(pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok().map(Step::Index)));
    }
    path
}

/// A copy whose places can't be taken for places of the file.
fn without_places<'a>(value: &DeValue<'a>) -> DeValue<'a> {
    let inner = |value: &Spanned<DeValue<'a>>| Spanned::new(0..0, without_places(value.get_ref()));
    match value {
        DeValue::Array(array) => {
            let mut copy = DeArray::new();
            for element in array {
                copy.push(inner(element));
            }
            DeValue::Array(copy)
        }
        DeValue::Table(table) => {
            let copy =
                table.iter().map(|(key, value)| (Spanned::new(0..0, key.get_ref().clone()), inner(value)));
            DeValue::Table(copy.collect())
        }
        other => other.clone(),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
