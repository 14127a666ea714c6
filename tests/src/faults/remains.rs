//! What is left in the daemons when all mail has gone through: nothing.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use weir_tests::components::WeirAgent;
use weir_tests::lab::Host;
use weir_tests::wait::wait_for;

use crate::stage::Stage;

/// The longest that anything may hang: the agent's `idle_timeout` and `end_of_data_timeout` here, and some.
const LONGEST: Duration = Duration::from_secs(60);

/// Descriptors that come and go by themselves: probes of the nodes, the control socket.
const SPARE_DESCRIPTORS: usize = 8;

/// A process that was busy keeps some memory for later.
const SPARE_MEMORY: u64 = 96 * 1024 * 1024;

/// One daemon's descriptors and memory.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) name: String,
    pub(crate) descriptors: usize,
    /// Octets, files not counted.
    pub(crate) memory: u64,
}

impl Held {
    fn of(name: &str, pid: u32) -> Result<Self> {
        let descriptors =
            fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("{name} is gone"))?.count();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { name: name.to_owned(), descriptors, memory: kibibytes * 1024 })
    }

    /// What the agent and the nodes hold now.
    pub(crate) fn all(stage: &mut Stage<'_>) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        if let Some(agent) = &stage.agent {
            all.push(Self::of("agent", agent.pid())?);
        }
        for (number, node) in (1..).zip(stage.nodes.iter_mut().flatten()) {
            all.push(Self::of(&format!("node {number}"), node.process().pid())?);
        }
        Ok(all)
    }
}

/// What there is that should not be, in words; empty is good. `before`: when no mail had come yet.
pub(crate) fn look(stage: &mut Stage<'_>, before: &[Held]) -> Result<(Vec<Held>, Vec<String>)> {
    let mut left = Vec::new();
    // Sessions whose customers vanished end by their time-outs.
    if let Err(error) = wait_for("every session to end", LONGEST, || quiet(stage.lab)) {
        left.push(format!("{error}: {:?}", held_by_agent(stage.lab)?));
    }
    // A session that is over is still being closed on the node's side.
    let mut now = Held::all(stage)?;
    let grown = |now: &[Held]| {
        let pairs = now.iter().zip(before);
        pairs.filter(|(now, before)| now.descriptors > before.descriptors + SPARE_DESCRIPTORS).count()
    };
    let closed = wait_for("every descriptor to be closed", LONGEST, || {
        now = Held::all(stage)?;
        Ok((grown(&now) == 0).then_some(()))
    });
    if let Err(error) = closed {
        left.push(format!("{error}: {now:?}, in the beginning {before:?}"));
    }
    for (now, before) in now.iter().zip(before) {
        if now.memory > before.memory + SPARE_MEMORY {
            left.push(format!("{} holds {} octets of memory, not {}", now.name, now.memory, before.memory));
        }
    }
    let (names, used) = stage.spooled()?;
    if !names.is_empty() || used > 0 {
        left.push(format!("in the spool directory: {names:?}, {used} KiB"));
    }
    for host in [&stage.lab.gateway, &stage.lab.filter] {
        left.extend(strangers(host)?);
    }
    Ok((now, left))
}

/// What `status` says of sessions, buffers and spool, where it is not 0.
fn held_by_agent(lab: &weir_tests::lab::Lab) -> Result<Vec<(String, u64)>> {
    let status = WeirAgent::status(&lab.gateway)?;
    let number = |value: &Value, name: &str| value[name].as_u64().with_context(|| format!("no {name}"));
    let mut held = vec![("sessions_now".to_owned(), number(&status["counters"], "sessions_now")?)];
    for name in
        ["buffered_bytes", "spool_memory_bytes", "spool_disk_bytes", "waiting_for_a_node", "warm_connections"]
    {
        held.push((name.to_owned(), number(&status, name)?));
    }
    held.retain(|(_, number)| *number > 0);
    Ok(held)
}

fn quiet(lab: &weir_tests::lab::Lab) -> Result<Option<()>> {
    Ok(held_by_agent(lab)?.is_empty().then_some(()))
}

/// Processes of weir beyond one agent and two nodes.
fn strangers(host: &Host) -> Result<Option<String>> {
    let listed = host.sh("cat /proc/[0-9]*/comm 2>/dev/null; true")?;
    let ours =
        listed.lines().filter(|name| name.starts_with("weir-agent") || name.starts_with("weir-filter"));
    let count = ours.count();
    let expected = if host.name() == "gateway" { 1 } else { 2 };
    Ok((count != expected).then(|| format!("{count} processes of weir on {}, not {expected}", host.name())))
}
