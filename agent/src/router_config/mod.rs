//! What others have to be told, so that mail comes to the agent, filled in from its configuration, so that the two never
//! disagree: rules on its own host, where it steers nothing itself (`steering.backend = "external"`), and configurations
//! of a router that it stands beside.

mod beside;
mod frr;
mod health;
mod iptables;
mod junos;
mod linux;
mod nftables;

use std::fmt::Write as _;
use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;

use self::junos::Series;
use crate::config::{Backend, Config, WhenAgentDies};
use crate::steer::MARK_MASK;

pub use beside::{Addresses, Beside};

/// For what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Recipe {
    /// nftables, on the agent's own host
    Nftables,
    /// iptables, on the agent's own host
    Iptables,
    /// A Linux router that agents stand beside: a script with policy rules, and a look at the agents every second
    Linux,
    /// A Linux router with FRR that agents stand beside: policy-based routing, and the same look
    Frr,
    /// A Juniper MX router that agents stand beside: filter-based forwarding
    JuniperMx,
    /// A Juniper SRX firewall that agents stand beside: the same, and mail in packet mode
    JuniperSrx,
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

    fn of_address(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
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
            Self::Linux => "linux",
            Self::Frr => "frr",
            Self::JuniperMx => "juniper-mx",
            Self::JuniperSrx => "juniper-srx",
        }
    }

    /// What puts it in place, or with `undo` takes it away: a script for sh(1), or commands of the router.
    ///
    /// # Errors
    /// Why there is none for this configuration, and what to do.
    pub fn text(self, config: &Config, beside: &Beside, undo: bool) -> Result<String, String> {
        let facts = Facts::new(config);
        let families: Vec<Family> = facts.families().collect();
        match self {
            Self::Nftables | Self::Iptables => self.can_be_on_the_host(config)?,
            Self::Linux | Self::Frr => beside.check(&families, false)?,
            Self::JuniperMx | Self::JuniperSrx => beside.check(&families, true)?,
        }
        let mut text = self.head(undo);
        text += &match self {
            Self::Nftables => format!("{}\n{}", facts.routing(undo), nftables::script(&facts, undo)),
            Self::Iptables => format!("{}\n{}", facts.routing(undo), iptables::script(&facts, undo)),
            Self::Linux => linux::script(&facts, beside, undo),
            Self::Frr => frr::script(&facts, beside, undo),
            Self::JuniperMx => junos::commands(Series::Mx, &facts, beside, undo),
            Self::JuniperSrx => junos::commands(Series::Srx, &facts, beside, undo),
        };
        Ok(text)
    }

    fn can_be_on_the_host(self, config: &Config) -> Result<(), String> {
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
        Ok(())
    }

    fn head(self, undo: bool) -> String {
        let name = self.name();
        let what = match self {
            Self::Nftables | Self::Iptables => {
                format!("Steers customers' mail into weir-agent with {name}, on the agent's own host.")
            }
            Self::Linux | Self::Frr => {
                "Sends customers' mail, both ways, to the agents beside this router.".to_owned()
            }
            Self::JuniperMx => {
                "Sends customers' mail, both ways, to the agents beside this router (Junos, MX series)."
                    .to_owned()
            }
            Self::JuniperSrx => {
                "Sends customers' mail, both ways, to the agents beside this firewall (Junos, SRX series)."
                    .to_owned()
            }
        };
        let is_script = !matches!(self, Self::JuniperMx | Self::JuniperSrx);
        let mut text = if is_script { "#!/bin/sh\n".to_owned() } else { String::new() };
        if undo {
            let _ = writeln!(text, "# Takes away what `weir-agent router-config {name}` has put in place.");
        } else {
            let _ = writeln!(text, "# {what}");
            let _ =
                writeln!(text, "# Made by `weir-agent router-config {name}` from the agent's configuration.");
            text += if is_script {
                "# After a change there: make it anew and run it; it takes the place of what it put there before. Where interfaces or a\n# family are gone, undo the old one first.\n"
            } else {
                "# After a change there: commit what `--undo` prints together with what it then prints anew.\n"
            };
        }
        text += if is_script { "set -eu\n\n" } else { "\n" };
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::ValueEnum as _;
    use weir_daemon::reference::check_generated;

    use super::{Beside, Recipe};
    use crate::config::Config;

    fn config(more: &str) -> Config {
        let text = format!(
            "[steering]\nbackend = \"external\"\ncustomer_interfaces = [\"cust0\"]\ninternet_interfaces = [\"inet0\"]\n{more}\n\
             [customers]\nprefixes = [\"10.1.0.0/16\", \"fd01::/32\"]\n\
             [filter]\nnodes = [\"10.3.0.11:10025\"]\n[metrics]\nlisten = [\"[::]:9125\"]\n"
        );
        weir_daemon::config::parse(Path::new("agent.toml").to_string_lossy().as_ref(), &text).unwrap()
    }

    fn beside(from: [&str; 3]) -> Beside {
        let [customers, internet, agents_interface] = from.map(|interface| vec![interface.to_owned()]);
        let agents = ["10.5.0.2,fd05::2", "10.6.0.2,fd06::2"].map(|agent| agent.parse().unwrap()).to_vec();
        Beside { customers, internet, agents_interface, agents }
    }

    const CLOSED: &str = "when_agent_dies = \"closed\"";

    #[test]
    fn the_examples_are_what_the_command_prints() {
        let junos = beside(["ge-0/0/1", "xe-0/1/0.100", "ge-0/0/2"]);
        for (recipe, file, more, beside) in [
            (Recipe::Nftables, "nftables.sh", "", Beside::default()),
            (Recipe::Iptables, "iptables.sh", CLOSED, Beside::default()),
            (Recipe::Linux, "linux.sh", "", beside(["cust0", "inet0", "agents0"])),
            (Recipe::Frr, "frr.sh", "", beside(["cust0", "inet0", "agents0"])),
            (Recipe::JuniperMx, "juniper-mx.set", "", junos.clone()),
            (Recipe::JuniperSrx, "juniper-srx.set", "", junos),
        ] {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../router-configs");
            let text = recipe.text(&config(more), &beside, false).unwrap();
            check_generated(&directory.join(file), &text).unwrap();
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let nothing = Beside::default();
        let refused = Recipe::Iptables.text(&config(""), &nothing, false).unwrap_err();
        assert!(refused.contains("use nftables"), "{refused}");
        let mut own = config("");
        own.steering.backend = crate::config::Backend::Ebpf;
        let refused = Recipe::Nftables.text(&own, &nothing, false).unwrap_err();
        assert!(refused.contains("steers by itself"), "{refused}");
        let refused = Recipe::Linux.text(&own, &nothing, false).unwrap_err();
        assert!(refused.contains("--from-customers"), "{refused}");
        let mut half = beside(["cust0", "inet0", "agents0"]);
        half.agents = vec!["10.5.0.2".parse().unwrap()];
        let refused = Recipe::JuniperMx.text(&own, &half, false).unwrap_err();
        assert!(refused.contains("no address of IPv6"), "{refused}");
        for text in ["", "10.5.0.2,10.6.0.2", "agent", "fd05::2,fd06::2,10.5.0.2"] {
            assert!(text.parse::<super::Addresses>().is_err(), "{text}");
        }
    }

    #[test]
    fn with_customers_of_one_family_the_other_is_left_alone() {
        let mut config = config(CLOSED);
        config.customers.prefixes.retain(|prefix| matches!(prefix, ipnet::IpNet::V4(_)));
        let beside = beside(["ge-0/0/1", "ge-0/0/3", "ge-0/0/2"]);
        for recipe in Recipe::value_variants() {
            for undo in [false, true] {
                let text = recipe.text(&config, &beside, undo).unwrap();
                assert!(!text.contains("-6") && !text.contains("ip6") && !text.contains("inet6"), "{text}");
            }
        }
    }

    /// What is set is deleted, all of it: each statement is below one that is deleted.
    #[test]
    fn what_junos_is_told_is_taken_back() {
        let beside = beside(["ge-0/0/1", "xe-0/1/0.100", "ge-0/0/2"]);
        for recipe in [Recipe::JuniperMx, Recipe::JuniperSrx] {
            let of = |undo| recipe.text(&config(""), &beside, undo).unwrap();
            let (done, undone) = (of(false), of(true));
            let deleted: Vec<&str> = undone.lines().filter_map(|line| line.strip_prefix("delete ")).collect();
            for line in done.lines().filter_map(|line| line.strip_prefix("set ")) {
                assert!(deleted.iter().any(|path| line.starts_with(path)), "{line} stays:\n{undone}");
            }
        }
    }
}
