//! What is stored of people, as the daemons' pages have it.

use std::fmt::Write;

/// A column of a table, or a field of a file.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub what: &'static str,
    pub why: &'static str,
}

/// One file, or one kind of files.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub title: &'static str,
    pub place: &'static str,
    pub kept: &'static str,
    pub deleted: &'static str,
    pub fields: &'static [Field],
}

pub const fn field(name: &'static str, what: &'static str, why: &'static str) -> Field {
    Field { name, what, why }
}

impl Place {
    /// Its fields' names, in their order.
    pub fn names(&self) -> Vec<&'static str> {
        self.fields.iter().map(|field| field.name).collect()
    }
}

/// A section for each.
pub fn sections(places: &[Place]) -> String {
    let mut text = String::new();
    for Place { title, place, kept, deleted, fields } in places {
        // Writing to a String cannot fail.
        let _ =
            write!(text, "\n## {title}\n\nWhere: {place}.\nHow long: {kept}.\nHow to delete: {deleted}.\n\n");
        text.push_str("| field | what | why |\n|---|---|---|\n");
        for Field { name, what, why } in *fields {
            let _ = writeln!(text, "| `{name}` | {what} | {why} |");
        }
    }
    text
}

/// Of a line of either audit log.
pub const AUDIT: &[Field] = &[
    field("time", "when, UTC", "to know who did what"),
    field("program", "weir-filter or weir-agent", "the same"),
    field("user", "who asked: name of the process's user", "the same"),
    field("uid", "its number", "the same"),
    field("login", "who logged in, whatever user he became", "the same"),
    field("action", "what was done", "the same"),
    field("arguments", "to whom, and what else was said", "the same"),
];
