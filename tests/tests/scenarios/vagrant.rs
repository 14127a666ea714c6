//! The four machines of vagrant/: its scripts are run, each in a clean Debian with systemd, cabled as Vagrant cables them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use weir_tests::components::Debian;
use weir_tests::lab::{Host, Lab, NarrowLink, paths};
use weir_tests::wait::{PATIENCE, wait_until};

use crate::packages::{package, run};

/// Where apt finds what the scripts install: hosts of the lab have no way out.
const ARCHIVE: &str = "/srv/archive";
const DIST: &str = "/dist";

fn workspace() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")
}

#[test]
fn vagrant_takes_the_file() -> Result<()> {
    let home = paths::executables()?.join("vagrant-of-tests");
    let mut command = Command::new("vagrant");
    command.arg("validate").current_dir(workspace()?.join("vagrant"));
    command
        .env("VAGRANT_DOTFILE_PATH", home.join("machines"))
        .env("VAGRANT_HOME", home)
        .env("VAGRANT_DEFAULT_PROVIDER", "libvirt");
    run(&mut command).map(|_| ())
}

#[test]
fn shellcheck_finds_nothing() -> Result<()> {
    let is_script = |path: &PathBuf| {
        path.is_file() && fs::read_to_string(path).is_ok_and(|text| text.starts_with("#!/bin/"))
    };
    let mut scripts = Vec::new();
    for directory in ["scripts", "vagrant", "router-configs", "packaging/debian", ".ci"] {
        let entries = fs::read_dir(workspace()?.join(directory)).context(directory)?;
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        scripts.extend(paths.into_iter().filter(is_script));
    }
    ensure!(scripts.len() > 12, "{scripts:?}");
    run(Command::new("shellcheck").args(&scripts)).map(|_| ())
}

/// As Vagrant makes one: it knows its own name. Nobody here answers for others'.
fn boot<'a>(host: &'a Host, name: &str) -> Result<Debian<'a>> {
    let machine = Debian::boot(host)?;
    machine.write("/etc/hosts", format!("127.0.0.1 localhost\n127.0.1.1 {name}.lab.test {name}\n"))?;
    machine.write("/etc/hostname", format!("{name}\n"))?;
    machine.write("/etc/resolv.conf", "")?;
    machine.sh(&format!("hostname {name}"))?;
    Ok(machine)
}

fn run_script(machine: &Debian<'_>, script: &str, arguments: &str) -> Result<String> {
    machine.bring(&workspace()?.join("vagrant").join(script))?;
    machine.sh(&format!("sh /root/{script} {arguments}"))
}

fn copy(machine: &Debian<'_>, files: &[PathBuf], to: &str) -> Result<()> {
    let to = machine.path(to);
    fs::create_dir_all(&to)?;
    for file in files {
        fs::copy(file, to.join(file.file_name().context("a file has a name")?))?;
    }
    Ok(())
}

/// With apt's own way to packages: from a directory.
fn with_archive(machine: &Debian<'_>) -> Result<()> {
    let entries = fs::read_dir(paths::packages("archive")?)?;
    let files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    copy(machine, &files, ARCHIVE)?;
    machine.write("/etc/apt/sources.list", format!("deb [trusted=yes] file:{ARCHIVE} ./\n"))
}

#[test]
fn the_scripts_make_the_lab() -> Result<()> {
    Lab::run("vagrant", NarrowLink::Nowhere, |lab| {
        let mx = boot(&lab.internet, "mx")?;
        with_archive(&mx)?;
        run_script(&mx, "mx.sh", "")?;
        run_script(&mx, "route.sh", "10.1.0.0/16 10.2.0.1")?;
        let filter = boot(&lab.filter, "filter")?;
        copy(&filter, &[package("weir-filter")?], DIST)?;
        run_script(&filter, "filter.sh", DIST)?;
        let gateway = boot(&lab.gateway, "gateway")?;
        copy(&gateway, &[package("weir-agent")?], DIST)?;
        run_script(&gateway, "gateway.sh", DIST)?;
        let customer = boot(&lab.customer, "customer")?;
        with_archive(&customer)?;
        run_script(&customer, "customer.sh", "")?;
        run_script(&customer, "route.sh", "10.2.0.0/16 10.1.0.1")?;
        for (machine, route) in [(&mx, "10.1.0.0/16 via 10.2.0.1"), (&customer, "10.2.0.0/16 via 10.1.0.1")] {
            let routes = machine.sh("ip route")?;
            ensure!(routes.contains(route), "{routes}");
        }

        let said = customer.sh("swaks --server 10.2.0.2 --to user@destination.test")?;
        ensure!(said.contains("220 mx.destination.test") && !said.contains("STARTTLS"), "{said}");
        wait_until("the message in the mailbox", PATIENCE, || {
            Ok(mx.sh("cat /var/mail/user").is_ok_and(|mail| mail.contains("This is a test mailing")))
        })?;
        let relayed = gateway.sh("journalctl -u weir-agent | grep 'message relayed'")?;
        ensure!(relayed.contains("accept"), "{relayed}");
        wait_until("the message in the node's log", PATIENCE, || {
            Ok(filter.sh("weir-filter log").is_ok_and(|log| log.contains("accept")))
        })?;
        // Again, as a person would after a change.
        run_script(&mx, "mx.sh", "")?;
        run_script(&filter, "filter.sh", DIST)?;
        run_script(&gateway, "gateway.sh", DIST).map(|_| ())
    })
}
