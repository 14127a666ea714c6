use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use crate::maps::{Of, Use};

/// What the operator says of senders, recipients and customers, for both presets (docs/dns.md). Files are read again within 2
/// seconds of a change; one with a mistake changes nothing (at the start: is an error). To change one, write another file beside
/// it and rename that.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Maps {
    /// Tables `[[maps.files]]`, each with `file`, `of` (`sender`, `recipient` or `customer`) and `use`: `bypass` (no scanner looks,
    /// limits hold), `defer`, `reject`, or `score` (a number is added to SpamAssassin's). An entry a line, `#` begins a comment.
    #[schemars(example = files())]
    pub files: Vec<MapFile>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapFile {
    pub file: PathBuf,
    pub of: Of,
    #[serde(rename = "use")]
    pub action: Use,
}

fn files() -> serde_json::Value {
    serde_json::json!([{ "file": "/etc/weir/blocked-senders", "of": "sender", "use": "reject" }])
}

/// Files that a message is looked up in.
const MAX_FILES: usize = 50;

impl Maps {
    pub(super) fn check(&self, problems: &mut Problems) {
        if self.files.len() > MAX_FILES {
            problems.add("maps.files", format!("are more than {MAX_FILES}"));
        }
        for (index, map) in self.files.iter().enumerate() {
            if !map.file.is_absolute() {
                problems.add(&format!("maps.files[{index}].file"), "must be an absolute path");
            }
            if self.files.iter().take(index).any(|other| other == map) {
                problems.add(&format!("maps.files[{index}]"), "is named twice");
            }
        }
    }
}
