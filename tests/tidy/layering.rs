//! Who may depend on whom, read from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use super::source;

/// Packages of this workspace and those of it that they may use. A package that is missing here fails the
/// test: say where it belongs.
const LAYERS: &[(&str, &[&str])] = &[
    ("gateway", &["admission", "encoder", "experts", "protocols", "routing", "stores", "tiers", "training"]),
    ("training", &["encoder", "routing"]),
    ("encoder", &["routing"]),
    ("experts", &["admission", "protocols", "routing"]),
    ("stores", &["routing"]),
    ("tiers", &["routing"]),
    ("admission", &[]),
    ("protocols", &[]),
    ("routing", &[]),
    ("mock-expert", &[]),
    ("loadtest", &[]),
    ("e2e", &[]),
];

/// Packages that decide and do nothing else, with the only crates that they may use.
const PURE: &[(&str, &[&str])] = &[
    ("protocols", &["memchr", "serde", "serde_json", "thiserror"]),
    ("routing", &["serde", "thiserror", "utoipa"]),
];

/// The pure parts of packages that also do other things.
const PURE_PARTS: &[&str] = &["services/tiers/src/residency", "services/tiers/src/residency.rs"];

/// What pure packages and parts must not touch: the world, the clock, chance.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "Instant",
    "SystemTime",
    "fastrand",
    "getrandom",
    "tokio",
];

/// Crates with one owner: whoever else wants what they do asks the owner.
const OWNERS: &[(&str, &[&str])] = &[
    ("axum", &["gateway"]),
    ("clap", &["gateway", "loadtest", "mock-expert"]),
    ("tokio-rustls", &["experts", "gateway"]),
    ("ort", &["encoder", "tiers"]),
    ("redb", &["stores"]),
    ("rustls", &["experts", "gateway"]),
    ("tokenizers", &["encoder"]),
    ("utoipa-axum", &["gateway"]),
];

/// Where `anyhow` may be used: programs and tests. Libraries have errors with names.
const ANYHOW: &[&str] = &["e2e", "gateway", "loadtest", "mock-expert"];

/// Direct dependencies as (name, whether for tests only), by package.
fn dependencies() -> BTreeMap<String, BTreeSet<(String, bool)>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(e2e::repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().unwrap();
            (text(&package["name"]), all.iter().map(|d| (text(&d["name"]), d["kind"] == "dev")).collect())
        })
        .collect()
}

#[test]
fn packages_depend_only_on_the_layers_below() {
    let dependencies = dependencies();
    let layers: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (package, all) in &dependencies {
        let Some(allowed) = layers.get(package.as_str()) else {
            wrong.push(format!("{package} has no place in LAYERS"));
            continue;
        };
        for (name, for_tests) in all.iter().filter(|(name, _)| dependencies.contains_key(name)) {
            let fake = *for_tests && name == "mock-expert";
            if !fake && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{package} depends on {name}, which is not below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn crates_are_used_by_their_owners_only() {
    let owners = OWNERS.iter().copied().chain([("anyhow", ANYHOW)]);
    let owners: BTreeMap<_, _> = owners.collect();
    let mut wrong = Vec::new();
    for (package, all) in &dependencies() {
        for (name, _) in all.iter().filter(|(_, for_tests)| !for_tests) {
            if let Some(owners) = owners.get(name.as_str())
                && !owners.contains(&package.as_str())
            {
                wrong.push(format!("{package} depends on {name}, which belongs to {}", owners.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_packages_touch_nothing() {
    let dependencies = dependencies();
    let mut wrong = Vec::new();
    for (package, allowed) in PURE {
        for (name, _) in dependencies[*package].iter().filter(|(_, for_tests)| !for_tests) {
            if !allowed.contains(&name.as_str()) {
                wrong.push(format!("{package} is pure and depends on {name}"));
            }
        }
    }
    let packages = PURE.iter().map(|(package, _)| format!("services/{package}/src"));
    let pure: Vec<String> = packages.chain(PURE_PARTS.iter().map(|&part| part.to_owned())).collect();
    for file in source::rust_files() {
        let Some(part) = pure.iter().find(|part| file.starts_with(part)) else { continue };
        if !source::is_test(&file) {
            let code = source::code(&file);
            let found = IMPURE.iter().filter(|name| source::mentions(&code, name));
            wrong.extend(found.map(|name| format!("{} uses {name}; {part} is pure", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
