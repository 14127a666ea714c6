//! What the host must be like before anything on it is changed.

use std::fs;
use std::io;
use std::path::Path;

use super::links::{Link, links};
use super::routing::Family;
use super::{Plan, SteerError};
use crate::config::{Backend, WhenAgentDies};
use crate::interfaces::is_pattern;

/// Checks what every back end needs.
pub(super) fn check(plan: &Plan) -> Result<(), SteerError> {
    if plan.mark == 0 {
        return Err(SteerError::NoMark);
    }
    for (key, names) in plan.lists() {
        // What a pattern stands for may come later.
        for name in names.iter().filter(|name| !is_pattern(name)) {
            interface_index(name).map_err(|_| SteerError::NoInterface { key, name: name.clone() })?;
        }
    }
    if plan.when_agent_dies == WhenAgentDies::Open
        && let Some(setting) = forwarding_off(plan)
    {
        return Err(SteerError::NotForwarding { setting });
    }
    plan.routing().check()
}

/// The first sysctl by which this host does not forward customers' packets. Without forwarding, mail
/// would not flow straight when the agent is dead, and the kernel program could not tell the
/// gateway's own addresses from others.
pub(crate) fn forwarding_off(plan: &Plan) -> Option<String> {
    off_among(plan, &links().unwrap_or_default())
}

/// As `forwarding_off`, of these interfaces.
pub(super) fn off_among(plan: &Plan, links: &[Link]) -> Option<String> {
    let places = plan.places(links);
    for family in &plan.families {
        let version = match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        // IPv6 asks the global switch as well.
        let all = "/proc/sys/net/ipv6/conf/all/forwarding";
        if *family == Family::V6 && fs::read_to_string(all).is_ok_and(|value| value.trim() == "0") {
            return Some("net.ipv6.conf.all.forwarding".to_owned());
        }
        if let Some((link, _)) = places.iter().find(|(link, _)| link.refuses(*family)) {
            return Some(format!("net.{version}.conf.{}.forwarding", link.name));
        }
    }
    None
}

/// The sysctl by which nftables sees customers' packets on ports of a bridge, before they are the bridge's: the socket that `tproxy`
/// gives them there is lost on the way.
pub(crate) fn rules_on_bridges(plan: &Plan) -> Option<String> {
    let is_bridge = |name: &String| Path::new("/sys/class/net").join(name).join("bridge").exists();
    if plan.backend != Backend::Tproxy || !plan.interfaces().iter().any(is_bridge) {
        return None;
    }
    let settings = plan.families.iter().map(|family| match family {
        Family::V4 => "bridge-nf-call-iptables",
        Family::V6 => "bridge-nf-call-ip6tables",
    });
    let is_on = |setting: &&str| {
        fs::read_to_string(Path::new("/proc/sys/net/bridge").join(setting))
            .is_ok_and(|value| value.trim() != "0")
    };
    let mut settings = settings.filter(is_on);
    settings.next().map(|setting| format!("net.bridge.{setting}"))
}

pub(super) fn interface_index(name: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(name)?)
}

/// Whether a path, or the nearest directory above it that exists, is in a BPF file system.
pub(crate) fn is_in_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .and_then(|ancestor| nix::sys::statfs::statfs(ancestor).ok())
        .is_some_and(|status| status.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// Major and minor number of a kernel's release (uname(2)).
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
