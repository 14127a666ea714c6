//! What processes use.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};

/// Seconds of a processor that these processes, and those of theirs that have ended, have used so far.
pub(crate) fn cpu(pids: &[u32]) -> Result<f64> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("clock ticks of a second")? as f64;
    let mut ticks = 0.0;
    for pid in pids {
        ticks += read(*pid)?;
    }
    Ok(ticks / per_second)
}

fn read(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name of the program, in parentheses, may have spaces in it.
    let fields = text.rsplit_once(')').context("fields of a process")?.1;
    ensure!(!fields.trim_start().starts_with('Z'), "process {pid} has ended");
    // utime, stime, and those of children that were waited for: proc_pid_stat(5).
    let times = fields.split_whitespace().skip(11).take(4).map(str::parse::<f64>);
    times.sum::<Result<f64, _>>().with_context(|| path)
}

/// Kilobytes that these processes have in memory.
pub(crate) fn resident(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/status");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        sum += line.trim().trim_end_matches(" kB").parse::<u64>()?;
    }
    Ok(sum)
}

/// The processes of a group, whose first has this number.
pub(crate) fn group(first: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that has just ended is in no group.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let group = text.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2)?.parse().ok());
        if group == Some(first) {
            found.push(pid);
        }
    }
    Ok(found)
}
