//! Every package takes its lints from the workspace.

use std::path::PathBuf;

use super::source;

#[test]
fn every_package_inherits_the_workspace_lints() {
    let root = e2e::repository();
    let mut manifests = vec![root.join("tests/Cargo.toml"), root.join("loadtest/Cargo.toml")];
    let services = std::fs::read_dir(root.join("services")).unwrap();
    let services: Vec<PathBuf> = services.map(|entry| entry.unwrap().path().join("Cargo.toml")).collect();
    manifests.extend(services.into_iter().filter(|manifest| manifest.exists()));
    assert!(manifests.len() > 5, "{manifests:?}");
    for manifest in manifests {
        let text = std::fs::read_to_string(&manifest).unwrap();
        let inherits = text.contains("[lints]\nworkspace = true");
        assert!(inherits, "{} lacks [lints] workspace = true", manifest.display());
    }
}

#[test]
fn nothing_is_left_for_later() {
    // In two parts, or this file would find itself.
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("un", "implemented!"), concat!("X", "XX")];
    for file in source::rust_files() {
        let text = source::read(&file);
        for mark in marks {
            assert!(!source::mentions(&text, mark), "{} says {mark}", file.display());
        }
    }
}
