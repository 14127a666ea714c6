//! Whether the kernel takes what a start would install, found out by installing it in a network namespace of its own,
//! which ends with all that is in it.

use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::{Plan, SteerError, ebpf, tproxy};
use crate::config::Backend;

/// What was tried, in words.
///
/// # Errors
/// What the kernel, or nft(8), refused.
pub(crate) fn trial(plan: &Plan) -> Result<String, SteerError> {
    let plan = plan.clone();
    thread::spawn(move || try_in_own_namespace(&plan)).join().unwrap_or_else(|_| {
        let source = std::io::Error::other("a defect of weir-agent");
        Err(SteerError::System { what: "trial of the back end".to_owned(), source })
    })
}

fn try_in_own_namespace(plan: &Plan) -> Result<String, SteerError> {
    let own = unshare(CloneFlags::CLONE_NEWNET).is_ok();
    match plan.backend {
        Backend::External => Ok("rules of your own".to_owned()),
        Backend::Ebpf => ebpf::trial(plan, own),
        Backend::Tproxy if own => tproxy::trial(plan),
        Backend::Tproxy => {
            tproxy::look().map(|()| "nft works here (its rules could not be tried)".to_owned())
        }
    }
}
