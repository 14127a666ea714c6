//! A reader's view of a type's JSON schema: which keys there are, what they accept, what they
//! default to, and what their doc comments say.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde_json::Value;

/// One step down a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

pub(crate) struct Schema {
    root: Value,
}

/// The schema of one key, references followed.
#[derive(Clone, Copy)]
pub(crate) struct Node<'s> {
    root: &'s Value,
    /// Where the key is declared: its own description, default and examples.
    own: &'s Value,
    /// What its type says.
    kind: &'s Value,
    /// For an element of a list: the first of the list's example.
    listed: Option<&'s Value>,
}

impl Schema {
    pub(crate) fn of<T: JsonSchema>() -> Self {
        Self { root: schemars::schema_for!(T).to_value() }
    }

    pub(crate) fn root(&self) -> Node<'_> {
        Node::new(&self.root, &self.root)
    }

    pub(crate) fn at(&self, path: &[Step]) -> Option<Node<'_>> {
        let mut node = self.root();
        for step in path {
            node = match step {
                Step::Key(name) => node.key(name)?,
                Step::Index(_) => node.element()?,
            };
        }
        Some(node)
    }

    /// The paths of all sections that have a key of this name, for hints.
    pub(crate) fn sections_with(&self, name: &str) -> Vec<String> {
        self.root()
            .keys()
            .filter(|(_, node)| node.key(name).is_some())
            .map(|(section, _)| section.to_string())
            .collect()
    }
}

impl<'s> Node<'s> {
    fn new(root: &'s Value, own: &'s Value) -> Self {
        let mut kind = own;
        // References of references do not occur in derived schemas beyond an Option of a named type.
        for _ in 0..4 {
            if let Some(target) = kind.get("$ref").and_then(Value::as_str) {
                let Some(found) = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer)) else {
                    break;
                };
                kind = found;
            } else if let Some(choices) = kind.get("anyOf").and_then(Value::as_array) {
                let Some(choice) = choices.iter().find(|choice| !is_null(choice)) else { break };
                kind = choice;
            } else {
                break;
            }
        }
        Self { root, own, kind, listed: None }
    }

    pub(crate) fn keys(self) -> impl Iterator<Item = (&'s str, Node<'s>)> {
        let properties = self.kind.get("properties").and_then(Value::as_object);
        properties.into_iter().flatten().map(move |(name, own)| (name.as_str(), Node::new(self.root, own)))
    }

    pub(crate) fn key(self, name: &str) -> Option<Node<'s>> {
        let own = self.kind.get("properties")?.get(name)?;
        Some(Node::new(self.root, own))
    }

    pub(crate) fn element(self) -> Option<Node<'s>> {
        let own = self.kind.get("items")?;
        Some(Node { listed: self.example().and_then(|list| list.get(0)), ..Node::new(self.root, own) })
    }

    pub(crate) fn is_section(self) -> bool {
        self.kind.get("properties").is_some()
    }

    pub(crate) fn requires(self, name: &str) -> bool {
        let required = self.kind.get("required").and_then(Value::as_array);
        required.is_some_and(|names| names.iter().any(|required| required == name))
    }

    /// Paragraphs of the doc comment, each on one line: the key's own, else its type's.
    pub(crate) fn description(self) -> Vec<String> {
        let text = [self.own, self.kind].into_iter().find_map(|value| value.get("description")?.as_str());
        let words = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        text.unwrap_or_default().split("\n\n").map(words).filter(|paragraph| !paragraph.is_empty()).collect()
    }

    pub(crate) fn default(self) -> Option<&'s Value> {
        self.own.get("default").filter(|value| !value.is_null())
    }

    pub(crate) fn example(self) -> Option<&'s Value> {
        [self.own, self.kind].into_iter().find_map(|value| value.get("examples")?.get(0)).or(self.listed)
    }

    /// Whether a TOML value of this kind (`string`, `integer`, ...) can be a value of this key.
    pub(crate) fn admits(self, kind: &str) -> bool {
        let types = types(self.kind);
        types.is_empty() || types.contains(&kind) || kind == "integer" && types.contains(&"number")
    }

    /// What is accepted, in words; empty if the schema does not say.
    pub(crate) fn accepted(&self) -> String {
        let base = self.accepted_type();
        match self.example() {
            Some(example) if base == "a string" => format!("{base}, for example {example}"),
            _ => base,
        }
    }

    fn accepted_type(self) -> String {
        let values = self.values();
        if !values.is_empty() {
            let quoted: Vec<_> = values.iter().map(|value| format!("\"{value}\"")).collect();
            return quoted.join(", ");
        }
        match types(self.kind).first().copied() {
            Some("string") => "a string".into(),
            Some("boolean") => "true or false".into(),
            Some("integer") => format!("an integer{}", self.range()),
            Some("number") => format!("a number{}", self.range()),
            Some("object") => "a section".into(),
            Some("array") => match self.element().map(|element| element.accepted()) {
                Some(element) if !element.is_empty() => format!("a list, each element {element}"),
                _ => "a list".into(),
            },
            _ => String::new(),
        }
    }

    fn range(self) -> String {
        let bound = |name: &str| self.kind.get(name).and_then(Value::as_f64);
        match (bound("minimum"), bound("maximum")) {
            (Some(low), Some(high)) => format!(" from {low} to {high}"),
            (Some(low), None) => format!(", {low} or more"),
            (None, Some(high)) => format!(", at most {high}"),
            (None, None) => String::new(),
        }
    }

    /// The words of an enumeration.
    pub(crate) fn values(self) -> Vec<&'s str> {
        let mut seen = HashSet::new();
        let listed = self.kind.get("enum").and_then(Value::as_array).into_iter().flatten();
        let described = self.kind.get("oneOf").and_then(Value::as_array).into_iter().flatten();
        let described = described.flat_map(|choice| {
            let one = choice.get("const").into_iter();
            one.chain(choice.get("enum").and_then(Value::as_array).into_iter().flatten())
        });
        listed.chain(described).filter_map(Value::as_str).filter(|value| seen.insert(*value)).collect()
    }
}

fn is_null(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str) == Some("null")
}

fn types(value: &Value) -> Vec<&str> {
    match value.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
