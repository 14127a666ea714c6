//! The configurations for Juniper's routers, which nothing here can run: junoscfg reads them, and each keyword is one that Junos 24.4
//! has in its place, as its own schema says, which comes with junoscfg.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::lab::paths;

/// Below its Python's directory.
const SCHEMA: &str = "site-packages/junoscfg/validate/data/junos-structure-tree.json";

fn schema(junoscfg: &Path) -> Result<Value> {
    let mut pythons = fs::read_dir(junoscfg.join("lib"))?;
    let python: PathBuf = pythons.next().context("no Python")??.path();
    Ok(serde_json::from_slice(&fs::read(python.join(SCHEMA))?)?)
}

/// What junoscfg makes of these commands.
fn read(junoscfg: &Path, commands: &str, name: &str) -> Result<Value> {
    let file = paths::executables()?.join(format!("{name}.set"));
    fs::write(&file, commands)?;
    let output = Command::new(junoscfg.join("bin/junoscfg"))
        .args(["convert", "--no-field-validate", "-i", "set", "-e", "json"])
        .arg(&file)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Every keyword that has no place there.
fn strange(schema: &Value, configuration: &Value, path: &str, found: &mut Vec<String>) {
    match configuration {
        Value::Object(members) => {
            for (name, below) in members.iter().filter(|(name, _)| *name != "name") {
                let path = format!("{path} {name}");
                match schema["c"].get(name) {
                    Some(schema) => strange(schema, below, &path, found),
                    None => found.push(path),
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|each| strange(schema, each, path, found)),
        _ => {}
    }
}

#[test]
fn every_keyword_is_one_of_junos() -> Result<()> {
    let junoscfg = paths::packages("junos")?;
    let schema = schema(&junoscfg)?;
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../router-configs");
    for series in ["juniper-mx", "juniper-srx"] {
        let text = fs::read_to_string(directory.join(format!("{series}.set")))?;
        let commands: String =
            text.lines().filter(|line| line.starts_with("set ")).map(|line| format!("{line}\n")).collect();
        let check = |commands: &str| -> Result<Vec<String>> {
            let mut found = Vec::new();
            strange(&schema, &read(&junoscfg, commands, series)?["configuration"], "", &mut found);
            Ok(found)
        };
        let found = check(&commands)?;
        ensure!(found.is_empty(), "{series}: {found:?}");
        for (right, wrong) in
            [("rib-groups", "rib-grups"), ("import-policy", "policy-import"), ("then count", "then tally")]
        {
            ensure!(commands.contains(right), "{series} has no {right}");
            ensure!(!check(&commands.replace(right, wrong))?.is_empty(), "{series}: {wrong} was taken");
        }
    }
    Ok(())
}
