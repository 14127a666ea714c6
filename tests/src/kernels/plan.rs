//! What is run on each kernel: test programs that are built for this machine, and which of their tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weir_tests::lab::paths;

/// Test programs, by directory and target, and the beginnings of the names of those of their tests that a kernel matters to.
const PROGRAMS: [(&str, &str, &[&str]); 2] = [
    ("agent", "weir_agent", &["steer::", "transparent::", "privileges::"]),
    (
        "tests",
        "scenarios",
        &[
            "around::",
            "blocked::",
            "coexistence::",
            "death::",
            "delivery::",
            "doctor::ebpf::what_a_dead_agent_left",
            "doctor::tproxy::what_a_dead_agent_left",
            "exempt::ebpf::restarts_keep_it",
            "exempt::ebpf::the_path_of_an_exempt_pair",
            "exempt::tproxy::restarts_keep_it",
            "exempt::tproxy::the_path_of_an_exempt_pair",
            "host_settings::",
            "interfaces::",
            "kill_under_load::",
            "limits::",
            "narrow_link::",
            "nat::",
            "on_the_way::",
            "prefixes::",
            "privileges::",
            "release::",
            "remains::",
            "return_path::",
            "scope::",
            "take_over::",
        ],
    ),
];

/// A minute's worth, for every run of the tests.
pub(crate) const QUICK: [&str; 8] = [
    "steer::ebpf::tests::new_connections_with_and_without_a_listener",
    "steer::ebpf::tests::ways_around_are_dropped",
    "steer::ebpf::tests::an_agent_that_is_silent_is_hung_until_it_beats_again",
    "steer::ebpf::policy_tests::blocked_customers_are_refused_with_and_without_a_listener",
    "steer::ebpf::policy_tests::limits_of_connections_and_of_their_rate",
    "steer::tests::interfaces_that_are_left_out_are_free_again",
    "steer::tests::one_agent_at_a_time",
    "delivery::ebpf::over_ipv6",
];

/// One test of one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) program: PathBuf,
    /// Where cargo runs it.
    pub(crate) directory: PathBuf,
    pub(crate) name: String,
}

impl Test {
    pub(crate) fn to_json(&self) -> Value {
        json!({ "program": self.program, "directory": self.directory, "name": self.name })
    }

    pub(crate) fn from_json(value: &Value) -> Result<Self> {
        let text =
            |key: &str| value[key].as_str().map(str::to_owned).with_context(|| format!("{key} of a test"));
        Ok(Self {
            program: text("program")?.into(),
            directory: text("directory")?.into(),
            name: text("name")?,
        })
    }
}

/// The tests whose names begin with one of `only`; with none of these: all.
pub(crate) fn tests(only: &[String]) -> Result<Vec<Test>> {
    let mut tests = Vec::new();
    let built = build()?;
    for (place, target, wanted) in PROGRAMS {
        let directory = workspace()?.join(place);
        let program = find(&built, &directory, target)?;
        for name in list(&program)? {
            let chosen = only.is_empty() || only.iter().any(|beginning| name.starts_with(beginning.as_str()));
            if chosen && wanted.iter().any(|beginning| name.starts_with(beginning)) {
                tests.push(Test { program: program.clone(), directory: directory.clone(), name });
            }
        }
    }
    ensure!(!tests.is_empty(), "no test has a name that begins with {}", only.join(" or "));
    Ok(tests)
}

/// Has cargo build all test programs, as it does for `make test`; so mostly they are there already. Its words.
fn build() -> Result<String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--locked", "--no-run", "--message-format=json-render-diagnostics"]);
    if paths::executables()?.ends_with("release") {
        command.arg("--release");
    }
    // What cargo says to a test that it runs: a build script (ring's) that heard it would begin anew, and with it nearly all.
    let of_a_test = |name: &str| {
        ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_EXE_"].iter().any(|begin| name.starts_with(begin))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_a_test)) {
        command.env_remove(name);
    }
    let output = command.current_dir(workspace()?).stderr(Stdio::inherit()).output().context("cargo")?;
    ensure!(output.status.success(), "the tests cannot be built");
    Ok(String::from_utf8(output.stdout)?)
}

/// Where cargo has put a test program.
fn find(built: &str, directory: &Path, target: &str) -> Result<PathBuf> {
    for line in built.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let manifest = message["manifest_path"].as_str().map(Path::new);
        let is_it = manifest.and_then(Path::parent) == Some(directory) && message["target"]["name"] == target;
        if is_it && message["profile"]["test"] == true {
            return message["executable"].as_str().map(PathBuf::from).context("a test program's path");
        }
    }
    bail!("cargo has built no test program {target} in {}", directory.display())
}

fn list(program: &Path) -> Result<Vec<String>> {
    let ask = |arguments: &[&str]| {
        let output =
            Command::new(program).args(arguments).output().with_context(|| program.display().to_string())?;
        let said = String::from_utf8(output.stdout)?;
        anyhow::Ok(
            said.lines()
                .filter_map(|line| line.strip_suffix(": test"))
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    };
    let ignored = ask(&["--list", "--format", "terse", "--ignored"])?;
    Ok(ask(&["--list", "--format", "terse"])?.into_iter().filter(|name| !ignored.contains(name)).collect())
}

fn workspace() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("directory of the workspace")?.to_path_buf())
}
