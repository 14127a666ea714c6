//! Directories and descriptors.

use std::fs;
use std::path::Path;

use weir_daemon::finding::Finding;
use weir_daemon::host::{open_files, writable};

use crate::config::Config;
use crate::descriptors::needed;

const COUNTERS: &str = "counters_file";
const SPOOL: &str = "spool";
const DESCRIPTORS: &str = "descriptors";

/// `pid`: the node that runs.
pub(super) fn check(config: &Config, pid: Option<u64>) -> Vec<Finding> {
    vec![counters(&config.counters.file, pid), spool(&config.spool.directory, pid), descriptors(config, pid)]
}

fn counters(file: &Path, pid: Option<u64>) -> Finding {
    let shown = file.display();
    if file.as_os_str().is_empty() {
        return Finding::warning(COUNTERS, "counters.file is empty: every restart forgets what was sent");
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    match writable(directory, pid) {
        Ok(()) => Finding::ok(COUNTERS, format!("{shown} can be written")),
        Err(error) => {
            let words = format!("counters.file: no file can be made in {}: {error}", directory.display());
            Finding::problem(COUNTERS, words)
                .mended_by(format!("install -d -m 0750 -o weir-filter {}", directory.display()))
        }
    }
}

fn spool(directory: &Path, pid: Option<u64>) -> Finding {
    let shown = directory.display();
    match writable(directory, pid) {
        Ok(()) => Finding::ok(SPOOL, format!("files can be made in {shown}")),
        Err(error) => {
            let words = format!(
                "spool.directory: no file can be made in {shown}: {error}; messages longer than spool.memory_per_message are \
                 deferred"
            );
            Finding::problem(SPOOL, words).mended_by(format!("install -d -m 0700 -o weir-filter {shown}"))
        }
    }
}

fn descriptors(config: &Config, pid: Option<u64>) -> Finding {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let Some((soft, hard)) = open_files(&limits) else {
        return Finding::unknown(DESCRIPTORS, format!("/proc/{process}/limits cannot be read"));
    };
    let (sessions, needed) = (config.smtp.max_sessions, needed(config));
    // A node raises the one to the other when it starts.
    let (limit, whose) =
        if pid.is_some() { (soft, "the running node") } else { (hard, "a node started from here") };
    if limit >= needed {
        let words = format!("{limit} files for {whose}: enough for smtp.max_sessions, {sessions}");
        return Finding::ok(DESCRIPTORS, words);
    }
    let words = format!(
        "{limit} files for {whose}, and {needed} are needed for smtp.max_sessions, {sessions}: set LimitNOFILE={needed} in \
         the service, or lower smtp.max_sessions"
    );
    Finding::warning(DESCRIPTORS, words).mended_by(match pid {
        Some(pid) => format!("prlimit --pid {pid} --nofile={needed}:{}", hard.max(needed)),
        None => format!("ulimit -Hn {needed}"),
    })
}

#[cfg(test)]
mod tests {
    use weir_daemon::finding::State;

    use super::*;

    #[test]
    fn what_is_too_little_is_said_with_what_mends_it() {
        let text = "[smtp]\nlisten = [\"[::1]:10025\"]\nproxies = [\"::1/128\"]\nmax_sessions = 900000000\n\
                    [counters]\nfile = \"/nowhere/at/all/counters\"\n[spool]\ndirectory = \"/nowhere\"\n";
        let config: Config = weir_daemon::config::parse("filter.toml", text).unwrap();
        let findings = check(&config, None);
        let states: Vec<State> = findings.iter().map(|finding| finding.state).collect();
        assert_eq!(states, [State::Problem, State::Problem, State::Warning]);
        assert!(findings.iter().all(|finding| finding.command.is_some()));
        assert_eq!(counters(Path::new(""), None).state, State::Warning);
    }
}
