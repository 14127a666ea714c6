//! What a running agent may do is what running needs, and with that it does everything.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_tests::components::{AgentConfig, Backend, Postfix, WeirAgent, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{HAM, Way, is_dropped, time_until, way};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

on_both_back_ends!(root_gives_up_what_running_does_not_need, another_user_with_capabilities);

/// Bits of capabilities(7).
const NET_ADMIN: u64 = 1 << 12;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

/// A user who owns nothing but what he is given.
const NOBODY: &str = "65534";

fn root_gives_up_what_running_does_not_need(backend: Backend) -> Result<()> {
    for config in [AgentConfig::new(backend), AgentConfig::new(backend).closed()] {
        Lab::run("privileges", NarrowLink::Nowhere, |lab| {
            everything_works(lab, &config, |config| WeirAgent::start(&lab.gateway, config))
        })?;
    }
    Ok(())
}

/// As a service with AmbientCapabilities= and LimitMEMLOCK= has it.
fn another_user_with_capabilities(backend: Backend) -> Result<()> {
    for config in [AgentConfig::new(backend), AgentConfig::new(backend).closed()] {
        Lab::run("privileges-user", NarrowLink::Nowhere, |lab| {
            let bpf = if backend == Backend::Ebpf { ",+bpf,+perfmon" } else { "" };
            let capabilities = format!("+net_admin,+sys_nice{bpf}");
            lab.gateway.sh(&format!(
                "install -d -o {NOBODY} /run/weir-agent /var/lib/weir-agent; chown {NOBODY} /sys/fs/bpf"
            ))?;
            let user = format!(
                "setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --bounding-set -all,{capabilities} \
                 --inh-caps -all,{capabilities} --ambient-caps -all,{capabilities}"
            );
            // Only kernels before 5.11 want it; some machines do not let root do it.
            let raise = ["sh", "-c", "ulimit -l unlimited 2>/dev/null; exec \"$@\"", "sh"];
            let words: Vec<&str> = raise.into_iter().chain(user.split(' ')).collect();
            everything_works(lab, &config, |config| {
                WeirAgent::start_by(&lab.gateway, &words, &config.to_toml())
            })
        })?;
    }
    Ok(())
}

fn everything_works(
    lab: &Lab,
    config: &AgentConfig,
    start: impl FnOnce(&AgentConfig) -> Result<WeirAgent>,
) -> Result<()> {
    let mut config = config.clone();
    // Bodies go to files.
    config.spool_lines = "memory_per_message = 64".into();
    let destination = Postfix::destination(&lab.internet)?;
    let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
    let mut agent = start(&config)?;
    for family in Family::BOTH {
        let user = format!("{family:?}").to_lowercase();
        let mut client = Client::connect(&lab.customer, (family.destination(), 25).into())?;
        client.greet("mail.customer.test")?;
        client
            .send_message("a@customer.test", &[&format!("{user}@v4.destination.test")], HAM)?
            .expect(250)?;
        ensure!(destination.wait_stored(&user)?.came_from(family.customer()));
    }
    let allowed = NET_ADMIN | if config.backend == Backend::Ebpf { BPF } else { 0 };
    holds(&agent, allowed)?;
    operator_commands(lab, &config)?;
    reloads(lab, &mut agent, &config)?;
    repairs(lab, &config)?;
    holds(&agent, allowed)?;
    let (from, to) = (Family::V4.customer(), Family::V4.destination());
    let output = agent.output();
    agent.stop()?;
    for word in ["denied", "not permitted", "Permission"] {
        ensure!(!output.contains(word), "{word:?} in:\n{output}");
    }
    if config.when_agent_dies == "closed" {
        ensure!(is_dropped(&lab.customer, from, to)?, "closed after the stop");
        WeirAgent::cleanup(&lab.gateway)?;
    }
    ensure!(way(&lab.customer, from, to)? == Way::Straight, "after the end");
    Ok(())
}

/// Each of its threads has no more than this, and can get no more.
fn holds(agent: &WeirAgent, allowed: u64) -> Result<()> {
    let is_settled = || {
        let mut seen = BTreeSet::new();
        for thread in fs::read_dir(format!("/proc/{}/task", agent.pid()))?.flatten() {
            let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
            let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
            for set in ["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"] {
                seen.insert(u64::from_str_radix(value(set).context("a set")?, 16)?);
            }
            seen.insert(match value("NoNewPrivs:") {
                Some("1") => allowed,
                _ => u64::MAX,
            });
        }
        Ok(seen == BTreeSet::from([allowed]))
    };
    ensure!(allowed & PERFMON == 0, "it is for loading only");
    // The thread of the start ends soon after it.
    wait_until("threads without other capabilities", PATIENCE, is_settled)
}

fn operator_commands(lab: &Lab, config: &AgentConfig) -> Result<()> {
    let (from, to) = (Family::V6.customer(), Family::V6.destination());
    let command = |arguments: &[&str]| {
        let said = WeirAgent::command(&lab.gateway, arguments)?;
        ensure!(said.success, "{arguments:?}: {}", said.output);
        anyhow::Ok(())
    };
    let [customer, destination] = [from.to_string(), to.to_string()];
    command(&["exempt", &customer, &destination])?;
    ensure!(way(&lab.customer, from, to)? == Way::Straight, "exempt");
    ensure!(
        lab.gateway.read("/var/lib/weir-agent/policy.json").contains(&customer),
        "kept for the next start"
    );
    command(&["unexempt", &customer, &destination])?;
    ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "no more exempt");
    command(&["release"])?;
    ensure!(way(&lab.customer, from, to)? == Way::Straight, "released");
    command(&["release", "--end"])?;
    ensure!(way(&lab.customer, from, to)? == Way::Intercepted, "no more released");
    command(&["mode", "shadow"])?;
    command(&["mode", "configured"])?;
    let node = config.nodes[0].to_string();
    command(&["drain", &node])?;
    command(&["undrain", &node])?;
    let privileges = WeirAgent::status(&lab.gateway)?["privileges"].clone();
    ensure!(
        privileges["no_new_privileges"] == true && privileges["capabilities"][0] == "CAP_NET_ADMIN",
        "{privileges}"
    );
    Ok(())
}

fn reloads(lab: &Lab, agent: &mut WeirAgent, config: &AgentConfig) -> Result<()> {
    let mut other = config.clone();
    other.nodes.truncate(1);
    WeirAgent::configure(&lab.gateway, &other.to_toml())?;
    agent.process().signal(Signal::SIGHUP)?;
    agent.process().wait_output("the configuration is reloaded", PATIENCE)
}

/// What somebody else removes is put back.
fn repairs(lab: &Lab, config: &AgentConfig) -> Result<()> {
    let (from, to) = (Family::V4.customer(), Family::V4.destination());
    lab.gateway.sh("ip rule del pref 99; ip rule del pref 99; ip route flush table 100")?;
    time_until(Way::Intercepted, &lab.customer, from, to)?;
    if config.backend == Backend::Tproxy {
        lab.gateway.sh("nft delete table inet weir")?;
        time_until(Way::Intercepted, &lab.customer, from, to)?;
    }
    Ok(())
}

/// Root without capabilities meets the permissions of files: said at the start, not at the first message.
#[test]
fn a_spool_of_somebody_elses_is_refused_at_the_start() -> Result<()> {
    Lab::run("privileges-spool", NarrowLink::Nowhere, |lab| {
        lab.gateway.sh(&format!("install -d -m 0700 -o {NOBODY} /var/spool/weir"))?;
        let mut config = AgentConfig::new(Backend::Ebpf);
        config.spool_lines = "directory = \"/var/spool/weir\"".into();
        let mut agent = WeirAgent::launch(&lab.gateway, &config.to_toml())?;
        let status = agent.wait_exit(PATIENCE)?;
        let output = agent.output();
        ensure!(!status.success() && output.contains("chown 0 /var/spool/weir"), "{status}: {output}");
        Ok(())
    })
}
