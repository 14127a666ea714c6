//! `[quarantine]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_daemon::config::Problems;

/// A few whole messages, kept to be looked at: those that the preset `volume` takes for spam for certain, and those for which a
/// script calls `quarantine()`. Each is encrypted to the operator's key, which the node does not have. Mail goes on as if nobody
/// had looked: nothing is kept back or delayed. Never of customers in `privacy.no_content`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quarantine {
    pub enabled: bool,
    /// Where samples are, one a file, mode 0600 in a directory of mode 0700. Nodes on one host need one each.
    pub directory: PathBuf,
    /// The public key of age (X25519) that they are encrypted to; needed where it is enabled. `weir-filter quarantine key` makes a
    /// pair, as does `age-keygen`. The secret key does not belong on the node.
    #[schemars(example = &"age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq")]
    pub public_key: Option<String>,
    /// Days that a sample is kept. It goes also where `enabled` is off again.
    pub keep_days: u64,
    /// Samples an hour in all.
    pub max_per_hour: u64,
    /// Samples an hour of one customer; where customers have no names, of a prefix or a source.
    pub max_per_customer_hour: u64,
    /// Bytes of all samples; the oldest go for a new one.
    pub max_disk: u64,
    /// Bytes of a message; of a larger one there is no sample.
    pub max_sample_size: u64,
    /// SpamAssassin's score above which the preset `volume` wants a sample; it wants one of each outbreak of spam, too.
    pub sample_above: f64,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            enabled: false,
            directory: PathBuf::from("/var/lib/weir-filter/quarantine"),
            public_key: None,
            keep_days: 7,
            max_per_hour: 20,
            max_per_customer_hour: 2,
            max_disk: 256 * 1024 * 1024,
            max_sample_size: 1024 * 1024,
            sample_above: 8.0,
        }
    }
}

const MAX_DAYS: u64 = 365;
const MAX_AN_HOUR: u64 = 10_000;

/// A few of them wait in memory.
const MAX_SAMPLE: u64 = 64 * 1024 * 1024;

impl Quarantine {
    pub(super) fn check(&self, problems: &mut Problems) {
        if !self.directory.is_absolute() {
            problems.add("quarantine.directory", "must be an absolute path");
        }
        match self.recipient() {
            Err(problem) => problems.add("quarantine.public_key", problem),
            Ok(None) if self.enabled => problems.add(
                "quarantine.public_key",
                "is missing: samples are encrypted to it; `weir-filter quarantine key` makes a pair of keys",
            ),
            Ok(_) => {}
        }
        if !(1..=MAX_DAYS).contains(&self.keep_days) {
            problems
                .add("quarantine.keep_days", format!("{} days; accepted: 1 to {MAX_DAYS}", self.keep_days));
        }
        for (key, value) in
            [("max_per_hour", self.max_per_hour), ("max_per_customer_hour", self.max_per_customer_hour)]
        {
            if !(1..=MAX_AN_HOUR).contains(&value) {
                problems.add(&format!("quarantine.{key}"), format!("{value}; accepted: 1 to {MAX_AN_HOUR}"));
            }
        }
        if !(1..=MAX_SAMPLE).contains(&self.max_sample_size) {
            let what = format!("{} bytes; accepted: 1 to {MAX_SAMPLE}", self.max_sample_size);
            problems.add("quarantine.max_sample_size", what);
        } else if self.max_disk < 2 * self.max_sample_size {
            problems.add("quarantine.max_disk", "has no room for two samples of `max_sample_size`");
        }
        if !self.sample_above.is_finite() {
            problems.add("quarantine.sample_above", "must be a number");
        }
    }

    /// Whom samples are encrypted to.
    ///
    /// # Errors
    /// In words, if it is no key.
    pub fn recipient(&self) -> Result<Option<age::x25519::Recipient>, String> {
        let Some(text) = &self.public_key else { return Ok(None) };
        if text.starts_with("AGE-SECRET-KEY-") {
            return Err("is a secret key, with which whoever breaks into the node could read all samples: the public one \
                        (age1...) belongs here"
                .into());
        }
        let parsed: Result<age::x25519::Recipient, _> = text.parse();
        parsed.map(Some).map_err(|why| format!("is no public key of age, as in age1...: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn problems(lines: &str) -> String {
        let text = format!(
            "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\n[quarantine]\nenabled = true\n{lines}\n"
        );
        weir_daemon::config::parse::<Config>("f", &text)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_key_that_is_missing_or_wrong_is_told_with_its_field() {
        let pair = age::x25519::Identity::generate();
        assert!(problems("").contains("quarantine.public_key: is missing"), "{}", problems(""));
        for (key, words) in [
            ("age1nonsense", "f:6: quarantine.public_key: is no public key of age, as in age1...: "),
            ("AGE-SECRET-KEY-1XYZ", "f:6: quarantine.public_key: is a secret key"),
        ] {
            let told = problems(&format!("public_key = \"{key}\""));
            assert!(told.starts_with(words), "{told}");
        }
        assert_eq!(problems(&format!("public_key = \"{}\"", pair.to_public())), "");
        let told =
            problems(&format!("public_key = \"{}\"\nmax_disk = 1000\nkeep_days = 0", pair.to_public()));
        assert!(told.contains("f:7: quarantine.max_disk: has no room"), "{told}");
        assert!(told.contains("f:8: quarantine.keep_days: 0 days; accepted: 1 to 365"), "{told}");
    }
}
