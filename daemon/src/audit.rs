//! What operators did, in a file that only grows: a line of JSON for each action, written before it is done. What becomes of
//! an action that cannot be written down is the daemon's business.
//!
//! ```text
//! {"time":"2026-11-21T06:00:00Z","program":"weir-filter","user":"root","uid":0,"login":"jane","action":"forget","arguments":{...}}
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use serde_json::{Value, json};

use crate::time;

/// The login number of processes that nobody logged in for.
const NOBODY: u32 = u32::MAX;

/// Who does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    pub uid: u32,
    /// Who logged in, whatever he became since: known where the system's login sets it.
    pub login: Option<u32>,
}

impl Actor {
    /// This process.
    pub fn own() -> Self {
        Self { uid: Uid::current().as_raw(), login: login("self") }
    }

    /// The process at the other end of a socket (`SO_PEERCRED`).
    pub fn peer(uid: u32, pid: Option<i32>) -> Self {
        Self { uid, login: pid.and_then(|pid| login(&pid.to_string())) }
    }
}

fn login(process: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != NOBODY)
}

/// `jane`, or the number where it has no name.
fn name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// The file.
#[derive(Debug, Clone)]
pub struct Audit {
    program: &'static str,
    path: PathBuf,
}

impl Audit {
    /// Of `program`; without a path nothing is written.
    pub fn new(program: &'static str, path: &Path) -> Self {
        Self { program, path: path.to_owned() }
    }

    /// Writes down an action, in one write at the end of the file, and waits until the disk has it.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn record(&self, actor: Actor, action: &str, arguments: &Value) -> Result<(), String> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        let line = json!({
            "time": time::rfc3339(time::now()),
            "program": self.program,
            "user": name(actor.uid),
            "uid": actor.uid,
            "login": actor.login.map(name),
            "action": action,
            "arguments": arguments,
        });
        self.append(&format!("{line}\n"))
            .map_err(|cause| format!("the audit log {} cannot be written: {cause}", self.path.display()))
    }

    /// As [`Self::record`], for what is done only when it is written down.
    ///
    /// # Errors
    /// In words for the operator, who learns that nothing was done.
    pub fn require(&self, actor: Actor, action: &str, arguments: &Value) -> Result<(), String> {
        self.record(actor, action, arguments).map_err(|cause| format!("nothing was done: {cause}"))
    }

    fn append(&self, line: &str) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        // Opened each time: whoever moves the file away begins a new one.
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).mode(0o640).open(&self.path)?;
        file.write_all(line.as_bytes())?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;

    #[test]
    fn every_action_is_a_line_and_an_action_that_cannot_be_written_is_refused() {
        let directory = std::env::temp_dir().join(format!("weir-audit-{}", std::process::id()));
        let path = directory.join("below/audit.jsonl");
        let audit = Audit::new("weir-filter", &path);
        let own = Actor::own();
        let threads: Vec<_> = (0..4)
            .map(|writer| {
                let audit = audit.clone();
                thread::spawn(move || {
                    for number in 0..50 {
                        audit
                            .record(own, "forget", &json!({ "customer": format!("{writer}-{number}\n") }))
                            .unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 200);
        assert_eq!((&lines[0]["action"], &lines[0]["uid"]), (&json!("forget"), &json!(own.uid)));
        assert_eq!(lines[0]["user"], name(own.uid));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777 & !0o640, 0);
        fs::remove_dir_all(&directory).unwrap();
        let nowhere = Audit::new("weir-filter", Path::new("/proc/none/audit"));
        let refused = nowhere.require(own, "forget", &Value::Null).unwrap_err();
        assert!(refused.starts_with("nothing was done: the audit log /proc/none/audit cannot"), "{refused}");
        Audit::new("weir-filter", Path::new("")).record(own, "forget", &Value::Null).unwrap();
    }

    #[test]
    fn who_is_at_the_other_end() {
        let peer = Actor::peer(4_000_000_000, Some(1));
        assert_eq!(name(peer.uid), "4000000000");
        assert_eq!(Actor::peer(0, Some(i32::MAX)), Actor { uid: 0, login: None });
    }
}
