//! The JSON log lines of weir's programs.

use serde_json::Value;

/// One line of a log.
#[derive(Debug, Clone)]
pub struct LogLine(Value);

impl LogLine {
    /// A field as text: strings without quotes, everything else as JSON; empty if it is missing.
    pub fn field(&self, name: &str) -> String {
        match &self.0[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// Of all fields.
    pub fn names(&self) -> Vec<&str> {
        self.0.as_object().into_iter().flat_map(|fields| fields.keys().map(String::as_str)).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.0[name].is_null()
    }
}

/// The lines of a log that are JSON objects.
pub fn log_lines(output: &str) -> Vec<LogLine> {
    output.lines().filter_map(|line| serde_json::from_str(line).ok()).map(LogLine).collect()
}

/// The lines that tell a message's fate: those with an `id` and a `verdict`.
pub(super) fn messages(output: &str) -> Vec<LogLine> {
    log_lines(output).into_iter().filter(|line| line.has("id") && line.has("verdict")).collect()
}
