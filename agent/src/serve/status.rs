//! The control socket, and what `status` says.

use std::sync::PoisonError;
use std::time::Instant;

use serde_json::{Value, json};
use weir_daemon::control as socket;

use super::Agent;
use crate::config::Config;
use crate::control::{self, Control};
use crate::privileges;
use crate::steer::RuleKind;

pub(super) fn control_socket(config: &Config, agent: &Agent) -> Option<socket::Server> {
    let status = status(config, agent.clone());
    let Agent { shared, steering, policy, release, modes, charge, .. } = agent.clone();
    let control = Control { policy, steering, status, pool: shared.pool.clone(), modes, release, charge };
    socket::serve("agent", move |request| control.answer(request))
}

fn status(config: &Config, agent: Agent) -> impl Fn() -> Value + use<> {
    let backend = config.steering.backend;
    let when_agent_dies = config.steering.when_agent_dies;
    move || {
        let Agent { shared, steering, policy, release, modes, places, problems, .. } = &agent;
        // Held only for moments; a status without these numbers is better than one that waits.
        let (steering, warnings) = match steering.try_lock() {
            Ok(mut steering) => (steering.counters().ok(), Some(steering.warnings())),
            Err(_) => (None, None),
        };
        json!({
            "program": "weir-agent",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "backend": backend,
            "when_agent_dies": when_agent_dies,
            "problems": *problems.lock().unwrap_or_else(PoisonError::into_inner),
            "warnings": warnings,
            "released": release.status(),
            "switched_modes": modes.status(),
            "counters": shared.counters,
            "buffered_bytes": shared.buffers.held(),
            "spool_memory_bytes": shared.budget.in_memory(),
            "spool_disk_bytes": shared.budget.on_disk(),
            "nodes": shared.pool.status(),
            "waiting_for_a_node": shared.pool.waiting(),
            "warm_connections": shared.warm.ready(),
            "suspect_customers": shared.suspects.count(),
            "mirror": shared.mirrors.status(),
            "bare_line_ends": shared.bare_line_ends.top(),
            "wanted_tls": control::wanted_tls(&shared.wanted_tls, policy, backend),
            "policy_problem": policy.problem(),
            "return_path": shared.return_path.status(Instant::now()),
            "exempt_pairs": policy.count(),
            "exempt_customers": policy.count_rules(RuleKind::ExemptCustomer),
            "exempt_destinations": policy.count_rules(RuleKind::ExemptDestination),
            "blocked": policy.count_rules(RuleKind::Blocked),
            "steering": steering,
            // An agent that has handed over to this one, and finishes its sessions.
            "before": agent.predecessor().and_then(|before| before.pid()).map(|pid| {
                json!({ "pid": pid, "sessions": places.elsewhere() })
            }),
            "privileges": privileges::status(),
        })
    }
}
