//! The result: kernels beside each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::record::{Column, Outcome};

const BACK_ENDS: [&str; 2] = ["ebpf", "tproxy"];

/// What came of a test with each back end; `""` where a test has none, or both.
type Cell<'a> = BTreeMap<&'a str, &'a Outcome>;

/// One line for each test, one column for each kernel.
pub(crate) fn table(columns: &[Column]) -> String {
    let mut rows: BTreeMap<String, Vec<Cell>> = BTreeMap::new();
    for (number, column) in columns.iter().enumerate() {
        for record in &column.records {
            let (test, back_end) = split(&record.test);
            let cells = rows.entry(test).or_insert_with(|| vec![Cell::new(); columns.len()]);
            cells[number].insert(back_end, &record.outcome);
        }
    }
    let mut text = String::from("| test | back ends |");
    for column in columns {
        let _ = write!(text, " {} |", column.kernel);
    }
    text += "\n|---|---|";
    text += &"---|".repeat(columns.len());
    text.push('\n');
    for (test, cells) in &rows {
        let back_ends: BTreeSet<&str> = cells.iter().flat_map(|cell| cell.keys().copied()).collect();
        let all = back_ends.len();
        let back_ends = match back_ends.into_iter().collect::<Vec<_>>()[..] {
            [only] => only,
            _ => "both",
        };
        let _ = write!(text, "| `{test}` | {back_ends} |");
        for cell in cells {
            let _ = write!(text, " {} |", words(cell, all));
        }
        text.push('\n');
    }
    text
}

/// The whole of docs/kernels.md.
pub(crate) fn document(columns: &[Column]) -> String {
    let mut text = String::from(
        "# Kernels\n\n\
         `make test-kernels` runs the tests of steering on old kernels in virtual machines and on the machine's own, and writes this file. The\n\
         test programs are those of `make test`, on the same files; the guests are emulated (qemu, TCG) with one processor, which makes them slow and their\n\
         clocks rough, so a time-out that is tight on a machine is tighter there: what fails beside others is run once more by itself, and\n\
         that counts. `make test` runs a handful of them on the oldest.\n\n\
         | kernel | what | when | tests | failed | lacking |\n|---|---|---|---|---|---|\n",
    );
    for column in columns {
        let lacking =
            column.records.iter().filter(|record| matches!(record.outcome, Outcome::Lacks(_))).count();
        let (what, when) = column.what.rsplit_once(", ").unwrap_or((&column.what, ""));
        let _ = writeln!(
            text,
            "| {} | {what} | {when} | {} | {} | {lacking} |",
            column.kernel,
            column.records.len(),
            column.failed()
        );
    }
    text += "\n## What the agent finds by trying\n\nThe words of `weir-agent doctor` there, for both back ends:\n\n";
    for column in columns {
        let _ = writeln!(text, "- {}: {}", column.kernel, column.findings.join("; "));
    }
    text += "\n## Tests\n\n\
             `ok`: passed, with both back ends where it has both. `lacks`: what this kernel cannot do, and was found out by trying; the test\n\
             made sure of the rest. An empty field: not run.\n\n";
    text += &table(columns);
    text
}

fn split(test: &str) -> (String, &str) {
    for back_end in BACK_ENDS {
        let part = format!("::{back_end}::");
        // steer::ebpf::tests are tests of that module.
        if let Some((before, after)) = test.split_once(&part)
            && before != "steer"
        {
            return (format!("{before}::{after}"), if back_end == "ebpf" { "ebpf" } else { "tproxy" });
        }
    }
    (test.to_owned(), "")
}

/// `back_ends`: with how many the test is run; what was run with one of two says with which.
fn words(cell: &Cell, back_ends: usize) -> String {
    let word = |outcome: &Outcome| match outcome {
        Outcome::Passed => "ok".to_owned(),
        Outcome::Failed => "**FAILED**".to_owned(),
        Outcome::Lacks(what) => format!("lacks: {what}"),
    };
    let all: Vec<String> = cell.values().map(|outcome| word(outcome)).collect();
    if all.is_empty() || (all.len() == back_ends && all.windows(2).all(|pair| pair[0] == pair[1])) {
        return all.into_iter().next().unwrap_or_default();
    }
    cell.iter()
        .map(|(back_end, outcome)| format!("{back_end}: {}", word(outcome)))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn record(test: &str, outcome: Outcome) -> Record {
        Record { test: test.to_owned(), outcome, output: String::new(), seconds: 1.0 }
    }

    #[test]
    fn back_ends_share_a_line_and_kernels_have_a_column() {
        let old = Column {
            kernel: "5.10".to_owned(),
            records: vec![
                record("death::ebpf::killed", Outcome::Passed),
                record("death::tproxy::killed", Outcome::Failed),
                record("nat::ebpf::masquerade", Outcome::Passed),
                record("steer::ebpf::tests::ways", Outcome::Lacks("TCX".to_owned())),
            ],
            ..Column::default()
        };
        let host = Column {
            kernel: "host".to_owned(),
            records: [
                "death::ebpf::killed",
                "death::tproxy::killed",
                "limits::all",
                "nat::ebpf::masquerade",
                "nat::tproxy::masquerade",
            ]
            .map(|test| record(test, Outcome::Passed))
            .into(),
            ..Column::default()
        };
        let expected = "| test | back ends | 5.10 | host |\n|---|---|---|---|\n\
            | `death::killed` | both | ebpf: ok; tproxy: **FAILED** | ok |\n\
            | `limits::all` |  |  | ok |\n\
            | `nat::masquerade` | both | ebpf: ok | ok |\n\
            | `steer::ebpf::tests::ways` |  | lacks: TCX |  |\n";
        assert_eq!(table(&[old, host]), expected);
    }
}
