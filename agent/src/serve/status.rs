//! The control socket, and what `status` says.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use weir_daemon::control as socket;

use super::watch::{Problems, SharedSteering};
use crate::config::Config;
use crate::control::{self, Control};
use crate::modes::Modes;
use crate::policy::{Policy, Release};
use crate::privileges;
use crate::shared::Shared;
use crate::steer::RuleKind;

pub(super) fn control_socket(
    config: &Config,
    shared: &Arc<Shared>,
    steering: &SharedSteering,
    policy: &Arc<Policy>,
    modes: &Arc<Modes>,
    release: &Arc<Release>,
    problems: &Problems,
) -> Option<socket::Server> {
    let problems = problems.clone();
    let status = status(
        config,
        shared.clone(),
        steering.clone(),
        policy.clone(),
        modes.clone(),
        release.clone(),
        problems,
    );
    let (policy, steering, pool) = (policy.clone(), steering.clone(), shared.pool.clone());
    let control = Control { policy, steering, status, pool, modes: modes.clone(), release: release.clone() };
    socket::serve("agent", move |request| control.answer(request))
}

fn status(
    config: &Config,
    shared: Arc<Shared>,
    steering: SharedSteering,
    policy: Arc<Policy>,
    modes: Arc<Modes>,
    release: Arc<Release>,
    problems: Problems,
) -> impl Fn() -> Value + use<> {
    let backend = config.steering.backend;
    let when_agent_dies = config.steering.when_agent_dies;
    move || {
        // Held only for moments; a status without these numbers is better than one that waits.
        let steering = steering.try_lock().ok().and_then(|mut steering| steering.counters().ok());
        json!({
            "program": "weir-agent",
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "backend": backend,
            "when_agent_dies": when_agent_dies,
            "problems": *problems.lock().unwrap_or_else(PoisonError::into_inner),
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
            "wanted_tls": control::wanted_tls(&shared.wanted_tls, &policy, backend),
            "policy_problem": policy.problem(),
            "return_path": shared.return_path.status(Instant::now()),
            "exempt_pairs": policy.count(),
            "exempt_customers": policy.count_rules(RuleKind::ExemptCustomer),
            "exempt_destinations": policy.count_rules(RuleKind::ExemptDestination),
            "blocked": policy.count_rules(RuleKind::Blocked),
            "steering": steering,
            "privileges": privileges::status(),
        })
    }
}
