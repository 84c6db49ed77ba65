use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::super::Which;
use super::*;

const OPTIONS: Options = Options { density: 0.5, tensors: Which::Lora };

/// An adapter's folder.
fn adapter(folder: &Path) {
    let bytes: Vec<u8> = (1..=64_u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![8, 8], &bytes).unwrap();
    let weights = safetensors::serialize([("q.lora_A.weight", view)], None::<HashMap<_, _>>).unwrap();
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(WEIGHTS), weights).unwrap();
    fs::write(folder.join(CONFIG), r#"{"r": 8}"#).unwrap();
    fs::write(folder.join("README.md"), "mine").unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn wanted() -> bool {
    true
}

#[test]
fn an_adapter_goes_through_a_file_and_comes_back_as_a_folder() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    adapter(&at("mine"));
    let (report, left_out) = compress_file(&at("mine"), &at("copy"), OPTIONS).unwrap();
    assert_eq!(left_out, ["README.md"]);
    assert_eq!(report.bytes_after, fs::metadata(at("copy")).unwrap().len());
    assert_eq!(inspect_file(&at("copy")).unwrap(), report);
    let bytes = expand_file(&at("copy"), &at("back")).unwrap();
    assert_eq!(names(&at("back")), [CONFIG, WEIGHTS]);
    assert_eq!(fs::read_to_string(at("back").join(CONFIG)).unwrap(), r#"{"r": 8}"#);
    assert_eq!(bytes, fs::metadata(at("back").join(WEIGHTS)).unwrap().len());
    expand_file(&at("copy"), &at("weights.safetensors")).unwrap();
    assert_eq!(fs::read(at("weights.safetensors")).unwrap(), fs::read(at("back").join(WEIGHTS)).unwrap());
    // The file alone, with the configuration beside it, is the same adapter.
    compress_file(&at("mine").join(WEIGHTS), &at("again"), OPTIONS).unwrap();
    assert_eq!(fs::read(at("again")).unwrap(), fs::read(at("copy")).unwrap());
    assert_eq!(names(home.path()), ["again", "back", "copy", "mine", "weights.safetensors"]);

    let error = expand_file(&at("copy"), &at("back")).unwrap_err();
    assert!(error.message.contains("is not empty; name a new folder"), "{error}");
}

#[test]
fn what_is_missing_or_broken_is_named_with_its_place() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let error = compress_file(&at("none"), &at("copy"), OPTIONS).unwrap_err();
    assert!(error.message.contains("none: ") && error.message.contains("correct the path"), "{error}");
    fs::create_dir(at("empty")).unwrap();
    let error = compress_file(&at("empty"), &at("copy"), OPTIONS).unwrap_err();
    assert!(error.message.contains("empty: has no adapter_model.safetensors"), "{error}");
    adapter(&at("mine"));
    fs::write(at("mine").join(CONFIG), "{").unwrap();
    let error = compress_file(&at("mine"), &at("copy"), OPTIONS).unwrap_err();
    assert!(error.message.contains("adapter_config.json: is no JSON"), "{error}");
    fs::write(at("copy"), b"nonsense").unwrap();
    let error = expand_file(&at("copy"), &at("back")).unwrap_err();
    assert!(error.message.contains("copy: is no whole safetensors file"), "{error}");
    assert_eq!(names(home.path()), ["copy", "empty", "mine"]);
}

#[test]
fn a_full_disk_leaves_nothing_and_what_was_there_stays() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("served");
    let whole = Adapter { weights: vec![1; 100], config: Some("{}".to_owned()) };
    write_folder(&whole, &folder, Some(&wanted), &|path, bytes| fs::write(path, bytes)).unwrap();
    let full = |path: &Path, bytes: &[u8]| {
        // As far as it goes, as a disk does.
        fs::write(path, &bytes[..bytes.len() / 2])?;
        if path.ends_with(WEIGHTS) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    };
    let error = write_folder(&whole, &folder, Some(&wanted), &full).unwrap_err();
    assert_eq!(error.kind, TernaryErrorKind::Full);
    assert!(error.message.contains("served") && error.message.contains("make room there"), "{error}");
    assert_eq!(names(home.path()), ["served"]);
    assert_eq!(fs::read(folder.join(WEIGHTS)).unwrap(), whole.weights);
}

#[test]
fn nobody_else_s_folder_is_replaced_or_removed() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    adapter(&at("mine"));
    compress_file(&at("mine"), &at("copy"), OPTIONS).unwrap();
    let error = expand_for_engine(&at("copy"), &at("mine"), &wanted).unwrap_err();
    assert!(error.message.contains("was not expanded by guildhall; move it away"), "{error}");
    discard(&at("mine")).unwrap();
    assert_eq!(names(&at("mine")), ["README.md", CONFIG, WEIGHTS]);
    std::os::unix::fs::symlink(at("mine"), at("link")).unwrap();
    assert!(expand_for_engine(&at("copy"), &at("link"), &wanted).is_err());
    expand_for_engine(&at("copy"), &at("ours"), &wanted).unwrap();
    discard(&at("ours")).unwrap();
    assert!(!at("ours").exists());
}

#[test]
fn what_nobody_waits_for_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    adapter(&at("mine"));
    compress_file(&at("mine"), &at("copy"), OPTIONS).unwrap();
    expand_for_engine(&at("copy"), &at("ours"), &wanted).unwrap();
    fs::write(at("ours").join("seen"), "").unwrap();
    assert!(expand_for_engine(&at("copy"), &at("ours"), &|| false).is_err());
    assert!(at("ours").join("seen").exists(), "the folder in use was replaced");
    assert_eq!(names(home.path()), ["copy", "mine", "ours"]);
}
