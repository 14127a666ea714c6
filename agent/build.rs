//! Compiles the kernel program (crate `ebpf`) and hands the object to the agent's sources as
//! `$OUT_DIR/weir-ebpf.o`.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest = env::var("CARGO_MANIFEST_DIR").map_err(|_| "CARGO_MANIFEST_DIR is not set".to_owned())?;
    let out = env::var("OUT_DIR").map_err(|_| "OUT_DIR is not set".to_owned())?;
    let root = Path::new(&manifest).join("..");
    for source in ["ebpf", "Cargo.lock", "scripts/build-ebpf", "scripts/install-bpf-toolchain"] {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
    }

    let script = root.join("scripts/build-ebpf");
    let output = Command::new(&script)
        .output()
        .map_err(|error| format!("{} could not be started: {error}", script.display()))?;
    if !output.status.success() {
        let reasons = String::from_utf8_lossy(&output.stderr);
        for line in reasons.lines() {
            println!("cargo::warning={line}");
        }
        return Err("the kernel program was not built (scripts/build-ebpf failed, see its lines above). \
             `make` installs what it needs; by hand: scripts/install-bpf-toolchain"
            .to_owned());
    }
    let object = root.join("target/bpf/weir-ebpf.o");
    fs::copy(&object, Path::new(&out).join("weir-ebpf.o"))
        .map(drop)
        .map_err(|error| format!("{} could not be copied: {error}", object.display()))
}
