//! SIGHUP: the configuration is read anew. What can change while the agent runs changes, without a session or a
//! message lost; what cannot is named.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};

use serde_json::Value;
use tokio::sync::Mutex;
use tracing::{error, info, warn};

use weir_daemon::config::load;
use weir_daemon::service::{self, Hangups};

use crate::config::{Config, Node};
use crate::descriptors;
use crate::nodes::names::Names;
use crate::serve::Agent;
use crate::shared::Shared;
use crate::steer::Tables;

/// What can change while the agent runs.
const LIVE: [&str; 14] = [
    "customers.prefixes",
    "customers.exempt",
    "customers.exempt_destinations",
    "customers.masqueraded",
    "limits.connections",
    "limits.new_per_second",
    "limits.burst",
    "limits.beyond",
    "limits.overrides",
    "filter.nodes",
    "filter.mirror",
    "filter.mode",
    "filter.when_unavailable",
    "filter.overrides",
];

/// Reads the file again whenever it is told to.
pub struct Reload {
    pub path: PathBuf,
    /// What holds: as it was at the start, with what was changed since.
    pub config: Config,
    pub names: Arc<Mutex<Names>>,
    pub mirror_names: Arc<Mutex<Names>>,
    /// For how many sessions there are descriptors.
    pub max_sessions: Arc<AtomicUsize>,
    pub agent: Agent,
}

impl Reload {
    /// For ever.
    pub async fn run(mut self, mut hangups: Hangups) {
        while hangups.next().await {
            service::reloading();
            self.reload().await;
            service::reloaded();
        }
    }

    /// A file with a problem changes nothing.
    async fn reload(&mut self) {
        if let Err(reason) = self.agent.charge.change().map(drop) {
            warn!(%reason, "the configuration is not read anew");
            return;
        }
        let path = self.path.clone();
        let loaded = tokio::task::spawn_blocking(move || load::<Config>(&path)).await;
        let new = match loaded {
            Ok(Ok(new)) => new,
            Ok(Err(problems)) => {
                error!(%problems, "the configuration has problems and is not taken: nothing is changed");
                return;
            }
            Err(failure) => {
                error!(%failure, "reload: a defect of weir-agent");
                return;
            }
        };
        let changed = differences(&self.config, &new);
        if !self.reload_tables(&new).await {
            return;
        }
        let (live, fixed): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|key| LIVE.contains(&key.as_str()));
        let is_new = |key: &str| live.iter().any(|live| live == key);
        if is_new("filter.nodes") {
            replace(&self.names, &self.agent.shared, new.filter.nodes.clone()).await;
        }
        self.agent.shared.treatments.configure(&new.filter);
        self.agent.shared.set_masqueraded(&new.customers.masqueraded);
        // Last: names of test nodes that nobody resolves hold up nothing else.
        if is_new("filter.mirror") {
            let mirrors = &self.agent.shared.mirrors;
            mirrors.configure(None);
            let mirror = new.filter.mirror.as_ref();
            let nodes = mirror.map(|mirror| mirror.nodes.clone()).unwrap_or_default();
            replace(&self.mirror_names, &self.agent.shared, nodes).await;
            // Descriptors that mirroring takes are the sessions' no more. Those that are too many now are not cut.
            let fit = descriptors::sessions(&self.config.relay, &new.filter);
            self.max_sessions.store(fit, Relaxed);
            mirrors.configure(mirror);
        }
        self.config.customers = new.customers;
        self.config.limits = new.limits;
        let filter = &mut self.config.filter;
        filter.nodes = new.filter.nodes;
        filter.mirror = new.filter.mirror;
        filter.mode = new.filter.mode;
        filter.when_unavailable = new.filter.when_unavailable;
        filter.overrides = new.filter.overrides;
        if !fixed.is_empty() {
            warn!("needs a restart: {}", fixed.join(", "));
        }
        info!(changed = live.join(" "), "the configuration is reloaded");
    }

    /// First, for it is what the kernel may refuse: then nothing else is changed either.
    async fn reload_tables(&self, new: &Config) -> bool {
        let tables = Tables::new(new);
        if tables == Tables::new(&self.config) {
            return true;
        }
        let Agent { steering, charge, .. } = self.agent.clone();
        let change = move || {
            let _held = charge.change().map_err(|reason| reason.to_string())?;
            let mut steering = steering.lock().unwrap_or_else(PoisonError::into_inner);
            steering.set_tables(&tables).map_err(|error| error.to_string())
        };
        match tokio::task::spawn_blocking(change).await {
            Ok(Ok(())) => {
                self.agent.policy.set_customers(&new.customers.prefixes);
                self.agent.modes.set_customers(&new.customers.prefixes);
                true
            }
            Ok(Err(problem)) => {
                error!(%problem, "the kernel does not take the new configuration: nothing is changed");
                false
            }
            Err(failure) => {
                error!(%failure, "reload: a defect of weir-agent");
                false
            }
        }
    }
}

async fn replace(names: &Mutex<Names>, shared: &Shared, nodes: Vec<Node>) {
    let mut names = names.lock().await;
    names.replace(nodes);
    names.resolve().await;
    shared.set_nodes(names.role, &names.sites());
}

/// The keys whose values differ, `section.key`.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (serde_json::to_value(old), serde_json::to_value(new));
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (old, new) else { return Vec::new() };
    let mut keys = Vec::new();
    for (section, values) in &new {
        for (key, value) in values.as_object().into_iter().flatten() {
            if old[section][key] != *value {
                keys.push(format!("{section}.{key}"));
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::nodes::Role;
    use crate::steer::{Known, Plan, install};

    fn example() -> Config {
        let text = weir_daemon::reference::example::<Config>();
        weir_daemon::config::parse("agent.toml", &text).unwrap()
    }

    #[test]
    fn differences_are_named() {
        let (old, mut new) = (example(), example());
        assert_eq!(differences(&old, &new), [""; 0]);
        new.steering.mark = 0x1000_0000;
        new.filter.nodes.pop();
        new.relay.max_sessions += 1;
        new.log.format = weir_daemon::log::Format::Text;
        new.filter.tls = Some(crate::config::NodeTls {
            ca_file: "/etc/weir/filter-ca.pem".into(),
            server_name: Some("another.test".into()),
        });
        let mut found = differences(&old, &new);
        found.sort();
        assert_eq!(
            found,
            ["filter.nodes", "filter.tls", "log.format", "relay.max_sessions", "steering.mark"]
        );
    }

    /// Mirroring that comes with a reload takes its descriptors from the sessions.
    #[tokio::test]
    async fn mirroring_that_comes_later_leaves_room_for_fewer_sessions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let text = |mirror: &str| {
            format!(
                "[steering]\nbackend = \"external\"\ncustomer_interfaces = [\"cust0\"]\ninternet_interfaces = [\"inet0\"]\n\
                 [customers]\nprefixes = [\"10.1.0.0/16\"]\n\
                 [filter]\nnodes = [\"10.3.0.11:25\"]\n{mirror}\n[spool]\ndirectory = {:?}\n",
                directory.path()
            )
        };
        let config: Config = weir_daemon::config::parse("agent.toml", &text("")).unwrap();
        let names = Names::new(Role::Filter, config.filter.nodes.clone());
        let mirror_names = Names::new(Role::Mirror, Vec::new());
        let (wanting, _) = tokio::sync::mpsc::channel(1);
        let shared = Shared::new(&config, [&names, &mirror_names], wanting).unwrap();
        let before = descriptors::sessions(&config.relay, &config.filter);
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // The rules of the operator's own: nothing on the host is changed.
        let plan = Plan::new(&config);
        let starter = crate::privileges::Starter::start().unwrap();
        let claim = crate::steer::Claim::take(&plan).unwrap();
        let steering =
            install(&plan, Known::default(), socket.as_fd(), Arc::default(), claim, &starter).await.unwrap();
        let agent = Agent::of(&config, shared, steering);
        let mut reload = Reload {
            path: path.clone(),
            agent,
            config,
            names: Arc::new(Mutex::new(names)),
            mirror_names: Arc::new(Mutex::new(mirror_names)),
            max_sessions: Arc::new(AtomicUsize::new(before)),
        };
        // More descriptors than any system has.
        let huge = "[filter.mirror]\nnodes = [\"10.3.0.21:25\"]\nshare = 1\nmax_in_flight = 1000000000000";
        for (mirror, fit) in [(huge, 1), ("", before)] {
            std::fs::write(&path, text(mirror)).unwrap();
            reload.reload().await;
            assert_eq!(reload.max_sessions.load(Relaxed), fit);
            assert_eq!(reload.agent.shared.mirrors.status().is_some(), fit == 1);
        }
    }

    #[test]
    fn what_is_live_exists() {
        let config = serde_json::to_value(example()).unwrap();
        for key in LIVE {
            let (section, key) = key.split_once('.').unwrap();
            assert!(!config[section][key].is_null(), "{section}.{key}");
        }
    }
}
