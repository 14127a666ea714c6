//! One kernel after the other, said as it goes on, and the result of all.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weir_tests::lab::paths;

use crate::guest::{Guest, MEMORY};
use crate::inside::{self, TEST_LIMIT};
use crate::kernel::{self, HOST, Kernel, NAMES};
use crate::plan::{self, Test};
use crate::record::{Column, Outcome, Record};
use crate::table;

/// Until a guest has begun, and between the end of a test's time and its word.
const PATIENCE: Duration = Duration::from_secs(200);

const SHOWN_LINES: usize = 15;

/// `rest`: without what has passed before.
pub(crate) fn run(
    kernels: &[String],
    only: &[String],
    rest: bool,
    limit: Duration,
    write: bool,
) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "the tests make network namespaces: run it as root");
    for name in kernels.iter().filter(|name| *name != HOST) {
        Kernel::find(name)?;
    }
    let all = plan::tests(only)?;
    let directory = kernel::directory()?;
    let mut columns = Vec::new();
    for name in kernels {
        let logs = directory.join("logs").join(name);
        // Of a run before.
        let _ = fs::remove_dir_all(&logs);
        fs::create_dir_all(&logs)?;
        let mut column = Column { kernel: name.clone(), ..Column::default() };
        let passed = if rest { passed(&directory, name)? } else { Vec::new() };
        let tests: Vec<Test> = all.iter().filter(|test| !passed.contains(&test.name)).cloned().collect();
        let keeping = write.then_some(directory.as_path());
        let outcome = if name == HOST {
            on_host(&mut column, &tests, &logs, keeping)
        } else {
            in_guest(&mut column, &tests, limit, &logs, keeping)
        };
        if let Err(error) = outcome {
            eprintln!("{name}: {error:#}");
            column.broken = Some(error.root_cause().to_string());
        }
        columns.push(column);
    }
    println!("\n{}", table::table(&columns));
    let failed: usize = columns.iter().map(Column::failed).sum();
    let done: usize = columns.iter().map(|column| column.records.len()).sum();
    println!("{done} tests on {} kernels, {failed} failed", columns.len());
    for column in &columns {
        if let Some(why) = &column.broken {
            println!("{} is incomplete: {why}", column.kernel);
        }
    }
    if write {
        write_document(&directory)?;
    }
    Ok(failed == 0)
}

/// One program, in place of tests.
pub(crate) fn exec(kernel: &str, memory: u32, limit: Duration, program: &[String]) -> Result<bool> {
    let kernel = Kernel::find(kernel)?;
    let logs = kernel::directory()?.join("logs/exec");
    // Of a run before.
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs)?;
    let (name, arguments) = program.split_first().context("a program")?;
    let plan = json!({ "exec": paths::program(name)?, "arguments": arguments });
    eprintln!("starting Linux {} in a virtual machine", kernel.version());
    let mut guest = Guest::start(&kernel, &plan.to_string(), memory, limit, &logs)?;
    loop {
        let line = guest.line(limit)?;
        let line = line.with_context(|| format!("it ended before its program did:\n{}", guest.console()))?;
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        match value["ended"].as_bool() {
            Some(well) => return Ok(well),
            None => println!("{}", value["said"].as_str().unwrap_or_default()),
        }
    }
}

fn on_host(column: &mut Column, tests: &[Test], logs: &Path, keeping: Option<&Path>) -> Result<()> {
    let version = nix::sys::utsname::uname().context("uname")?;
    column.what = format!("Linux {}, this machine's own, {}", version.release().to_string_lossy(), today()?);
    column.findings = inside::findings()?;
    inside::perform_all(tests, 1, |record| take(column, record, tests.len(), logs, keeping))
}

fn in_guest(
    column: &mut Column,
    tests: &[Test],
    limit: Duration,
    logs: &Path,
    keeping: Option<&Path>,
) -> Result<()> {
    let kernel = Kernel::find(&column.kernel)?;
    column.what = format!("Linux {}, Debian {}, {}", kernel.version(), kernel.package, today()?);
    let plan = Value::Array(tests.iter().map(Test::to_json).collect()).to_string();
    eprintln!("{}: starting Linux {} in a virtual machine", column.kernel, kernel.version());
    let mut guest = Guest::start(&kernel, &plan, MEMORY, limit, logs)?;
    follow(column, &mut guest, tests.len(), logs, keeping)
        .with_context(|| format!("the end of its console:\n{}", guest.console()))
        .map_err(|error| error.context(format!("after {} of {} tests", column.records.len(), tests.len())))
}

fn follow(
    column: &mut Column,
    guest: &mut Guest,
    all: usize,
    logs: &Path,
    keeping: Option<&Path>,
) -> Result<()> {
    loop {
        let Some(line) = guest.line(TEST_LIMIT + PATIENCE)? else {
            bail!("the virtual machine ended before its tests did");
        };
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(findings) = value["findings"].as_array() {
            column.findings = findings.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            for finding in &column.findings {
                eprintln!("{}: {finding}", column.kernel);
            }
        } else if value["end"] == true {
            ensure!(column.records.len() == all, "{} of {all} tests were run", column.records.len());
            return Ok(());
        } else {
            take(column, Record::from_json(&value)?, all, logs, keeping)?;
        }
    }
}

/// Says what came of a test, and keeps it: a run can be broken off.
fn take(column: &mut Column, record: Record, all: usize, logs: &Path, keeping: Option<&Path>) -> Result<()> {
    let word = match &record.outcome {
        Outcome::Passed => "ok".to_owned(),
        Outcome::Failed => "FAILED".to_owned(),
        Outcome::Lacks(what) => format!("lacks {what}"),
    };
    let number = column.records.len() + 1;
    eprintln!("{} {number}/{all} {}: {word} ({:.1} s)", column.kernel, record.test, record.seconds);
    if record.outcome == Outcome::Failed {
        let log = logs.join(format!("{}.log", record.test.replace("::", "-")));
        fs::write(&log, &record.output)?;
        let lines: Vec<&str> = record.output.lines().collect();
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            eprintln!("    {line}");
        }
        eprintln!("    ({})", log.display());
    }
    column.records.push(record);
    keeping.map_or(Ok(()), |directory| keep(column, directory))
}

/// What has passed on this kernel, or was found to be lacking, by the last that was kept.
fn passed(directory: &Path, kernel: &str) -> Result<Vec<String>> {
    let Ok(text) = fs::read_to_string(result_of(directory, kernel)) else { return Ok(Vec::new()) };
    let records = Column::from_json(&serde_json::from_str(&text)?)?.records;
    let passed = records.into_iter().filter(|record| record.outcome != Outcome::Failed);
    Ok(passed.map(|record| record.test).collect())
}

/// Beside what was found before by tests that were not run this time.
fn keep(column: &Column, directory: &Path) -> Result<()> {
    let path = result_of(directory, &column.kernel);
    let mut records = match fs::read_to_string(&path) {
        Ok(text) => Column::from_json(&serde_json::from_str(&text)?)?.records,
        Err(_) => Vec::new(),
    };
    records.retain(|old| column.records.iter().all(|new| new.test != old.test));
    records.extend(column.records.iter().cloned());
    let whole = Column {
        kernel: column.kernel.clone(),
        what: column.what.clone(),
        findings: column.findings.clone(),
        records,
        broken: None,
    };
    fs::write(path, whole.to_json().to_string())?;
    Ok(())
}

fn result_of(directory: &Path, kernel: &str) -> std::path::PathBuf {
    directory.join(format!("result-{kernel}.json"))
}

fn write_document(directory: &Path) -> Result<()> {
    let mut columns = Vec::new();
    for name in NAMES.into_iter().chain([HOST]) {
        if let Ok(text) = fs::read_to_string(result_of(directory, name)) {
            columns.push(Column::from_json(&serde_json::from_str(&text)?)?);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kernels.md");
    fs::write(&path, table::document(&columns)).with_context(|| path.display().to_string())?;
    println!("written to docs/kernels.md");
    Ok(())
}

fn today() -> Result<String> {
    let said = Command::new("date").args(["-u", "+%F"]).output().context("date")?;
    Ok(String::from_utf8(said.stdout)?.trim().to_owned())
}
