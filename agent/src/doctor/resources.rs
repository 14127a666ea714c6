//! Descriptors, memory, disk, the listener's port.

use std::fs;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weir_daemon::host::{open_files, writable};

use super::finding::Finding;
use super::{Agent, Host};
use crate::config::Config;
use crate::descriptors;

const DESCRIPTORS: &str = "descriptors";
const MEMORY: &str = "memory";
const SPOOL: &str = "spool";
const STATE: &str = "state_directory";
const PORT: &str = "listen_port";

/// Bytes that a session may hold unread, whatever all together may.
const PER_SESSION: u64 = 64 * 1024;

/// All of them.
pub(super) fn check(host: &Host) -> Vec<Finding> {
    let config = &host.config;
    let pid = host.agent.as_ref().map(|agent| u64::from(agent.pid));
    vec![
        files(config, host.agent.as_ref()),
        memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), config, host.agent.is_some()),
        spool(config, pid),
        state(&config.state.directory, pid),
        port(config.steering.listen_port, host.agent.as_ref()),
    ]
}

fn files(config: &Config, agent: Option<&Agent>) -> Finding {
    let of_agent = agent.and_then(|agent| fs::read_to_string(format!("/proc/{}/limits", agent.pid)).ok());
    let (limit, whose) = match of_agent.as_deref().and_then(open_files) {
        Some((_, limit)) => (limit, "the agent"),
        // A service may have another one.
        None => match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((_, hard)) => (hard, "an agent started from here"),
            Err(error) => return Finding::unknown(DESCRIPTORS, error.to_string()),
        },
    };
    let reserve = descriptors::reserve(&config.filter);
    let (wanted, fit) = (config.relay.max_sessions, descriptors::fitting(limit, reserve));
    if fit >= wanted {
        let words = format!("{limit} files for {whose}: enough for relay.max_sessions, {wanted}");
        return Finding::ok(DESCRIPTORS, words);
    }
    let needed = descriptors::needed(wanted, reserve);
    let words = format!(
        "{limit} files for {whose}: enough for {fit} sessions of relay.max_sessions, {wanted}; set LimitNOFILE={needed} in \
         the service, or the limit of the shell"
    );
    Finding::warning(DESCRIPTORS, words).mended_by(match agent {
        Some(agent) => {
            format!("prlimit --pid {} --nofile={needed}:{needed} # until the agent is restarted", agent.pid)
        }
        None => format!("ulimit -n {needed}"),
    })
}

fn memory(meminfo: &str, config: &Config, runs: bool) -> Finding {
    let value = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    };
    let (Some(total), Some(available)) = (value("MemTotal"), value("MemAvailable")) else {
        return Finding::unknown(MEMORY, "/proc/meminfo cannot be read");
    };
    let sessions = (config.relay.max_sessions as u64).saturating_mul(PER_SESSION);
    let needed = (config.spool.memory_total as u64)
        .saturating_add(config.relay.max_buffered as u64)
        .saturating_add(sessions);
    let words = format!(
        "the agent takes up to {} (spool.memory_total, relay.max_buffered, and 64 KiB for each of relay.max_sessions)",
        mib(needed)
    );
    if needed > total {
        Finding::problem(MEMORY, format!("{words}, and this host has {}: lower one of them", mib(total)))
    } else if needed > available && !runs {
        Finding::warning(MEMORY, format!("{words}, and {} are available now", mib(available)))
    } else {
        Finding::ok(MEMORY, words)
    }
}

fn mib(octets: u64) -> String {
    format!("{} MiB", octets / (1024 * 1024))
}

fn spool(config: &Config, pid: Option<u64>) -> Finding {
    let directory = &config.spool.directory;
    let shown = directory.display();
    if let Err(error) = writable(directory, pid) {
        return Finding::problem(SPOOL, format!("spool.directory: no file can be made in {shown}: {error}"))
            .mended_by(format!("install -d -m 0700 -o root {shown}"));
    }
    let Ok(status) = statvfs(directory) else {
        return Finding::unknown(SPOOL, format!("the space in {shown} is not known"));
    };
    let free = status.blocks_available().saturating_mul(status.fragment_size());
    let wanted = config.spool.disk_total;
    let words = format!("{} free in {shown}, of spool.disk_total, {}", mib(free), mib(wanted));
    if free < config.relay.max_message_size {
        let words = format!("{words}: not enough for one message of relay.max_message_size");
        Finding::problem(SPOOL, words)
    } else if free < wanted {
        let words =
            format!("{words}: customers get 452 when it is used up; free some, or lower spool.disk_total");
        Finding::warning(SPOOL, words)
    } else if statfs(directory).is_ok_and(|status| status.filesystem_type() == TMPFS_MAGIC) {
        Finding::warning(SPOOL, format!("{words}; it is in memory (tmpfs), beside spool.memory_total"))
    } else {
        Finding::ok(SPOOL, words)
    }
}

fn state(directory: &Path, pid: Option<u64>) -> Finding {
    let shown = directory.display();
    // It is made when there is something to keep.
    let Some(nearest) = directory.ancestors().find(|ancestor| ancestor.exists()) else {
        return Finding::problem(STATE, format!("state.directory: {shown} cannot be made"));
    };
    let mend = format!("install -d -m 0755 -o root {shown}");
    if !nearest.is_dir() {
        let words = format!("state.directory: {} is no directory", nearest.display());
        return Finding::problem(STATE, words);
    }
    match writable(nearest, pid) {
        Ok(()) if nearest == directory => Finding::ok(STATE, format!("{shown} can be written")),
        Ok(()) => Finding::ok(STATE, format!("{shown} will be made when there is something to keep")),
        Err(error) => Finding::problem(
            STATE,
            format!(
                "state.directory: {} cannot be written: {error}; exempt pairs are lost at a restart",
                nearest.display()
            ),
        )
        .mended_by(mend),
    }
}

fn port(port: u16, agent: Option<&Agent>) -> Finding {
    if agent.is_some() {
        return Finding::ok(PORT, format!("{port} is the agent's"));
    }
    match bind(port) {
        Ok(()) => Finding::ok(PORT, format!("{port} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let words = format!(
                "steering.listen_port: {port} is taken by {}: end that, or choose another",
                owner(port)
            );
            Finding::problem(PORT, words)
        }
        Err(error) => Finding::unknown(PORT, format!("steering.listen_port: {port}: {error}")),
    }
}

/// Whether the port can be had. Nobody can connect to what does not listen.
fn bind(port: u16) -> std::io::Result<()> {
    let v6 = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).and_then(|socket| {
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))))
    });
    match v6 {
        Err(error) if error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&SockAddr::from(std::net::SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, port))))
        }
        outcome => outcome,
    }
}

/// The process that listens there.
fn owner(port: u16) -> String {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().find_map(|table| listening_inode(table, port));
    let process = inode.and_then(|inode| process_with(&format!("socket:[{inode}]")));
    process.unwrap_or_else(|| "another process".to_owned())
}

/// Of `/proc/net/tcp`.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    let suffix = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&suffix) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9)?.parse().ok())?
    })
}

fn process_with(socket: &str) -> Option<String> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let has =
            |link: &fs::DirEntry| fs::read_link(link.path()).is_ok_and(|path| path == Path::new(socket));
        fs::read_dir(process.path().join("fd")).ok()?.flatten().any(|link| has(&link)).then(|| {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            format!("{} (process {pid})", name.trim())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn example() -> Config {
        let text = weir_daemon::reference::example::<Config>();
        weir_daemon::config::parse("agent.toml", &text).unwrap()
    }

    #[test]
    fn memory_that_is_not_there_is_a_problem() {
        let config = example();
        let state = |total: u64, available: u64, runs| {
            let text = format!("MemTotal: {total} kB\nMemFree: 1 kB\nMemAvailable:   {available} kB\n");
            memory(&text, &config, runs).state
        };
        assert_eq!(state(8_000_000, 6_000_000, false), State::Ok);
        assert_eq!(state(8_000_000, 600_000, false), State::Warning);
        assert_eq!(state(8_000_000, 600_000, true), State::Ok);
        assert_eq!(state(1_000_000, 600_000, true), State::Problem);
        assert_eq!(memory("", &config, true).state, State::Unknown);
    }

    #[test]
    fn listeners_of_others_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 00000000:09DD 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n";
        assert_eq!((listening_inode(table, 2525), listening_inode(table, 25)), (Some(4711), None));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_a_problem() {
        assert_eq!(state(Path::new("/dev/null/weir"), None).state, State::Problem);
        assert_eq!(state(&std::env::temp_dir().join("weir-doctor/not/there"), None).state, State::Ok);
    }
}
