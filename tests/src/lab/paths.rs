//! Where the lab finds the programs under test and the unpacked mail servers: beside its own executable.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The directory of this build's executables (`target/release`, or `target/debug`).
pub fn executables() -> Result<PathBuf> {
    let own = std::env::current_exe().context("path of the running executable")?;
    let directory = own.parent().context("directory of the running executable")?;
    // Test executables are in `deps`, beside the programs.
    let directory = if directory.ends_with("deps") { directory.parent() } else { Some(directory) };
    Ok(directory.context("directory of the build")?.to_path_buf())
}

/// A program under test. Fails with what to do when it is not built.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = executables()?.join(name);
    ensure!(path.is_file(), "{} is missing: run `make build` first", path.display());
    Ok(path)
}

/// Unpacked Debian packages, as `scripts/install-deps lab` leaves them.
pub fn packages(name: &str) -> Result<PathBuf> {
    let path = build_directory()?.join("packages").join(name);
    ensure!(
        path.join(".complete").is_file(),
        "{} is missing: run `scripts/install-deps lab` first",
        path.display()
    );
    Ok(path)
}

/// Where the output of the lab's programs is kept while a lab lives, and after a failure.
pub fn log_directory(lab: &str) -> Result<PathBuf> {
    Ok(build_directory()?.join("lab-logs").join(format!("{lab}-{}", std::process::id())))
}

/// Directories that the hosts see as they are, wherever they lie: the workspace and the build.
pub fn visible() -> Result<Vec<PathBuf>> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("directory of the workspace")?;
    Ok(vec![workspace.to_path_buf(), build_directory()?])
}

fn build_directory() -> Result<PathBuf> {
    Ok(executables()?.parent().context("directory above the executables")?.to_path_buf())
}
