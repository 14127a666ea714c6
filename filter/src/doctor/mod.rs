//! `weir-filter doctor`: looks at the configuration, the scanners and what else a filter node depends on, whether or not it
//! runs, and says what is wrong and what mends it. It changes nothing; scanners are shown test messages.

mod names;
mod probe;
mod resources;
mod scanners;
mod signatures;

use std::path::Path;

use serde_json::Value;
use weir_daemon::config::load;
use weir_daemon::control;
use weir_daemon::finding::{Finding, Report};

use crate::config::Config;

const CONFIGURATION: &str = "configuration";
const NODE: &str = "filter_node";

/// Checks everything that can be checked.
pub async fn examine(path: &Path) -> Report {
    let config = match load::<Config>(path) {
        Ok(config) => config,
        Err(problems) => {
            let of = |problem: &str| {
                if path.exists() {
                    Finding::problem(CONFIGURATION, problem)
                } else {
                    Finding::unknown(CONFIGURATION, format!("{problem} (--config FILE says where it is)"))
                }
            };
            let mut findings: Vec<Finding> = problems.to_string().lines().map(of).collect();
            findings.push(Finding::skipped("scanners", "cannot be asked before the configuration is read"));
            return Report::new(findings);
        }
    };
    let mut findings = vec![Finding::ok(CONFIGURATION, format!("{} has no problems", path.display()))];
    let running = control::status("filter", None);
    findings.push(match &running {
        Ok(status) => {
            let (pid, version) = (&status["pid"], status["version"].as_str().unwrap_or("?"));
            Finding::ok(NODE, format!("runs (process {pid}, version {version})"))
        }
        Err(reason) => Finding::skipped(NODE, reason.to_string()),
    });
    let pid = running.ok().as_ref().and_then(|status: &Value| status["pid"].as_u64());
    findings.extend(resources::check(&config, pid));
    findings.extend(names::check(&config).await);
    findings.extend(scanners::check(&config).await);
    Report::new(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_problem_of_the_file_is_a_finding() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[smtp]\nlisten = []\nproxies = []\n").unwrap();
        let report = examine(file.path()).await;
        assert_eq!(report.exit_status(), 1);
        let table = report.to_table();
        assert!(table.contains("smtp.listen") && table.contains("smtp.proxies"), "{table}");
        assert_eq!(examine(Path::new("/nowhere/filter.toml")).await.exit_status(), 2);
    }
}
