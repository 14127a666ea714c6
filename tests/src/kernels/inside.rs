//! Runs tests on the kernel that this process is on, each by itself, and says what came of each.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use weir_tests::lab::paths;
use weir_tests::wait::SLOWNESS;

use crate::initramfs::PLAN;
use crate::plan::Test;
use crate::record::{Outcome, Record};

/// The longest takes half a minute on a machine with nothing else to do; emulated, on a very busy one, ten minutes.
pub(crate) const TEST_LIMIT: Duration = Duration::from_secs(900);

/// An emulated machine's processors are ten times slower, and may have few of the real ones' time.
const EMULATED: u32 = 6;

/// A test waits more than it works, and each has network namespaces of its own.
const AT_A_TIME: usize = 3;

/// Of a program that is run in place of tests.
const OPEN_FILES: u64 = 600_000;

/// As much of what a failed test said as is kept.
const SHOWN: usize = 12_000;

/// A line that a test prints instead of a check that the kernel makes impossible.
const LACKS: &str = "lacks: ";

/// The guest's part: does what the plan says, and prints a line of JSON for each test.
pub(crate) fn run() -> Result<()> {
    let plan: Value = serde_json::from_slice(&fs::read(PLAN).context(PLAN)?)?;
    let out = std::io::stdout();
    let say = |value: &Value| -> Result<()> {
        writeln!(out.lock(), "{value}")?;
        Ok(())
    };
    if let Some(program) = plan["exec"].as_str() {
        return exec(program, &plan["arguments"], say);
    }
    say(&json!({ "findings": findings()? }))?;
    let plan = plan.as_array().context("a list of tests")?;
    let tests = plan.iter().map(Test::from_json).collect::<Result<Vec<_>>>()?;
    let mut failed = Vec::new();
    perform_all(&tests, EMULATED, |record| {
        if record.outcome != Outcome::Failed {
            return say(&record.to_json());
        }
        failed.push(record.test);
        Ok(())
    })?;
    // A heart that must beat every half a second is not heard beside two other tests, on an emulated processor.
    for test in tests.iter().filter(|test| failed.contains(&test.name)) {
        say(&perform(test, EMULATED)?.to_json())?;
    }
    say(&json!({ "end": true }))
}

/// Runs a program, and says what it says. Its files are limited by nothing but the kernel's own limit.
fn exec(program: &str, arguments: &Value, say: impl Fn(&Value) -> Result<()>) -> Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).context("the limit of open files")?;
    let arguments = arguments.as_array().context("arguments")?.iter().filter_map(Value::as_str);
    let (said, out) = std::io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).env(SLOWNESS, EMULATED.to_string()).stdin(Stdio::null());
    let mut child = command.stdout(out.try_clone()?).stderr(out).spawn().context(program.to_owned())?;
    // Its own ends of the pipe; or there would be no end of it.
    drop(command);
    for line in BufReader::new(said).lines() {
        say(&json!({ "said": line? }))?;
    }
    say(&json!({ "ended": child.wait()?.success() }))
}

/// Runs the tests, some at a time, and gives out what came of each when it has ended.
pub(crate) fn perform_all(
    tests: &[Test],
    slowness: u32,
    mut done: impl FnMut(Record) -> Result<()>,
) -> Result<()> {
    let left = Mutex::new(tests.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let (records, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            let records = records.clone();
            scope.spawn(move || {
                // The other end is gone when the results cannot be told any more.
                while let Some(test) = next() {
                    if records.send(perform(test, slowness)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(records);
        results.into_iter().try_for_each(|record| done(record?))
    })
}

/// Runs one test to its end.
fn perform(test: &Test, slowness: u32) -> Result<Record> {
    let start = Instant::now();
    let mut output = tempfile()?;
    let mut command = Command::new(&test.program);
    command.args(["--exact", &test.name, "--show-output", "--test-threads=1"]).current_dir(&test.directory);
    command.env(SLOWNESS, slowness.to_string());
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?).process_group(0);
    let mut child = command.spawn().with_context(|| test.program.display().to_string())?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > TEST_LIMIT {
            // Its labs end with it.
            killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    output.rewind()?;
    let mut said = Vec::new();
    output.read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said);
    let lacks = said.lines().find_map(|line| line.trim().strip_prefix(LACKS));
    let (outcome, output) = match (status, lacks) {
        (None, _) => (Outcome::Failed, format!("{}\nkilled after {} s", tail(&said), TEST_LIMIT.as_secs())),
        (Some(status), _) if !status.success() => (Outcome::Failed, tail(&said).to_owned()),
        (Some(_), Some(what)) => (Outcome::Lacks(what.to_owned()), String::new()),
        (Some(_), None) => (Outcome::Passed, String::new()),
    };
    Ok(Record { test: test.name.clone(), outcome, output, seconds: start.elapsed().as_secs_f64() })
}

/// What the agent finds out about this kernel by trying.
pub(crate) fn findings() -> Result<Vec<String>> {
    let mut words = Vec::new();
    for backend in ["ebpf", "tproxy"] {
        let mut config = tempfile()?;
        write!(
            config,
            "[steering]\nbackend = {backend:?}\ncustomer_interfaces = [\"lo\"]\ninternet_interfaces = [\"lo\"]\n\
             [customers]\nprefixes = [\"10.1.0.0/16\", \"fd01::/32\"]\n[filter]\nnodes = [\"127.0.0.1:1\"]\n"
        )?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&config));
        let mut command = Command::new(paths::program("weir-agent")?);
        let said =
            command.args(["doctor", "--json", "--config", &path]).output().context("weir-agent doctor")?;
        let said: Value = serde_json::from_slice(&said.stdout)
            .with_context(|| format!("weir-agent doctor: {}", String::from_utf8_lossy(&said.stderr)))?;
        let about_kernel = ["back_end", "write_access", "bpf_jit"];
        for finding in said["findings"].as_array().context("findings")? {
            if about_kernel.iter().any(|check| finding["check"] == *check) && finding["state"] != "skipped" {
                let line = finding["words"].as_str().unwrap_or_default().to_owned();
                if !words.contains(&line) {
                    words.push(line);
                }
            }
        }
    }
    Ok(words)
}

/// A file without a name.
fn tempfile() -> Result<File> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("weir-kernels-{}-{number}", std::process::id()));
    let file =
        File::options().read(true).write(true).create_new(true).open(&path).context("a file in /tmp")?;
    fs::remove_file(path)?;
    Ok(file)
}

fn tail(text: &str) -> &str {
    let mut start = text.len().saturating_sub(SHOWN);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
