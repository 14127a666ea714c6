//! A handful of the tests of steering on the oldest kernel, in a virtual machine: `make test-kernels` is the whole.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use weir_tests::lab::paths;

/// Of minutes. It takes one on a machine with nothing else to do.
const LIMIT: &str = "15";

#[test]
fn a_handful_on_the_oldest() -> Result<()> {
    let runner = paths::program("weir-kernels")?;
    let mut command = Command::new("setpriv");
    // It ends its virtual machine when it ends itself.
    command.args(["--pdeathsig", "KILL"]).arg(runner);
    command.args(["run", "--kernel", "5.10", "--quick", "--minutes", LIMIT]).stdin(Stdio::null());
    let output = command.output().context("setpriv (of util-linux)")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "{said}");
    println!("{said}");
    Ok(())
}
