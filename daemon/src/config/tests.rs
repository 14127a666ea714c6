use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Check, Problems, parse};
use crate::reference;

/// A daemon's file.
///
/// Second paragraph.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    smtp: Smtp,
    #[serde(default)]
    limits: Limits,
    scanner: Option<Scanner>,
}

/// Where it listens.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Smtp {
    /// Addresses.
    #[schemars(example = ["127.0.0.1:25"])]
    listen: Vec<SocketAddr>,
    /// A name.
    #[schemars(example = &"mail")]
    name: String,
    mode: Mode,
    /// Seconds.
    #[serde(default = "five")]
    wait: u16,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// All goes through.
    Open,
    /// Nothing does.
    Closed,
}

/// Limits.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Limits {
    /// Messages a minute.
    per_minute: u32,
    /// Messages an hour.
    per_hour: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_minute: 100, per_hour: 1000 }
    }
}

/// The scanner.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Scanner {
    #[schemars(example = &"unix:/run/spamd")]
    address: String,
    /// Score.
    reject_at: Option<f64>,
}

fn five() -> u16 {
    5
}

impl Check for File {
    fn check(&self, problems: &mut Problems) {
        for (index, listen) in self.smtp.listen.iter().enumerate() {
            if listen.port() == 0 {
                problems.add(&format!("smtp.listen[{index}]"), "port 0 is no port");
            }
        }
        if self.limits.per_hour < self.limits.per_minute {
            problems.add("limits.per_hour", "is less than limits.per_minute");
        }
    }
}

fn problems(text: &str) -> Vec<String> {
    parse::<File>("f.toml", text)
        .map_or_else(|found| found.to_string().lines().map(str::to_string).collect(), |_| vec![])
}

#[test]
fn a_good_file_loads_with_its_defaults() {
    let file: File = parse(
        "f.toml",
        "[smtp]\nlisten = [\"[::1]:25\"]\nname = \"x\"\nmode = \"closed\"\n[scanner]\naddress = \"a\"\n",
    )
    .unwrap();
    assert_eq!((file.smtp.wait, file.limits.per_hour), (5, 1000));
    assert!(file.scanner.unwrap().reject_at.is_none());
}

#[test]
fn every_problem_is_reported_with_line_and_key() {
    let text = "[smtp]\nlisten = [\"127.0.0.1\", \"127.0.0.1:0\", \"x:1\", 7]\nname = 3\nmode = \"opne\"\nwait = 70000\nwiat = 1\n\n[limits]\nper_minut = 3\nper_hour = 5\nname = \"x\"\n[scanner]\nreject_at = \"six\"\n[log]\n";
    let expected = [
        "f.toml:2: smtp.listen[3]: is an integer; accepted: a string, for example \"127.0.0.1:25\"",
        "f.toml:2: smtp.listen[0]: invalid socket address syntax; accepted: a string, for example \"127.0.0.1:25\"",
        "f.toml:2: smtp.listen[2]: invalid socket address syntax; accepted: a string, for example \"127.0.0.1:25\"",
        "f.toml:3: smtp.name: is an integer; accepted: a string, for example \"mail\"",
        "f.toml:4: smtp.mode: unknown variant `opne`; accepted: \"open\", \"closed\"",
        "f.toml:5: smtp.wait: invalid value: integer `70000`; accepted: an integer from 0 to 65535",
        "f.toml:6: smtp.wiat: unknown key; did you mean `wait`?",
        "f.toml:9: limits.per_minut: unknown key; did you mean `per_minute`?",
        "f.toml:10: limits.per_hour: is less than limits.per_minute",
        "f.toml:11: limits.name: unknown key here; it belongs into section [smtp]",
        "f.toml:12: scanner.address: required key is missing; accepted: a string, for example `address = \"unix:/run/spamd\"`",
        "f.toml:13: scanner.reject_at: is a string; accepted: a number",
        "f.toml:14: log: unknown key; accepted here: smtp, limits, scanner",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn a_missing_section_is_one_problem() {
    assert_eq!(
        problems(""),
        ["f.toml: smtp: required section [smtp] is missing; it needs listen, name, mode"]
    );
    let both = problems("[limits]\nper_minute = \"x\"\n");
    assert_eq!(both.len(), 2, "{both:?}");
}

#[test]
fn syntax_errors_do_not_hide_the_rest() {
    let text = "[smtp]\nlisten = [\"127.0.0.1:25\"]\nname = mail\nmode = \"open\"\nwait = -1\n[limits\nper_minute = 1\n";
    let found = problems(text);
    assert!(found[0].starts_with("f.toml:3: not TOML: "), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("f.toml:5: smtp.wait: ")), "{found:?}");
    assert!(found.iter().any(|line| line.starts_with("f.toml:6: not TOML: ")), "{found:?}");
}

#[test]
fn semantic_checks_name_the_line_of_their_key() {
    let good =
        "[smtp]\nlisten = [\n  \"127.0.0.1:25\",\n  \"127.0.0.1:0\",\n]\nname = \"x\"\nmode = \"open\"\n";
    assert_eq!(problems(good), ["f.toml:4: smtp.listen[1]: port 0 is no port"]);
    let hour = "[smtp]\nlisten = []\nname = \"x\"\nmode = \"open\"\n[limits]\nper_minute = 5000\n";
    assert_eq!(problems(hour), ["f.toml:5: limits.per_hour: is less than limits.per_minute"]);
}

#[test]
fn an_unreadable_file_is_a_problem_of_its_own() {
    let error = super::load::<File>(std::path::Path::new("/nonexistent/f.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/f.toml: cannot be read: "), "{error}");
}

#[test]
fn the_example_loads_and_shows_every_key() {
    let example = reference::example::<File>();
    if let Err(problems) = parse::<File>("example", &example) {
        panic!("{problems}\n{example}");
    }
    let expected = "# A daemon's file.\n# Second paragraph.\n\n# Where it listens.\n# Required section.\n[smtp]\n\n# Addresses.\n# Required.\nlisten = [\"127.0.0.1:25\"]\n\n# A name.\n# Required.\nname = \"mail\"\n\n# One of \"open\", \"closed\".\n# Required.\nmode = \"open\"\n\n# Seconds.\n# Default: 5\nwait = 5\n\n# Limits.\n# Optional section.\n[limits]\n\n# Messages a minute.\n# Default: 100\nper_minute = 100\n\n# Messages an hour.\n# Default: 1000\nper_hour = 1000\n\n# The scanner.\n# Optional section.\n[scanner]\n\n# Required.\naddress = \"unix:/run/spamd\"\n\n# Score.\n# Not set by default.\n#reject_at = 0\n";
    assert_eq!(example, expected);
}

#[test]
fn the_reference_has_a_row_for_every_key() {
    let text = reference::markdown::<File>();
    assert!(text.contains("## `[limits]` (optional)"), "{text}");
    assert!(text.contains("| `wait` | an integer from 0 to 65535 | `5` | Seconds. |"), "{text}");
    assert!(
        text.contains("| `address` | a string, for example \"unix:/run/spamd\" | required |  |"),
        "{text}"
    );
}
