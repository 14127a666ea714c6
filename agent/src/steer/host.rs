//! What the host must be like before anything on it is changed.

use std::fs;
use std::io;
use std::path::Path;

use super::routing::Family;
use super::{Plan, SteerError};
use crate::config::WhenAgentDies;

/// Checks what every back end needs.
pub(super) fn check(plan: &Plan) -> Result<(), SteerError> {
    if plan.mark == 0 {
        return Err(SteerError::NoMark);
    }
    for (key, names) in [
        ("customer_interfaces", &plan.customer_interfaces),
        ("internet_interfaces", &plan.internet_interfaces),
    ] {
        for name in names {
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
    for family in &plan.families {
        // IPv6 asks the global switch as well.
        let all = (*family == Family::V6).then_some("all");
        let interfaces = plan.interfaces();
        for name in all.into_iter().chain(interfaces.iter().map(String::as_str)) {
            let version = match family {
                Family::V4 => "ipv4",
                Family::V6 => "ipv6",
            };
            let path = format!("/proc/sys/net/{version}/conf/{name}/forwarding");
            if fs::read_to_string(path).is_ok_and(|value| value.trim() == "0") {
                return Some(format!("net.{version}.conf.{name}.forwarding"));
            }
        }
    }
    None
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
