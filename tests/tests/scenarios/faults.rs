//! `weir-faults` in short. `make faults` is the long form.

use std::process::Command;

use anyhow::{Result, ensure};
use weir_tests::components::Backend;
use weir_tests::lab::paths;

on_both_back_ends!(
    mail_comes_out_as_customers_were_told,
    nodes_killed_every_two_seconds_and_no_customer_sees_it
);

fn mail_comes_out_as_customers_were_told(backend: Backend) -> Result<()> {
    weir_faults(&[
        "run",
        "--messages",
        "4000",
        "--senders",
        "16",
        "--minutes",
        "3",
        "--backend",
        backend.name(),
    ])
}

fn nodes_killed_every_two_seconds_and_no_customer_sees_it(backend: Backend) -> Result<()> {
    weir_faults(&["turns", "--seconds", "10", "--backend", backend.name()])
}

/// It has a lab of its own, and ends with status 1 when a law was broken.
fn weir_faults(arguments: &[&str]) -> Result<()> {
    let output = Command::new(paths::program("weir-faults")?).args(arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "weir-faults {arguments:?}: {}\n{text}\n{errors}", output.status);
    eprintln!("{text}");
    Ok(())
}
