//! `weir-demo [ebpf|tproxy]`: weir at work in the lab, step by step, with what was expected and what was
//! seen. Ends with status 1 if any step differs.

mod report;
mod stage;
mod steps;

use std::process::ExitCode;

use anyhow::{Result, bail};
use weir_tests::components::Backend;
use weir_tests::lab::{Lab, NarrowLink};

use crate::report::Report;
use crate::stage::Stage;

const PICTURE: &str = "
  Four hosts in network namespaces of this machine; nothing of it is on the machine's own network.

      customer                     gateway                      internet
   +--------------+       +----------------------+       +---------------------+
   |   Postfix    |  25   | [kernel: steering]   |  25   |      Postfix        |
   |  10.1.0.2    |------>|      weir-agent      |------>|   10.2.0.2          |
   |  fd01::2     | cust0 |          |           | inet0 |   fd02::2           |
   +--------------+       +----------|-----------+       +---------------------+
                               filt0 |  XCLIENT: who, from where
                          +----------v-----------+
                          |  weir-filter  x 2    |  10.3.0.11, 10.3.0.12
                          |     spamd            |
                          +----------------------+
                                   filter
";

fn main() -> ExitCode {
    match demo() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<bool> {
    let backend = match std::env::args().nth(1).as_deref() {
        None | Some("ebpf") => Backend::Ebpf,
        Some("tproxy") => Backend::Tproxy,
        Some(other) => bail!("unknown back end '{other}'; usage: weir-demo [ebpf|tproxy]"),
    };
    let mut report = Report::new();
    report.heading("weir: port 25 of a customer, intercepted, judged, and passed on from his own address");
    report.text(PICTURE);
    let mut as_expected = false;
    Lab::run("demo", NarrowLink::Nowhere, |lab| {
        let mut stage = Stage::set(lab, backend, &report)?;
        steps::show(&mut stage, &mut report);
        as_expected = report.conclude();
        anyhow::ensure!(as_expected, "not everything was as expected");
        Ok(())
    })?;
    Ok(as_expected)
}
