//! Where the agent may write, on kernels with Landlock: reading and starting programs is as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use landlock::{
    ABI, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use tracing::{debug, warn};
use weir_daemon::control;

use crate::config::{Backend, Config};

/// The newest whose rights are asked for: of an older kernel as many as it has.
const ABI_WANTED: ABI = ABI::V3;

/// Restricts this thread and those that it starts; what came of it, in a word.
pub(super) fn restrict(config: &Config) -> &'static str {
    match restricted(config) {
        Ok(RulesetStatus::FullyEnforced) => "written only where the configuration says",
        Ok(RulesetStatus::PartiallyEnforced) => {
            "written only where the configuration says, as far as this kernel can"
        }
        Ok(RulesetStatus::NotEnforced) => "not restricted: this kernel has no Landlock",
        Err(error) => {
            warn!(%error, "files are not restricted");
            "not restricted"
        }
    }
}

/// What this kernel can do of it, tried on a thread of its own.
pub(super) fn trial() -> Result<RulesetStatus, String> {
    let tried = thread::spawn(|| Ok(of_all_writing()?.restrict_self()?.ruleset)).join();
    let tried: Result<_, RulesetError> = tried.map_err(|_| "the thread panicked".to_owned())?;
    tried.map_err(|error| error.to_string())
}

fn of_all_writing() -> Result<RulesetCreated, RulesetError> {
    let all = AccessFs::from_write(ABI_WANTED);
    Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.create()
}

fn restricted(config: &Config) -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_write(ABI_WANTED);
    let mut ruleset = of_all_writing()?;
    for (path, rights) in places(config, all) {
        match PathFd::new(&path) {
            Ok(place) => ruleset = ruleset.add_rule(PathBeneath::new(place, rights))?,
            Err(error) => debug!(%error, path = %path.display(), "no place to write"),
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// Where something is written while the agent runs.
fn places(config: &Config, all: BitFlags<AccessFs>) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let sockets = control::directory("agent");
    // It must be there to be named, and is removed by the last that leaves it.
    if let Err(error) = fs::create_dir_all(&sockets) {
        debug!(%error, "no directory for the control socket");
    }
    let mut places = vec![
        (config.spool.directory.clone(), all),
        (nearest(&config.state.directory), all),
        (sockets.clone(), AccessFs::MakeSock | AccessFs::RemoveFile),
        ("/dev/null".into(), AccessFs::WriteFile.into()),
    ];
    if let Some(parent) = sockets.parent() {
        places.push((parent.to_owned(), AccessFs::MakeDir | AccessFs::RemoveDir));
    }
    // Written in `open` as well: when the first customer is blocked, and when none is any more.
    if config.steering.backend == Backend::Ebpf
        && let Some(parent) = config.steering.pin_directory.parent()
    {
        places.push((parent.to_owned(), all));
    }
    places
}

/// The directory, or the one above it in which it will be made.
fn nearest(directory: &Path) -> PathBuf {
    directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_elsewhere_is_refused() {
        let [spool, state, elsewhere] = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let text = weir_daemon::reference::example::<Config>();
        let mut config: Config = weir_daemon::config::parse("agent.toml", &text).unwrap();
        config.spool.directory = spool.path().to_owned();
        config.state.directory = state.path().join("below");
        let outcome = thread::spawn(move || {
            if restricted(&config).unwrap() == RulesetStatus::NotEnforced {
                println!("lacks: Landlock");
                return;
            }
            tempfile::tempfile_in(&config.spool.directory).unwrap();
            fs::create_dir(&config.state.directory).unwrap();
            fs::write(config.state.directory.join("policy.json"), "{}").unwrap();
            assert!(fs::write(elsewhere.path().join("file"), "x").is_err());
            assert!(fs::create_dir(elsewhere.path().join("directory")).is_err());
            fs::read_dir(elsewhere.path()).unwrap();
            assert!(std::process::Command::new("true").status().unwrap().success());
        });
        outcome.join().unwrap();
    }
}
