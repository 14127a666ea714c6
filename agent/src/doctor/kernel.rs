//! The kernel, what it lets us do, and its clock.

use std::path::Path;

use caps::{CapSet, Capability};
use landlock::RulesetStatus;

use super::Host;
use super::finding::Finding;
use crate::config::{Backend, WhenAgentDies};
use crate::privileges;
use crate::steer::{is_in_bpffs, kernel_version, trial};

const KERNEL: &str = "kernel";
const CAPABILITIES: &str = "capabilities";
const BACK_END: &str = "back_end";
const PINS: &str = "bpf_file_system";
const WRITE_ACCESS: &str = "write_access";
const CLOCK: &str = "clock";

/// The oldest that the program was tried on.
const OLDEST: (u32, u32) = (5, 10);

/// All of it.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    let backend = host.plan.backend;
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let mut findings = vec![
        version(&release.unwrap_or_default(), backend),
        capabilities(host),
        clock(is_synchronised()),
        pins(host),
        write_access(privileges::write_access()),
    ];
    if backend == Backend::External {
        findings.push(Finding::skipped(BACK_END, "external: the rules are your own"));
    } else {
        findings.push(back_end(host));
    }
    findings
}

fn version(release: &str, backend: Backend) -> Finding {
    match kernel_version(release) {
        Some(version) if version < OLDEST && backend == Backend::Ebpf => Finding::problem(
            KERNEL,
            format!("{release} is older than {}.{}: use steering.backend = \"tproxy\"", OLDEST.0, OLDEST.1),
        ),
        Some(_) => Finding::ok(KERNEL, release),
        None => Finding::unknown(KERNEL, format!("{release:?} is no version")),
    }
}

/// What a start needs of them.
pub(super) fn needed(backend: Backend, closed: bool) -> Vec<Capability> {
    let mut needed = vec![Capability::CAP_NET_ADMIN];
    if backend == Backend::Ebpf {
        needed.extend([Capability::CAP_BPF, Capability::CAP_PERFMON]);
        if closed {
            // A BPF file system is for root: pins are made in directories of his.
            needed.push(Capability::CAP_DAC_OVERRIDE);
        }
    }
    needed
}

fn capabilities(host: &Host) -> Finding {
    let closed = host.plan.when_agent_dies == WhenAgentDies::Closed;
    let held = match caps::read(None, CapSet::Effective) {
        Ok(held) => held,
        Err(error) => return Finding::unknown(CAPABILITIES, error.to_string()),
    };
    let (is_root, needed) = (nix::unistd::geteuid().is_root(), needed(host.plan.backend, closed));
    let names = |all: &[Capability]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let lacking: Vec<Capability> = needed
        .iter()
        .copied()
        .filter(|capability| {
            !(held.contains(capability) || is_root && *capability == Capability::CAP_DAC_OVERRIDE)
        })
        .collect();
    if lacking.is_empty() {
        return Finding::ok(CAPABILITIES, format!("those that a start needs are held: {}", names(&needed)));
    }
    let words =
        format!("{} not held, and a start needs them; not everything could be tried", names(&lacking));
    if is_root {
        Finding::problem(CAPABILITIES, format!("{words}: something (a container?) has taken them from root"))
    } else {
        Finding::unknown(CAPABILITIES, format!("{words}: run it as root"))
    }
}

/// Everything that a start installs is tried, where nothing of it stays.
fn back_end(host: &Host) -> Finding {
    match trial(&host.plan) {
        Ok(words) => Finding::ok(BACK_END, words),
        Err(error) if nix::unistd::geteuid().is_root() => {
            let words = error.to_string();
            let finding = Finding::problem(BACK_END, &words);
            if words.contains("nft could not be started") {
                finding.mended_by("apt-get install nftables")
            } else {
                finding
            }
        }
        Err(error) => Finding::unknown(BACK_END, error.to_string()),
    }
}

/// Whether the kernel keeps the agent from writing elsewhere than its configuration says.
fn write_access(tried: Result<RulesetStatus, String>) -> Finding {
    match tried {
        Ok(RulesetStatus::FullyEnforced) => {
            Finding::ok(WRITE_ACCESS, "the kernel restricts where the agent writes (Landlock)")
        }
        Ok(RulesetStatus::PartiallyEnforced) => Finding::ok(
            WRITE_ACCESS,
            "the kernel restricts where the agent writes as far as it can: its Landlock is an old one",
        ),
        Ok(RulesetStatus::NotEnforced) => Finding::warning(
            WRITE_ACCESS,
            "this kernel has no Landlock: where the agent writes is not restricted beyond what its user may",
        ),
        Err(error) => Finding::unknown(WRITE_ACCESS, error),
    }
}

fn pins(host: &Host) -> Finding {
    if host.plan.backend != Backend::Ebpf {
        return Finding::skipped(PINS, "needed for backend \"ebpf\" only");
    }
    let directory = &host.plan.pin_directory;
    let parent = directory.parent().unwrap_or(Path::new("/"));
    if is_in_bpffs(parent) {
        return Finding::ok(PINS, format!("{} is in one", directory.display()));
    }
    let command = format!("mount -t bpf bpf {}", parent.display());
    let what_for = match host.plan.when_agent_dies {
        WhenAgentDies::Open => "for `weir-agent block`",
        WhenAgentDies::Closed => "for \"closed\"",
    };
    if parent.is_dir() {
        let words = format!(
            "{} is none: {what_for} the agent mounts one at its start, for which it must be root",
            parent.display()
        );
        return Finding::warning(PINS, words).mended_by(command);
    }
    let (words, command) = (
        format!("steering.pin_directory: {} does not exist, and is needed {what_for}", parent.display()),
        format!("mkdir -p {} && {command}", parent.display()),
    );
    match host.plan.when_agent_dies {
        WhenAgentDies::Open => Finding::warning(PINS, words).mended_by(command),
        WhenAgentDies::Closed => Finding::problem(PINS, words).mended_by(command),
    }
}

fn clock(synchronised: Option<bool>) -> Finding {
    match synchronised {
        Some(true) => Finding::ok(CLOCK, "synchronised"),
        Some(false) => Finding::warning(
            CLOCK,
            "not synchronised: times in logs are off, and certificates of filter nodes may seem out of date",
        )
        .mended_by("timedatectl set-ntp true"),
        None => Finding::unknown(CLOCK, "the kernel does not say whether it is synchronised"),
    }
}

/// What the kernel knows of it: a daemon that keeps the time tells it (STA_UNSYNC).
#[expect(unsafe_code, reason = "adjtimex has no safe wrapper here")]
fn is_synchronised() -> Option<bool> {
    // SAFETY: all bits 0 is a `timex` that asks and sets nothing (`modes` is 0).
    let mut timex: nix::libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` of ours, which the kernel fills.
    let state = unsafe { nix::libc::adjtimex(&raw mut timex) };
    (state >= 0).then_some(timex.status & nix::libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn old_kernels_are_for_tproxy() {
        let state = |release, backend| version(release, backend).state;
        assert_eq!(state("5.4.0-100-generic", Backend::Ebpf), State::Problem);
        assert_eq!(state("5.4.0-100-generic", Backend::Tproxy), State::Ok);
        assert_eq!(state("5.10.0-28-amd64", Backend::Ebpf), State::Ok);
        assert_eq!(state("6.1", Backend::Ebpf), State::Ok);
        assert_eq!(state("", Backend::Ebpf), State::Unknown);
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_a_warning() {
        assert_eq!(clock(Some(false)).state, State::Warning);
        assert_eq!(clock(Some(true)).state, State::Ok);
    }
}
