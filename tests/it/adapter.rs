//! `guildhall adapter`: copies of adapters, and what it says of files that are none.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use e2e::binary;
use serde_json::{Value, json};

const ENTRIES: usize = 4096;

fn adapter(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("guildhall").unwrap());
    command.arg("adapter").args(arguments).current_dir(folder).output().unwrap()
}

fn object(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A safetensors file of one tensor, a factor of a LoRA update in 16 bits.
fn weights() -> Vec<u8> {
    let header =
        json!({"q.lora_A.weight": {"dtype": "BF16", "shape": [64, 64], "data_offsets": [0, 2 * ENTRIES]}});
    let header = header.to_string();
    let numbers = (0..ENTRIES).flat_map(|at| {
        let number = ((at * 37 % 101) as f32 - 50.0).powi(3);
        ((number.to_bits() >> 16) as u16).to_le_bytes()
    });
    let length = (header.len() as u64).to_le_bytes();
    length.into_iter().chain(header.into_bytes()).chain(numbers).collect()
}

#[test]
fn an_adapter_is_compressed_described_and_expanded() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("mine")).unwrap();
    fs::write(home.path().join("mine/adapter_model.safetensors"), weights()).unwrap();
    fs::write(home.path().join("mine/adapter_config.json"), r#"{"r": 64}"#).unwrap();
    let made = object(&adapter(home.path(), &["compress", "mine", "--out", "copy", "--json"]));
    assert_eq!(made["bytes_before"], weights().len());
    assert_eq!(made["bytes_after"], fs::metadata(home.path().join("copy")).unwrap().len());
    assert!(made["ratio"].as_f64().unwrap() > 5.0, "{made}");
    assert!((0.1..0.9).contains(&made["error"].as_f64().unwrap()), "{made}");
    let kept = &made["tensors"]["q.lora_A.weight"];
    assert_eq!((&kept["kept"], &kept["dtype"]), (&json!(820), &json!("BF16")));

    let seen = object(&adapter(home.path(), &["inspect", "copy", "--json"]));
    assert_eq!(seen["tensors"], made["tensors"]);
    let text = adapter(home.path(), &["inspect", "copy"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("1 of 1 tensors compressed"));

    let back = object(&adapter(home.path(), &["expand", "copy", "--out", "back", "--json"]));
    let whole = fs::read(home.path().join("back/adapter_model.safetensors")).unwrap();
    assert_eq!(back["bytes"], whole.len());
    let config = fs::read_to_string(home.path().join("back/adapter_config.json")).unwrap();
    assert_eq!(config, r#"{"r": 64}"#);
    let numbers = whole[whole.len() - 2 * ENTRIES..].chunks(2);
    assert_eq!(numbers.filter(|number| *number != [0, 0]).count(), 820);
}

#[test]
fn bad_files_and_settings_are_named() {
    let home = tempfile::tempdir().unwrap();
    let fails = |arguments: &[&str], code: i32, words: &str| {
        let output = adapter(home.path(), arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(words), "{text}");
    };
    fs::write(home.path().join("w.safetensors"), weights()).unwrap();
    fails(&["inspect", "none"], 1, "none: ");
    fails(&["inspect", "w.safetensors"], 2, "no compressed copy");
    fails(&["compress", "w.safetensors", "--out", "copy", "--density", "1.5"], 2, "density 1.5");
    assert!(adapter(home.path(), &["compress", "w.safetensors", "--out", "copy"]).status.success());
    let mut copy = fs::read(home.path().join("copy")).unwrap();
    *copy.last_mut().unwrap() ^= 1;
    fs::write(home.path().join("copy"), copy).unwrap();
    fails(&["expand", "copy", "--out", "back"], 2, "copy: the copy is damaged");
    assert!(!home.path().join("back").exists());
}
