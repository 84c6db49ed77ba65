//! The example configurations are valid, and the broken ones are refused.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn check(file: &Path) -> Output {
    Command::new(e2e::binary("guildhall").unwrap())
        .arg("check-config")
        .arg(file)
        .current_dir(e2e::repository())
        // Keys that the examples take from the environment.
        .env("OPENAI_API_KEY", "sk-example")
        .output()
        .unwrap()
}

#[test]
fn every_example_is_valid() {
    let root = e2e::repository();
    let folder = std::fs::read_dir(root.join("config/examples")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    assert!(!files.is_empty(), "config/examples is empty");
    files.push(root.join("config/guildhall.yaml"));
    for file in files {
        let output = check(&file);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} is refused: {said}", file.display());
    }
}

#[test]
fn a_misspelt_key_is_refused_with_the_key_that_was_meant() {
    let output = check(&e2e::repository().join("config/testdata/wrong-key.yaml"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("listne") && said.contains("listen"), "{said}");
}
