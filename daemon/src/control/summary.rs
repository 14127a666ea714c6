//! A status object for people.

use std::fmt::Write;

use serde_json::Value;

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
                let _ = writeln!(text, "{indent}{label:width$}  {}", scalar(value));
            }
        }
    }
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
    fn values_stand_below_each_other() {
        let status = json!({"program": "x", "sessions": {"open": 1, "total_ever": 20}, "listen": ["a", "b"],
            "scanners": {}, "nodes": [{"address": "n1"}]});
        assert_eq!(
            summary(&status),
            "program   x\nsessions\n  open        1\n  total ever  20\nlisten    a, b\nscanners  none\nnodes\n  address  n1"
        );
    }
}
