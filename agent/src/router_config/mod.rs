//! Rules for an agent that steers nothing itself (`steering.backend = "external"`), filled in from its configuration, so that
//! the two never disagree.

mod iptables;
mod nftables;

use std::fmt::Write as _;

use clap::ValueEnum;
use ipnet::IpNet;

use crate::config::{Backend, Config, WhenAgentDies};
use crate::steer::MARK_MASK;

/// What makes the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Recipe {
    /// nftables, on the agent's own host
    Nftables,
    /// iptables, on the agent's own host
    Iptables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// As ip(8) takes it.
    fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// What of the configuration rules are made of.
struct Facts<'a> {
    config: &'a Config,
    mark: u32,
}

impl<'a> Facts<'a> {
    fn new(config: &'a Config) -> Self {
        Self { config, mark: config.steering.mark & MARK_MASK }
    }

    /// Those that have customers.
    fn families(&self) -> impl Iterator<Item = Family> {
        let prefixes = &self.config.customers.prefixes;
        Family::BOTH.into_iter().filter(|family| prefixes.iter().any(|prefix| Family::of(prefix) == *family))
    }

    fn customer_interfaces(&self) -> &'a [String] {
        &self.config.steering.customer_interfaces
    }

    /// All that packets of the agent's connections come in by, each once.
    fn interfaces(&self) -> Vec<&'a str> {
        let steering = &self.config.steering;
        let mut all: Vec<&str> = Vec::new();
        for name in steering.customer_interfaces.iter().chain(&steering.internet_interfaces) {
            if !all.contains(&name.as_str()) {
                all.push(name);
            }
        }
        all
    }

    /// As rules and routes say it: ours are the upper 16 bits.
    fn mark(&self) -> String {
        format!("{:#010x}/{MARK_MASK:#010x}", self.mark)
    }

    /// The route that has the kernel take what is marked, and the rule of each interface.
    fn routing(&self, undo: bool) -> String {
        let (table, mark) = (self.config.steering.table, self.mark());
        let mut text = String::new();
        for family in self.families().map(Family::flag) {
            let route = format!("local default dev lo table {table}");
            let rules =
                self.interfaces().into_iter().map(|name| format!("iif {name} fwmark {mark} table {table}"));
            if undo {
                for rule in rules {
                    let _ = writeln!(text, "ip {family} rule del {rule} 2>/dev/null || true");
                }
                let _ = writeln!(text, "ip {family} route del {route} 2>/dev/null || true");
                continue;
            }
            // First: what is marked and finds no route here would be forwarded.
            let _ = writeln!(text, "ip {family} route replace {route}");
            for rule in rules {
                let _ =
                    writeln!(text, "ip {family} rule show {rule} | grep -q . || ip {family} rule add {rule}");
            }
        }
        text
    }
}

fn of_family(prefixes: &[IpNet], family: Family) -> Vec<String> {
    prefixes.iter().filter(|prefix| Family::of(prefix) == family).map(IpNet::to_string).collect()
}

impl Recipe {
    fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }

    /// A script for sh(1) that puts the rules in place, or with `undo` takes them away.
    ///
    /// # Errors
    /// Why there is none for this configuration, and what to do.
    pub fn script(self, config: &Config, undo: bool) -> Result<String, String> {
        let steering = &config.steering;
        if steering.backend != Backend::External {
            return Err(
                "steering.backend is not \"external\": the agent steers by itself, and rules beside its own would be in its way"
                    .into(),
            );
        }
        if self == Self::Iptables && steering.when_agent_dies == WhenAgentDies::Open {
            return Err("steering.when_agent_dies is \"open\", and iptables drops what it is to hand to an agent that is dead: use \
                        nftables, or say \"closed\""
                .into());
        }
        let facts = Facts::new(config);
        let name = self.name();
        let mut text = "#!/bin/sh\n".to_owned();
        if undo {
            let _ = writeln!(text, "# Takes away what `weir-agent router-config {name}` has put in place.");
        } else {
            let _ = write!(
                text,
                "# Steers customers' mail into weir-agent with {name}, on the agent's own host.\n\
                 # Made by `weir-agent router-config {name}` from the agent's configuration. After a change there: make it\n\
                 # anew and run it; it takes the place of what it put there before.\n"
            );
        }
        text += "set -eu\n\n";
        text += &facts.routing(undo);
        text.push('\n');
        text += &match self {
            Self::Nftables => nftables::script(&facts, undo),
            Self::Iptables => iptables::script(&facts, undo),
        };
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weir_daemon::reference::check_generated;

    use super::Recipe;
    use crate::config::Config;

    fn config(steering: &str) -> Config {
        let text = format!(
            "[steering]\nbackend = \"external\"\ncustomer_interfaces = [\"cust0\"]\ninternet_interfaces = [\"inet0\"]\n{steering}\n\
             [customers]\nprefixes = [\"10.1.0.0/16\", \"fd01::/32\"]\n\
             [filter]\nnodes = [\"10.3.0.11:10025\"]\n"
        );
        weir_daemon::config::parse(Path::new("agent.toml").to_string_lossy().as_ref(), &text).unwrap()
    }

    #[test]
    fn the_examples_are_what_the_command_prints() {
        for (recipe, steering) in [(Recipe::Nftables, ""), (Recipe::Iptables, "when_agent_dies = \"closed\"")]
        {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../router-configs");
            let script = recipe.script(&config(steering), false).unwrap();
            check_generated(&directory.join(format!("{}.sh", recipe.name())), &script).unwrap();
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let refused = Recipe::Iptables.script(&config(""), false).unwrap_err();
        assert!(refused.contains("use nftables"), "{refused}");
        let mut own = config("");
        own.steering.backend = crate::config::Backend::Ebpf;
        let refused = Recipe::Nftables.script(&own, false).unwrap_err();
        assert!(refused.contains("steers by itself"), "{refused}");
    }

    #[test]
    fn with_customers_of_one_family_the_other_is_left_alone() {
        let mut config = config("when_agent_dies = \"closed\"");
        config.customers.prefixes.retain(|prefix| matches!(prefix, ipnet::IpNet::V4(_)));
        for recipe in [Recipe::Nftables, Recipe::Iptables] {
            for undo in [false, true] {
                let script = recipe.script(&config, undo).unwrap();
                assert!(!script.contains("-6") && !script.contains("ip6"), "{script}");
            }
        }
    }
}
