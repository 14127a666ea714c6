//! The control socket, and what `status` says.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir_daemon::audit::Audit;
use weir_daemon::control as socket;

use super::Agent;
use crate::channel;
use crate::config::Config;
use crate::control::{self, Control};
use crate::privileges;
use crate::steer::{RuleKind, Steering};

/// Time for a check of steering that is under way; whoever asks for the status waits no longer than 10 s.
const PATIENCE: Duration = Duration::from_secs(4);
/// Below `state.directory`.
const AUDIT_LOG: &str = "agent-audit.jsonl";

const PAUSE: Duration = Duration::from_millis(10);

pub(super) fn control_socket(config: &Config, agent: &Agent) -> Option<socket::Server> {
    let status = status(config, agent.clone());
    let Agent { shared, steering, policy, release, modes, charge, .. } = agent.clone();
    let audit = Audit::new("weir-agent", &config.state.directory.join(AUDIT_LOG));
    let control =
        Control { policy, steering, status, pool: shared.pool.clone(), modes, release, charge, audit };
    socket::serve("agent", move |request, actor| control.answer(request, actor))
}

/// What steering said when it was last asked.
#[derive(Debug, Default)]
pub(crate) struct Steered(Mutex<Said>);

#[derive(Debug, Default, Clone)]
pub(crate) struct Said {
    pub counters: Option<BTreeMap<String, u64>>,
    warnings: Vec<String>,
    asked: Option<Instant>,
}

impl Steered {
    /// A check of what is on the host takes its time: then what was said before is better than no answer.
    pub(crate) fn ask(&self, steering: &Mutex<Box<dyn Steering>>) -> Said {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        loop {
            if let Ok(mut steering) = steering.try_lock() {
                said.counters = steering.counters().ok();
                said.warnings = steering.warnings();
                said.asked = Some(Instant::now());
            } else if start.elapsed() < PATIENCE {
                std::thread::sleep(PAUSE);
                continue;
            }
            return said.clone();
        }
    }
}

fn status(config: &Config, agent: Agent) -> impl Fn() -> Value + use<> {
    let backend = config.steering.backend;
    let when_agent_dies = config.steering.when_agent_dies;
    move || {
        let Agent { shared, steering, policy, release, modes, places, .. } = &agent;
        let last = agent.steered.ask(steering);
        json!({
            "program": "weir-agent",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "backend": backend,
            "when_agent_dies": when_agent_dies,
            "problems": agent.problems(),
            "warnings": last.warnings,
            "released": release.status(),
            "switched_modes": modes.status(),
            "counters": shared.counters,
            "timings": shared.timings.status(),
            "buffered_bytes": shared.buffers.held(),
            "spool_memory_bytes": shared.budget.in_memory(),
            "spool_disk_bytes": shared.budget.on_disk(),
            "nodes": shared.pool.status(),
            "waiting_for_a_node": shared.pool.waiting(),
            "warm_connections": shared.warm.ready(),
            "suspect_customers": shared.suspects.count(),
            "mirror": shared.mirrors.status(),
            "busiest_customers": shared.busiest.top(Instant::now()),
            "bare_line_ends": shared.bare_line_ends.top(),
            "wanted_tls": control::wanted_tls(&shared.wanted_tls, policy, backend),
            "channel": channel::status(&shared.links, &shared.blocked),
            "policy_problem": policy.problem(),
            "return_path": shared.return_path.status(Instant::now()),
            "exempt_pairs": policy.count(),
            "exempt_customers": policy.count_rules(RuleKind::ExemptCustomer),
            "exempt_destinations": policy.count_rules(RuleKind::ExemptDestination),
            "blocked": policy.count_rules(RuleKind::Blocked),
            "steering": last.counters,
            "steering_asked_seconds_ago": last.asked.map(|asked| asked.elapsed().as_secs()),
            // An agent that has handed over to this one, and finishes its sessions.
            "before": agent.predecessor().and_then(|before| before.pid()).map(|pid| {
                json!({ "pid": pid, "sessions": places.elsewhere() })
            }),
            "privileges": privileges::status(),
        })
    }
}
