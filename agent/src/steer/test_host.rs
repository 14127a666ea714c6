//! A host of its own for each test: a network namespace with a customers' interface and one towards the
//! internet, and a BPF file system. Needs root.

use std::process::{Command, Output};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::routing::Family;
use super::{Plan, Tables};
use crate::config::{Backend, WhenAgentDies};
use crate::prefixes::Prefixes;

/// Runs the test on a new host, which ends with it.
pub(super) fn on_a_host(test: impl FnOnce() + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test changes a network namespace of its own: run it as root"
    );
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
        ip("link set lo up");
        for interface in ["cust0", "inet0"] {
            ip(&format!("link add {interface} type veth peer name {interface}-peer"));
            ip(&format!("link set {interface} up"));
        }
        for version in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{version}/conf/all/forwarding"), "1").unwrap();
        }
        test();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(super) fn plan(backend: Backend, when_agent_dies: WhenAgentDies) -> Plan {
    Plan {
        backend,
        customer_interfaces: vec!["cust0".to_owned()],
        internet_interfaces: vec!["inet0".to_owned()],
        listen_port: 2525,
        when_agent_dies,
        mark: 0x4d58_0000,
        table: 100,
        tables: tables(&["10.1.0.0/16", "fd01::/32"]),
        families: Family::ALL.to_vec(),
        max_sources: 1000,
        pin_directory: "/sys/fs/bpf/weir".into(),
    }
}

pub(super) fn tables(prefixes: &[&str]) -> Tables {
    let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
    Tables { prefixes: Prefixes::new(&prefixes), ..Tables::default() }
}

pub(super) fn ip(arguments: &str) -> String {
    output("ip", arguments)
}

pub(super) fn output(program: &str, arguments: &str) -> String {
    let Output { status, stdout, stderr } = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// All that steering could have left on the host, a line for each thing.
pub(super) fn traces() -> Vec<String> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let rules = ip(&format!("{family} rule"));
        found.extend(rules.lines().filter(|line| line.contains("fwmark")).map(str::to_owned));
        found.extend(ip(&format!("{family} route show table all proto 87")).lines().map(str::to_owned));
    }
    found.extend(output("nft", "list tables").lines().map(str::to_owned));
    let pins = std::fs::read_dir("/sys/fs/bpf").unwrap().map(|entry| entry.unwrap());
    let directories = pins.filter(|entry| entry.file_type().unwrap().is_dir());
    found.extend(directories.map(|entry| entry.path().display().to_string()));
    for interface in ["cust0", "inet0"] {
        let programs = programs_on(interface);
        found.extend((0..programs).map(|_| format!("program on {interface}")));
        if programs == 0 && output("tc", &format!("qdisc show dev {interface}")).contains("clsact") {
            found.push(format!("clsact qdisc on {interface}"));
        }
    }
    found
}

/// By TCX links, or by filters where the kernel has no TCX.
fn programs_on(interface: &str) -> usize {
    use aya::programs::{SchedClassifier, TcAttachType};

    match SchedClassifier::query_tcx(interface, TcAttachType::Ingress) {
        Ok((_, programs)) => programs.len(),
        Err(_) => {
            let filters = output("tc", &format!("filter show dev {interface} ingress"));
            filters.lines().filter(|line| line.contains("handle") && line.contains("weir")).count()
        }
    }
}
