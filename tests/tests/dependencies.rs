//! The resolved dependency graph against deny.toml: licences, banned crates, sources, wildcards.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const PUBLIC_REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn the_dependency_graph_keeps_to_deny_toml() -> Result<()> {
    let rules = rules()?;
    let packages = packages()?;
    ensure!(packages.len() > 50, "only {} packages: that cannot be the whole graph", packages.len());
    let complaints: Vec<_> = packages.iter().flat_map(|package| complaints(package, &rules)).collect();
    ensure!(complaints.is_empty(), "deny.toml forbids:\n{}", complaints.join("\n"));
    Ok(())
}

/// The check can fail: each rule is broken once.
#[test]
fn each_rule_is_enforced() -> Result<()> {
    let rules = rules()?;
    let fine = serde_json::json!({
        "name": "fine", "version": "1.0.0", "license": "MIT/Apache-2.0", "source": PUBLIC_REGISTRY, "dependencies": [],
    });
    assert_eq!(complaints(&fine, &rules), Vec::<String>::new());
    for (field, value) in [
        ("license", "GPL-3.0-only".into()),
        ("license", "MIT AND GPL-3.0-only".into()),
        ("license", Value::Null),
        ("name", "openssl-sys".into()),
        ("source", "git+https://example.org/fine".into()),
        ("dependencies", serde_json::json!([{ "name": "any", "req": "*", "source": PUBLIC_REGISTRY }])),
    ] {
        let mut package = fine.clone();
        package[field] = value;
        if field == "dependencies" {
            package["source"] = Value::Null; // wildcards are our own to avoid
        }
        assert_eq!(complaints(&package, &rules).len(), 1, "{field} of {package}");
    }
    Ok(())
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for expression in [
        "MIT",
        "MIT OR GPL-2.0",
        "GPL-2.0 OR (MIT AND Apache-2.0)",
        "MIT/Apache-2.0",
        "(MIT OR GPL-2.0) AND Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(permits(expression, &allowed), "{expression}");
    }
    for expression in
        ["GPL-2.0", "MIT AND GPL-2.0", "(GPL-2.0 OR LGPL-2.1) AND MIT", "MIT WITH exception", ""]
    {
        assert!(!permits(expression, &allowed), "{expression}");
    }
}

struct Rules {
    licenses: BTreeSet<String>,
    banned: BTreeSet<String>,
}

fn rules() -> Result<Rules> {
    let text = std::fs::read_to_string(workspace().join("deny.toml"))?;
    let rules: toml::Value = toml::from_str(&text)?;
    let list = |section: &str, key: &str| {
        rules.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array).cloned()
    };
    let licenses = list("licenses", "allow").context("licenses.allow")?;
    let banned = list("bans", "deny").context("bans.deny")?;
    let text_of = |value: &toml::Value| value.as_str().map(str::to_owned);
    Ok(Rules {
        licenses: licenses.iter().filter_map(text_of).collect(),
        banned: banned.iter().filter_map(|entry| text_of(entry.get("crate")?)).collect(),
    })
}

/// Every package of the workspace and of its dependencies, on all targets, with all features.
fn packages() -> Result<Vec<Value>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
        .current_dir(workspace())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    Ok(metadata["packages"].as_array().context("packages")?.clone())
}

fn complaints(package: &Value, rules: &Rules) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let mut complaints = Vec::new();
    let license = package["license"].as_str().unwrap_or_default();
    if !permits(license, &rules.licenses) {
        complaints.push(format!("{name}: licence {license:?}"));
    }
    if rules.banned.contains(name) {
        complaints.push(format!("{name}: banned"));
    }
    match package["source"].as_str() {
        Some(PUBLIC_REGISTRY) => {}
        Some(source) => complaints.push(format!("{name}: from {source}")),
        None => {
            let dependencies = package["dependencies"].as_array().into_iter().flatten();
            for dependency in dependencies.filter(|each| each["req"] == "*" && !each["source"].is_null()) {
                complaints.push(format!("{name}: wildcard version of {}", dependency["name"]));
            }
        }
    }
    complaints
}

/// Whether an SPDX licence expression can be satisfied by these licences.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let mut parser = Licences { words: &mut words, allowed };
    let result = parser.any();
    result && words.next().is_none()
}

struct Licences<'a, 'b> {
    words: &'a mut std::iter::Peekable<std::str::SplitWhitespace<'b>>,
    allowed: &'a BTreeSet<String>,
}

impl Licences<'_, '_> {
    fn any(&mut self) -> bool {
        let mut result = self.all();
        while self.words.next_if_eq(&"OR").is_some() {
            result |= self.all();
        }
        result
    }

    fn all(&mut self) -> bool {
        let mut result = self.one();
        while self.words.next_if_eq(&"AND").is_some() {
            result &= self.one();
        }
        result
    }

    fn one(&mut self) -> bool {
        match self.words.next() {
            Some("(") => {
                let result = self.any();
                self.words.next();
                result
            }
            Some(licence) if self.words.next_if_eq(&"WITH").is_some() => {
                let exception = self.words.next().unwrap_or_default();
                self.allowed.contains(&format!("{licence} WITH {exception}"))
            }
            Some(licence) => self.allowed.contains(licence),
            None => false,
        }
    }
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
