//! Everything of a host that a program could leave behind, as text, so that two moments can be compared.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use nix::errno::Errno;
use nix::net::if_::if_nameindex;

use super::host::Host;
use super::root::UPPER;

const COMMANDS: [(&str, &str); 9] = [
    ("links", "ip -d link"),
    ("addresses", "ip address"),
    ("rules", "ip rule; ip -6 rule"),
    ("routes", "ip route show table all; ip -6 route show table all"),
    ("queueing disciplines", "tc qdisc show"),
    (
        "tc filters",
        "for i in /sys/class/net/*; do tc filter show dev ${i##*/} ingress; tc filter show dev ${i##*/} egress; done",
    ),
    ("nftables", "nft list ruleset"),
    ("listening sockets", "ss -Hltn | awk '{ print $4 }' | sort"),
    ("processes", "for i in /proc/[0-9]*/comm; do cat $i 2>/dev/null; done | grep ^weir"),
];

/// Directories whose files are listed. Of the root only what was written since the host started.
const DIRECTORIES: [(&str, &str); 4] =
    [("files", UPPER), ("BPF file system", "/sys/fs/bpf"), ("/run", "/run"), ("/tmp", "/tmp")];

const KERNEL_SETTINGS: [&str; 4] =
    ["/proc/sys/net/ipv4", "/proc/sys/net/ipv6", "/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<&'static str, String>);

impl Snapshot {
    pub fn of(host: &Host) -> Result<Self> {
        let mut parts = BTreeMap::new();
        for (part, command) in COMMANDS {
            parts.insert(part, host.sh(&format!("{command}; true"))?);
        }
        parts.insert("TCX programs", host.in_network(tcx_programs)?);
        let files = host.inside(|| {
            DIRECTORIES
                .iter()
                .map(|(part, directory)| Ok((*part, listing(Path::new(directory))?)))
                .collect::<Result<Vec<_>>>()
        })?;
        parts.extend(files);
        parts.insert("kernel settings", host.inside(kernel_settings)?);
        Ok(Self(parts))
    }

    /// What is in `self` and not in `earlier` (`+`), and the other way round (`-`); empty if they are equal.
    pub fn changes_since(&self, earlier: &Self) -> String {
        let mut changes = String::new();
        for (part, now) in &self.0 {
            let before = earlier.0.get(part).map_or("", String::as_str);
            let missing = before.lines().filter(|line| !now.lines().any(|other| other == *line));
            let added = now.lines().filter(|line| !before.lines().any(|other| other == *line));
            for (sign, line) in missing.map(|line| ('-', line)).chain(added.map(|line| ('+', line))) {
                changes += &format!("{part}: {sign} {line}\n");
            }
        }
        changes
    }
}

/// Programs attached with TCX, which ip(8), tc(8) and bpftool(8) of Debian 12 do not show.
fn tcx_programs() -> Result<String> {
    let mut found = String::new();
    for interface in &if_nameindex()? {
        let name = interface.name().to_string_lossy();
        for (direction, kind) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
            let programs = match SchedClassifier::query_tcx(&name, kind) {
                Ok((_, programs)) => programs,
                // A kernel without TCX; its filters are listed by tc(8).
                Err(error) if has_errno(&error, Errno::EINVAL) => return Ok(String::new()),
                Err(error) => {
                    return Err(error).with_context(|| format!("ask for TCX programs of {name}"));
                }
            };
            for program in programs {
                writeln!(found, "{name} {direction} {}", program.name_as_str().unwrap_or("?"))?;
            }
        }
    }
    Ok(found)
}

fn has_errno(error: &(dyn std::error::Error + 'static), wanted: Errno) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let found = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if found == Some(wanted as i32) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn listing(directory: &Path) -> Result<String> {
    let mut lines = String::new();
    let device = fs::metadata(directory)?.dev();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let path = entry.path();
        writeln!(lines, "{}", path.display())?;
        // What is mounted below belongs to the machine.
        if entry.file_type()?.is_dir() && entry.metadata()?.dev() == device {
            lines += &listing(&path)?;
        }
    }
    Ok(lines)
}

/// Network settings of the kernel: those of all interfaces, and the general ones.
fn kernel_settings() -> Result<String> {
    let mut lines = String::new();
    for directory in KERNEL_SETTINGS {
        for entry in fs::read_dir(directory)?.flatten() {
            let values = if entry.file_type()?.is_dir() && directory.ends_with("conf") {
                fs::read_dir(entry.path())?.flatten().map(|file| file.path()).collect()
            } else {
                vec![entry.path()]
            };
            for file in values {
                // Some may only be written, some hold keys.
                let Ok(value) = fs::read_to_string(&file) else { continue };
                writeln!(lines, "{} {}", file.display(), value.trim())?;
            }
        }
    }
    Ok(lines)
}
