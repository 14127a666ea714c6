//! What a message takes: system calls, allocations, packets.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_tests::components::Backend;
use weir_tests::lab::{Lab, NarrowLink};

use crate::cell::Cell;
use crate::path::{Part, Path as Way};
use crate::profile::under_load;
use crate::stage::Stage;

#[derive(clap::Args)]
pub(crate) struct Count {
    /// Seconds that are looked at
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// The file that is written (Markdown)
    #[arg(long)]
    to: PathBuf,
}

const WAYS: [Way; 3] = [Way::Haproxy, Way::Bypass(Backend::Ebpf), Way::Filter(Backend::Ebpf)];

/// Each message has a connection of its own, so that connections are what messages are.
const CELLS: &str = ", 10 connections, one message each";

/// System calls with a column of their own.
const CALLS: [(&str, &[&str]); 6] = [
    ("reads", &["recvfrom", "recvmsg", "read", "readv"]),
    ("writes", &["sendto", "sendmsg", "write", "writev"]),
    ("epoll_wait", &["epoll_wait", "epoll_pwait"]),
    ("epoll_ctl", &["epoll_ctl"]),
    ("futex", &["futex"]),
    ("bpf", &["bpf"]),
];

/// What allocates, in libc.
const ALLOCATORS: [&str; 4] = ["malloc", "calloc", "realloc", "posix_memalign"];

/// A connection that was accepted.
const ACCEPTED: &str = "syscalls:sys_exit_accept4";

impl Count {
    pub(crate) fn write(&self) -> Result<()> {
        let time = Duration::from_secs(self.seconds);
        let mut page = "# What a message takes\n\n`make profile` writes this page. System calls of each part of a way, allocations \
                        (`malloc` and its kin) and packets that pass the gateway's\ninterfaces, in and out (packets of large messages are up to 64 KiB \
                        here, as virtual interfaces have them), for one message; ten\nconnections at a time, one message each.\n\n"
            .to_owned();
        let calls: Vec<&str> = CALLS.iter().map(|(name, _)| *name).collect();
        page += &format!(
            "| message | way | part | system calls | {} | allocations | packets |\n|{}\n",
            calls.join(" | "),
            "---|".repeat(calls.len() + 6)
        );
        Lab::run("count", NarrowLink::Nowhere, |lab| {
            let stage = Stage::set(lab)?;
            for cell in Cell::all().into_iter().filter(|cell| cell.name().ends_with(CELLS)) {
                for way in WAYS {
                    eprintln!("{}: {}", cell.name(), way.name());
                    let route = way.open(&stage)?;
                    let parts = &route.parts;
                    // Customers' connections come to it.
                    let front = parts.iter().position(|part| part.name != "nodes").context("a gateway")?;
                    let probes = Probes::set(parts[front].pids[0])?;
                    let look = || count(parts, front, time, &probes);
                    let found = under_load(&stage, &route, way, cell, time, look)?;
                    for row in found {
                        page += &format!("| {} | {} | {row} |\n", cell.size_name(), way.name());
                    }
                }
            }
            Ok(())
        })?;
        fs::write(&self.to, page)?;
        println!("written to {}", self.to.display());
        Ok(())
    }
}

/// A row for each part.
fn count(parts: &[Part], front: usize, time: Duration, probes: &Probes) -> Result<Vec<String>> {
    let gateway = parts[front].pids[0];
    let before = packets(gateway)?;
    let counting: Result<Vec<Child>> = parts.iter().map(|part| stat(&part.pids, time, probes)).collect();
    let counted: Result<Vec<_>> = counting?.into_iter().map(read).collect();
    let (counted, packets) = (counted?, packets(gateway)? - before);
    let messages = counted[front].get(ACCEPTED).copied().unwrap_or_default();
    ensure!(messages > 0, "nothing passed");
    let each = |number: u64| format!("{:.1}", number as f64 / messages as f64);
    let row = |(part, counts): (&Part, &BTreeMap<String, u64>)| {
        let sum = |names: &[&str]| names.iter().filter_map(|name| counts.get(*name)).sum::<u64>();
        let calls = CALLS.iter().map(|(_, names)| {
            let events: Vec<String> = names.iter().map(|name| format!("syscalls:sys_enter_{name}")).collect();
            each(sum(&events.iter().map(String::as_str).collect::<Vec<_>>()))
        });
        let allocations = ALLOCATORS.map(|name| probes.event(name));
        let mut fields = vec![part.name.to_owned(), each(sum(&["raw_syscalls:sys_enter"]))];
        fields.extend(calls);
        fields.push(each(sum(&allocations.each_ref().map(String::as_str))));
        fields.push(if part.name == parts[front].name { each(packets) } else { String::new() });
        fields.join(" | ")
    };
    Ok(parts.iter().zip(&counted).map(row).collect())
}

fn stat(pids: &[u32], time: Duration, probes: &Probes) -> Result<Child> {
    let calls = CALLS.iter().flat_map(|(_, names)| *names).map(|name| format!("syscalls:sys_enter_{name}"));
    let allocators = ALLOCATORS.iter().map(|name| probes.event(name));
    let events: Vec<String> =
        std::iter::once("raw_syscalls:sys_enter".to_owned()).chain(calls).chain(allocators).collect();
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut perf = Command::new("perf");
    perf.args(["stat", "--field-separator", ",", "--event", &events.join(",")]);
    perf.args(["--event", ACCEPTED, "--filter", "ret >= 0", "--pid", &pids.join(",")]);
    perf.args(["--", "sleep", &time.as_secs().to_string()]);
    perf.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("perf (Debian: linux-perf)")
}

/// How often each event was seen.
fn read(counting: Child) -> Result<BTreeMap<String, u64>> {
    let output = counting.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "perf stat: {said}");
    let line = |line: &str| {
        let mut fields = line.split(',');
        let count = fields.next()?.parse().ok()?;
        Some((fields.nth(1)?.to_owned(), count))
    };
    Ok(said.lines().filter_map(line).collect())
}

/// Packets in and out of all interfaces but `lo`, where this process is.
fn packets(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/net/dev");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let mut sum = 0;
    for line in text.lines() {
        let Some((name, counters)) = line.split_once(':').filter(|(name, _)| name.trim() != "lo") else {
            continue;
        };
        let counters: Vec<u64> =
            counters.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        // proc_pid_net(5): octets and packets, received from the first column on, sent from the ninth.
        sum += counters
            .get(1)
            .zip(counters.get(9))
            .map(|(received, sent)| received + sent)
            .context(name.to_owned())?;
    }
    Ok(sum)
}

/// Points in libc at which the kernel counts, for all processes. Taken away when dropped.
struct Probes {
    group: String,
}

impl Probes {
    /// In the libc of this process.
    fn set(pid: u32) -> Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let libc = maps.split_whitespace().find(|field| field.ends_with("/libc.so.6"));
        let libc = Path::new(libc.context("the program has no libc")?);
        let probes = Self { group: format!("weir_bench_{}", std::process::id()) };
        for name in ALLOCATORS {
            let mut perf = Command::new("perf");
            perf.args(["probe", "--quiet", "--exec"]).arg(libc);
            let output = perf.args(["--add", &format!("{}={name}", probes.event(name))]).output()?;
            ensure!(output.status.success(), "perf probe: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(probes)
    }

    fn event(&self, name: &str) -> String {
        format!("{}:{name}", self.group)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        let mut perf = Command::new("perf");
        perf.args(["probe", "--quiet", "--del", &format!("{}:*", self.group)]);
        if !perf.status().is_ok_and(|status| status.success()) {
            eprintln!("probes of {} are left: perf probe --del '{}:*'", self.group, self.group);
        }
    }
}
