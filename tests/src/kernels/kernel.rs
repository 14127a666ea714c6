//! The kernels that there are: this machine's own, and those that `scripts/install-kernels` has unpacked.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use weir_tests::lab::paths;

/// Those that are fetched, oldest first.
pub(crate) const NAMES: [&str; 3] = ["5.10", "6.1", "6.12"];

/// This machine's own, without a virtual machine.
pub(crate) const HOST: &str = "host";

/// An unpacked kernel.
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    /// Of Debian's package.
    pub(crate) package: String,
    version: String,
}

impl Kernel {
    pub(crate) fn find(name: &str) -> Result<Self> {
        let directory = directory()?.join(name);
        let package = fs::read_to_string(directory.join(".complete")).with_context(|| {
            format!("kernel {name} is missing: run `scripts/install-kernels {name}` first")
        })?;
        let entries = fs::read_dir(directory.join("lib/modules"))?.collect::<Result<Vec<_>, _>>()?;
        ensure!(entries.len() == 1, "{}: modules of one kernel are expected", directory.display());
        let version = entries[0].file_name().to_string_lossy().into_owned();
        Ok(Self { name: name.to_owned(), directory, package: package.trim().to_owned(), version })
    }

    /// As uname(1) says it.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    pub(crate) fn modules(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.version)
    }
}

/// Kernels, and what is left of runs.
pub(crate) fn directory() -> Result<PathBuf> {
    let build = paths::executables()?.parent().context("directory of the build")?.to_path_buf();
    Ok(build.join("kernels"))
}
