//! Generated files are what the program generates now.

use std::process::Command;

fn is_fresh(command: &str, file: &str) {
    let output = Command::new(e2e::binary("guildhall").unwrap()).arg(command).output().unwrap();
    assert!(output.status.success(), "guildhall {command}: {}", String::from_utf8_lossy(&output.stderr));
    let kept = std::fs::read(e2e::repository().join(file)).unwrap_or_default();
    // Not `assert_eq!`: nobody wants to read both documents in full.
    assert!(kept == output.stdout, "{file} is stale: run `make gen` and commit it");
}

#[test]
fn the_configuration_schema_is_fresh() {
    is_fresh("schema", "config/guildhall.schema.json");
}

#[test]
fn the_openapi_document_is_fresh() {
    is_fresh("openapi", "docs/openapi.json");
}
