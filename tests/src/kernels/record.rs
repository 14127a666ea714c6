//! What came of a test on a kernel.

use anyhow::{Context, Result};
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    /// What the kernel lacks; the test made sure of the rest.
    Lacks(String),
    Failed,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) test: String,
    pub(crate) outcome: Outcome,
    /// What it said, if it failed.
    pub(crate) output: String,
    pub(crate) seconds: f64,
}

impl Record {
    pub(crate) fn to_json(&self) -> Value {
        let outcome = match &self.outcome {
            Outcome::Passed => json!("passed"),
            Outcome::Failed => json!("failed"),
            Outcome::Lacks(what) => json!({ "lacks": what }),
        };
        json!({ "test": self.test, "outcome": outcome, "output": self.output, "seconds": self.seconds })
    }

    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        let outcome = match (value["outcome"].as_str(), value["outcome"]["lacks"].as_str()) {
            (Some("passed"), _) => Outcome::Passed,
            (_, Some(what)) => Outcome::Lacks(what.to_owned()),
            _ => Outcome::Failed,
        };
        Ok(Self {
            test: value["test"].as_str().context("a test's name")?.to_owned(),
            outcome,
            output: value["output"].as_str().unwrap_or_default().to_owned(),
            seconds: value["seconds"].as_f64().unwrap_or_default(),
        })
    }
}

/// All that was run on one kernel.
#[derive(Debug, Default)]
pub(crate) struct Column {
    /// As it is asked for: `5.10`, `host`.
    pub(crate) kernel: String,
    /// What it was exactly, and when.
    pub(crate) what: String,
    pub(crate) findings: Vec<String>,
    pub(crate) records: Vec<Record>,
    /// Why not everything was run.
    pub(crate) broken: Option<String>,
}

impl Column {
    pub(crate) fn failed(&self) -> usize {
        let failed = self.records.iter().filter(|record| record.outcome == Outcome::Failed).count();
        failed + usize::from(self.broken.is_some())
    }

    pub(crate) fn to_json(&self) -> Value {
        let records: Vec<Value> = self.records.iter().map(Record::to_json).collect();
        json!({ "kernel": self.kernel, "what": self.what, "findings": self.findings, "records": records })
    }

    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |key: &str| value[key].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            kernel: text(&value["kernel"]),
            what: text(&value["what"]),
            findings: list("findings").iter().map(text).collect(),
            records: list("records").iter().map(Record::from_json).collect::<Result<_>>()?,
            broken: None,
        })
    }
}
