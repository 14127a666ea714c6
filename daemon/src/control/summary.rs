//! A status object for people.

use std::fmt::Write;

use serde_json::Value;

/// Columns of a terminal. Longer lines are broken between words; a word that is longer stays whole.
const COLUMNS: usize = 80;

/// One line for each value, indented below the object that has it; underscores become spaces.
pub fn summary(status: &Value) -> String {
    let mut text = String::new();
    describe(&mut text, status, 0);
    text.trim_end().to_string()
}

fn describe(text: &mut String, value: &Value, depth: usize) {
    let Value::Object(members) = value else {
        let _ = writeln!(text, "{}", scalar(value));
        return;
    };
    let width = members.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in members {
        let (indent, label) = ("  ".repeat(depth), name.replace('_', " "));
        match value {
            Value::Object(below) if below.is_empty() => {
                let _ = writeln!(text, "{indent}{label:width$}  none");
            }
            Value::Object(_) => {
                let _ = writeln!(text, "{indent}{label}");
                describe(text, value, depth + 1);
            }
            Value::Array(elements) if elements.iter().any(Value::is_object) => {
                let _ = writeln!(text, "{indent}{label}");
                for element in elements {
                    describe(text, element, depth + 1);
                    text.push('\n');
                }
            }
            _ => {
                line(text, &format!("{indent}{label:width$}  "), &scalar(value));
            }
        }
    }
}

/// What does not fit stands below what does.
fn line(text: &mut String, label: &str, value: &str) {
    let mut column = label.chars().count();
    let margin = " ".repeat(column);
    text.push_str(label);
    for (place, word) in value.split(' ').enumerate() {
        let length = word.chars().count();
        if place > 0 && column + 1 + length > COLUMNS {
            text.push('\n');
            text.push_str(&margin);
            column = margin.len();
        } else if place > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        Value::Array(elements) if elements.is_empty() => "none".into(),
        Value::Array(elements) => elements.iter().map(scalar).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::summary;

    #[test]
    fn long_lines_are_broken_between_words() {
        let words = vec!["word"; 40].join(" ");
        let text = summary(&json!({"a": {"some name": words, "address": "x".repeat(90)}}));
        assert!(text.lines().all(|line| line.len() <= 80 || line.contains(&"x".repeat(90))), "{text}");
        assert_eq!(text.split_whitespace().filter(|word| *word == "word").count(), 40);
        assert!(text.lines().skip(2).take(2).all(|line| line.starts_with("             word")), "{text}");
    }

    #[test]
    fn values_stand_below_each_other() {
        let status = json!({"program": "x", "sessions": {"open": 1, "total_ever": 20}, "listen": ["a", "b"],
            "scanners": {}, "nodes": [{"address": "n1"}]});
        assert_eq!(
            summary(&status),
            "program   x\nsessions\n  open        1\n  total ever  20\nlisten    a, b\nscanners  none\nnodes\n  address  n1"
        );
    }
}
