use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

use super::{MAX_CONCURRENCY, positive, seconds};
use crate::files::Class;

/// What kinds of files messages hold, by their content, also in archives (zip, gzip, tar, 7z). The classes are listed in
/// docs/files.md.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FileTypes {
    /// Whether the default policy asks. Scripts can ask in any case.
    pub enabled: bool,
    /// Classes that are refused with 550: `executable`, `script`, `shortcut`, `disk-image`, `installer`, `help`, `java`,
    /// `office-macro`, or any other of docs/files.md. Names that match `banned_names` are refused in any case.
    pub refuse: Vec<String>,
    /// What a message counts as of which not everything could be seen, because an archive is encrypted, broken, of a kind that
    /// is not opened or too large, or an encoding is broken: `clean`, `bulk` (it counts against the limit on bulk mail) or
    /// `reject` (550). Customers do send encrypted archives.
    pub unscannable: Unscannable,
    /// Names of files that are refused, also in archives: `*` stands for any characters, `?` for one, and large and small
    /// letters are the same.
    #[schemars(example = ["*.scr", "invoice?.zip"])]
    pub banned_names: Vec<String>,
    /// Archives within each other that are opened; a deeper one is of the class `archive-limit`. 0: none is opened, and
    /// none is of that class.
    pub max_depth: usize,
    /// Files in all archives of a message.
    pub max_members: usize,
    /// Bytes unpacked of all archives of a message. Of a file that is no archive only the beginning is unpacked.
    pub max_unpacked: u64,
    /// Bytes unpacked for each byte packed, of a file of more than 10 MiB.
    pub max_ratio: u64,
    /// Seconds to look at a message, the wait for its turn included. What was not seen until then is of the class
    /// `out-of-time`.
    pub timeout: u64,
    /// Messages looked at at a time. Each may take `max_unpacked` twice in memory, and a processor.
    pub concurrency: usize,
}

/// What a message counts as that could not be seen in full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unscannable {
    Clean,
    #[default]
    Bulk,
    Reject,
}

impl Default for FileTypes {
    fn default() -> Self {
        Self {
            enabled: true,
            refuse: vec![Class::Executable.name().into()],
            unscannable: Unscannable::Bulk,
            banned_names: Vec::new(),
            max_depth: 2,
            max_members: 1000,
            max_unpacked: 100 * 1024 * 1024,
            max_ratio: 250,
            timeout: 10,
            concurrency: 4,
        }
    }
}

impl FileTypes {
    pub(super) fn check(&self, problems: &mut Problems) {
        for (index, name) in self.refuse.iter().enumerate() {
            if Class::named(name).is_none() {
                let known: Vec<_> = Class::ALL.iter().map(|class| class.name()).collect();
                let what = format!("{name:?} is no class of files; there are {}", known.join(", "));
                problems.add(&format!("file_types.refuse[{index}]"), what);
            }
        }
        for (index, pattern) in self.banned_names.iter().enumerate() {
            if pattern.trim_matches(['*', '?', ' ']).is_empty() {
                let what = "matches every name; name what is banned";
                problems.add(&format!("file_types.banned_names[{index}]"), what);
            }
        }
        if self.max_depth > 10 {
            problems.add("file_types.max_depth", "is above 10");
        }
        positive(problems, "file_types.max_members", self.max_members as u64);
        positive(problems, "file_types.max_unpacked", self.max_unpacked);
        positive(problems, "file_types.max_ratio", self.max_ratio);
        positive(problems, "file_types.concurrency", self.concurrency as u64);
        if self.concurrency > MAX_CONCURRENCY {
            problems.add("file_types.concurrency", format!("is above {MAX_CONCURRENCY}"));
        }
        seconds(problems, "file_types.timeout", self.timeout);
    }

    /// Classes that are refused.
    pub fn refused(&self) -> impl Iterator<Item = Class> {
        self.refuse.iter().filter_map(|name| Class::named(name))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use weir_daemon::config;

    #[test]
    fn unknown_classes_and_patterns_for_everything_are_refused() {
        let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n[file_types]\nrefuse = [\"exe\"]\n\
                    banned_names = [\"*.exe\", \"*?*\"]\n[content]\nmemory = 10\n";
        let problems = config::parse::<Config>("f", text).unwrap_err().to_string();
        assert!(
            problems.contains("f:5: file_types.refuse[0]: \"exe\" is no class of files; there are exec"),
            "{problems}"
        );
        assert!(problems.contains("file_types.banned_names[1]: matches every name"), "{problems}");
        assert!(problems.contains("content.max_size: is above half of content.memory"), "{problems}");
    }
}
