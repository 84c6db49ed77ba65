//! Bundles that are not what they should be: each error names the file and says what to do.

use std::fs;
use std::path::Path;

use encoder::{Bundle, Encoder, FileEntry, FirstStageWeights, RoundedTable, Stage};
use routing::Reads;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{config, runtime, tiny};

/// A copy of the tiny bundle.
struct Copy(TempDir);

impl Copy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bundle.yaml", "model.onnx", "tokenizer.json"] {
            fs::copy(tiny().join(name), dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("bundle.yaml");
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        fs::write(path, manifest.to_string()).unwrap();
    }

    /// Replaces a file and lets the manifest vouch for it.
    fn replace(&self, name: &str, content: &[u8]) {
        fs::write(self.path().join(name), content).unwrap();
        let entry = serde_json::to_value(FileEntry::of(content)).unwrap();
        self.edit(|m| m["files"][name] = entry);
    }

    fn open_error(&self) -> String {
        match Bundle::open(self.path()) {
            Ok(_) => panic!("a bundle was opened that should not be"),
            Err(error) => error.to_string(),
        }
    }

    fn start_error(&self) -> String {
        let bundle = Bundle::open(self.path()).unwrap();
        match Encoder::start(bundle, &config(), runtime()) {
            Ok(_) => panic!("an encoder was started that should not be"),
            Err(error) => error.to_string(),
        }
    }
}

fn assert_has(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn a_folder_without_a_manifest() {
    let error = Bundle::open(Path::new("/nonexistent/bundle")).err().unwrap().to_string();
    assert_has(&error, &["/nonexistent/bundle/bundle.yaml", "router-models/default"]);
}

#[test]
fn a_missing_file() {
    let copy = Copy::new();
    fs::remove_file(copy.path().join("tokenizer.json")).unwrap();
    assert_has(&copy.open_error(), &["tokenizer.json", "restore"]);
}

#[test]
fn a_half_written_file() {
    let copy = Copy::new();
    let path = copy.path().join("model.onnx");
    let content = fs::read(&path).unwrap();
    fs::write(&path, &content[..content.len() / 2]).unwrap();
    assert_has(&copy.open_error(), &["model.onnx", "6062 bytes", "says 12124", "cut off"]);
}

#[test]
fn a_changed_file() {
    let copy = Copy::new();
    let path = copy.path().join("model.onnx");
    let mut content = fs::read(&path).unwrap();
    content[6000] ^= 1;
    fs::write(&path, &content).unwrap();
    assert_has(&copy.open_error(), &["model.onnx", "sha256 is", "changed or damaged"]);
}

#[test]
fn a_manifest_with_a_misspelt_key_or_broken_syntax() {
    let copy = Copy::new();
    copy.edit(|m| m["encoder"]["max_token"] = json!(12));
    assert_has(&copy.open_error(), &["bundle.yaml", "max_token"]);
    fs::write(copy.path().join("bundle.yaml"), "format: [1").unwrap();
    assert_has(&copy.open_error(), &["bundle.yaml", "correct the manifest"]);
}

#[test]
fn a_manifest_that_contradicts_itself() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 10] = [
        (|m| m["format"] = json!(2), "format is 2"),
        (|m| m["files"]["../x"] = m["files"]["model.onnx"].clone(), "`../x` is not a plain file name"),
        (|m| m["files"]["model.onnx"]["sha256"] = json!("ABC"), "sha256 is not 64"),
        (|m| drop(m["files"].as_object_mut().unwrap().remove("model.onnx")), "no entry for model.onnx"),
        (|m| m["encoder"]["max_tokens"] = json!(3), "encoder.max_tokens"),
        (|m| m["encoder"]["embedding_max_tokens"] = json!(8), "encoder.embedding_max_tokens"),
        (|m| m["encoder"]["inputs"] = json!(["input_ids"]), "encoder.inputs"),
        (|m| m["categories"][1]["name"] = json!("code"), "`code` is there twice"),
        (|m| m["golden"]["category"] = json!("law"), "`law` is not one of the categories"),
        (|m| m["golden"]["probabilities"] = json!([1.0]), "golden.probabilities has 1 numbers"),
    ];
    for (change, expected) in cases {
        let copy = Copy::new();
        copy.edit(change);
        assert_has(&copy.open_error(), &["bundle.yaml", expected]);
    }
}

#[test]
fn a_tokenizer_that_is_none() {
    let copy = Copy::new();
    copy.replace("tokenizer.json", b"{\"version\": \"1.0\"}");
    assert_has(&copy.open_error(), &["tokenizer.json", "exported with the encoder"]);
}

#[test]
fn a_tokenizer_that_knows_more_than_the_graph() {
    let copy = Copy::new();
    let text = fs::read_to_string(copy.path().join("tokenizer.json")).unwrap();
    copy.replace("tokenizer.json", text.replace("\"thank\":205", "\"thank\":205,\"new\":9999").as_bytes());
    assert_has(&copy.start_error(), &["model.onnx", "token id 9999", "tokenizer.json"]);
}

#[test]
fn a_tokenizer_of_another_encoder() {
    let copy = Copy::new();
    let text = fs::read_to_string(copy.path().join("tokenizer.json")).unwrap();
    let swapped = text.replace("\"sort\":194", "\"sort\":203").replace("\"say\":203", "\"say\":194");
    copy.replace("tokenizer.json", swapped.as_bytes());
    assert_has(&copy.start_error(), &["golden input does not reproduce", "tokenizer"]);
}

#[test]
fn a_graph_that_is_none() {
    let copy = Copy::new();
    copy.replace("model.onnx", b"not a graph");
    assert_has(&copy.start_error(), &["model.onnx", "export it again"]);
}

#[test]
fn another_number_of_categories_than_the_graph_has() {
    let copy = Copy::new();
    copy.edit(|m| {
        m["categories"].as_array_mut().unwrap().push(json!({"name": "law"}));
        m["golden"]["probabilities"].as_array_mut().unwrap().push(json!(0.0));
    });
    assert_has(&copy.start_error(), &["category_logits is 3 wide", "number of categories", "says 4"]);
}

#[test]
fn another_width_than_the_graph_has() {
    let copy = Copy::new();
    copy.edit(|m| m["encoder"]["dimensions"] = json!(384));
    assert_has(&copy.start_error(), &["embedding is 8 wide", "encoder.dimensions", "384"]);
}

#[test]
fn golden_values_that_do_not_come_out() {
    let copy = Copy::new();
    copy.edit(|m| m["golden"]["category"] = json!("math"));
    assert_has(&copy.start_error(), &["the category is `code`, the manifest says `math`"]);
    let copy = Copy::new();
    copy.edit(|m| m["golden"]["probabilities"][2] = json!(0.19));
    assert_has(&copy.start_error(), &["probability 2 is 0.17"]);
    let copy = Copy::new();
    copy.edit(|m| m["golden"]["embedding_head"][1] = json!(0.5));
    assert_has(&copy.start_error(), &["embedding[1] is -0.2"]);
}

/// Gives a copy a first stage: all weights zero but a bias.
fn with_first_stage(copy: &Copy) {
    let rows = |rows: usize| RoundedTable { values: vec![0; 3 * rows], scale: vec![1.0; 3] };
    let bias = vec![0.0, 2.0_f32.ln(), 0.0];
    let weights = FirstStageWeights { unigram: rows(4096), bigram: rows(7), bias };
    copy.replace("first.safetensors", &weights.to_bytes().unwrap());
    copy.edit(|m| {
        m["first_stage"] = json!({
            "file": "first.safetensors", "threshold": 0.4, "temperature": 1.0,
            "golden_probabilities": [0.25, 0.5, 0.25],
        });
    });
}

#[tokio::test]
async fn a_first_stage_is_read_checked_and_asked_first() {
    let copy = Copy::new();
    with_first_stage(&copy);
    let bundle = Bundle::open(copy.path()).unwrap();
    assert!(bundle.has_first_stage());
    let encoder = Encoder::start(bundle, &config(), runtime()).unwrap();
    assert_eq!(encoder.threshold(), Some(0.4));
    let read = encoder.features("hello", Reads::Categories).await.unwrap();
    assert_eq!((read.stage, read.features.top()), (Stage::First, Some((1, 0.5))));
    assert_eq!(encoder.features("hello", Reads::Embedding).await.unwrap().stage, Stage::Encoder);
}

#[test]
fn a_first_stage_that_does_not_fit_is_refused() {
    let wrong = |change: &dyn Fn(&Copy)| {
        let copy = Copy::new();
        with_first_stage(&copy);
        change(&copy);
        copy.open_error()
    };
    let edited = |change: &dyn Fn(&mut Value)| wrong(&|copy| copy.edit(change));
    let error = edited(&|m| m["first_stage"]["file"] = json!("other.safetensors"));
    assert_has(&error, &["first_stage.file", "other.safetensors"]);
    assert_has(
        &edited(&|m| m["first_stage"]["threshold"] = json!(1.5)),
        &["first_stage.threshold", "0 to 1"],
    );
    let error = edited(&|m| m["first_stage"]["golden_probabilities"] = json!([1.0]));
    assert_has(&error, &["first_stage.golden_probabilities", "3 categories"]);
    let error = edited(&|m| m["first_stage"]["golden_probabilities"] = json!([0.5, 0.25, 0.25]));
    assert_has(&error, &["first.safetensors", "golden input does not reproduce"]);
    let error = wrong(&|copy| copy.replace("first.safetensors", b"nonsense"));
    assert_has(&error, &["first.safetensors", "restore the file"]);
    let small = FirstStageWeights {
        unigram: RoundedTable { values: vec![0; 6], scale: vec![1.0; 3] },
        bigram: RoundedTable { values: vec![0; 3], scale: vec![1.0; 3] },
        bias: vec![0.0; 3],
    };
    let error = wrong(&|copy| copy.replace("first.safetensors", &small.to_bytes().unwrap()));
    assert_has(&error, &["rows for 2 tokens", "tokenizer.json"]);
}
