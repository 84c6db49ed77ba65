use std::fs;
use std::path::Path;

use encoder::Bundle;
use training::eval::EvalOptions;
use training::router::{LeaveOut, Progress, TrainError, TrainOptions, TrainReport, train};

use crate::common::{encoder, options, rows, tiny};

fn trained(options: &TrainOptions) -> TrainReport {
    train(options, |_| ()).unwrap_or_else(|error| panic!("{error}"))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_bundle_for_other_categories_comes_out_and_serves() {
    let (home, mut options) = options();
    options.test = Some(options.train.clone());
    options.eval.perturbed_rows = 10;
    let mut told = Vec::new();
    let report = train(&options, |progress| told.push(progress)).unwrap_or_else(|error| panic!("{error}"));

    assert_eq!(report.categories, ["music", "proof", "python"]);
    assert_eq!(report.rows + report.valid.rows, 120);
    let test = report.test.as_ref().unwrap();
    assert!(test.accuracy > 0.95, "{report}");
    assert!(told.iter().any(|p| matches!(p, Progress::Fitting { valid_loss: Some(_), .. })));
    assert!(told.contains(&Progress::Checking));

    let bundle = Bundle::open(&options.out).unwrap();
    assert_eq!(bundle.manifest.name, "new");
    let licences = &bundle.manifest.provenance["training"]["rows_by_licence"];
    let counted: u64 = ["L0", "L1"].iter().map(|name| licences[name].as_u64().unwrap()).sum();
    assert_eq!(counted, report.rows as u64);
    assert_eq!(bundle.manifest.quality["test"]["accuracy"], test.accuracy);
    let features = encoder(&options.out).features_batch(&["python code to sort numbers"], |_| ()).unwrap();
    assert_eq!(features[0].top().unwrap().0, 2);
    assert_eq!(names(home.path()), ["new", "rows.jsonl"]);
    // Only the head was changed: the embedding is the old one.
    let old = encoder(&tiny()).features_batch(&["python code to sort numbers"], |_| ()).unwrap();
    assert_eq!(old[0].embedding, features[0].embedding);
}

#[test]
fn the_same_options_give_the_same_graph() {
    let (home, mut options) = options();
    trained(&options);
    let first = fs::read(options.out.join("model.onnx")).unwrap();
    // With a cache, which the second of these two runs reads, and in place of an older bundle.
    options.cache = Some(home.path().join("cache.safetensors"));
    options.replace = true;
    for _ in 0..2 {
        trained(&options);
        assert_eq!(fs::read(options.out.join("model.onnx")).unwrap(), first);
    }
    assert_eq!(names(home.path()), ["cache.safetensors", "new", "rows.jsonl"]);
}

#[test]
fn rows_with_other_licences_are_left_out_and_counted() {
    let (home, mut options) = options();
    let list = home.path().join("licences.txt");
    fs::write(&list, "# allowed\n\nL1\n").unwrap();
    options.licences = Some(list);
    let report = trained(&options);
    assert_eq!(report.left_out, 60);
    assert_eq!(report.rows + report.valid.rows, 60);
    let manifest = Bundle::open(&options.out).unwrap().manifest;
    assert_eq!(manifest.provenance["training"]["left_out_by_licence"]["L0"], 60);
    assert!(manifest.provenance["training"]["rows_by_licence"].get("L0").is_none());
}

#[test]
fn what_cannot_be_trained_leaves_nothing_behind() {
    let (home, mut options) = options();
    fs::write(&options.train, "{\"text\":\"a\",\"category\":\"x\"}\nnonsense\n").unwrap();
    let error = train(&options, |_| ()).unwrap_err();
    assert!(matches!(error, TrainError::Data(_)), "{error}");
    fs::write(&options.train, "{\"text\":\"a\",\"category\":\"x\"}\n".repeat(5)).unwrap();
    options.valid = Some(options.train.clone());
    let error = train(&options, |_| ()).unwrap_err();
    assert!(error.to_string().contains("at least two"), "{error}");

    fs::write(&options.train, rows(3)).unwrap();
    let other = home.path().join("other.jsonl");
    fs::write(&other, "{\"text\":\"a\",\"category\":\"unheard of\"}\n").unwrap();
    options.valid = Some(other);
    let error = train(&options, |_| ()).unwrap_err();
    assert!(error.to_string().contains("`unheard of`"), "{error}");

    options.max_steps = 0;
    assert!(matches!(train(&options, |_| ()).unwrap_err(), TrainError::Option { field: "max_steps", .. }));
    assert_eq!(names(home.path()), ["other.jsonl", "rows.jsonl"]);
}

#[test]
fn a_taken_directory_is_not_overwritten_unasked() {
    let (_home, options) = options();
    fs::create_dir(&options.out).unwrap();
    fs::write(options.out.join("mine"), "precious").unwrap();
    let error = train(&options, |_| ()).unwrap_err();
    assert!(matches!(error, TrainError::Publish(_)), "{error}");
    assert_eq!(fs::read(options.out.join("mine")).unwrap(), b"precious");
}

#[test]
fn the_bundle_gets_a_first_stage_that_reads_as_the_head_does() {
    let (_home, mut options) = options();
    options.test = Some(options.train.clone());
    options.eval = EvalOptions { perturbed_rows: 0, timed_rows: 4, ..EvalOptions::default() };
    let report = trained(&options);
    let first = report.first_stage.unwrap();
    assert!(first.accuracy > 0.95 && first.coverage > 0.5, "{report}");
    let stages = &report.test.as_ref().unwrap().stages;
    let cascade = stages.cascade.as_ref().unwrap();
    assert!(cascade.accuracy > 0.95 && cascade.cost.as_ref().unwrap().rows == 4, "{cascade:?}");
    let bundle = Bundle::open(&options.out).unwrap();
    assert_eq!(bundle.manifest.first_stage.as_ref().unwrap().threshold, first.threshold);
    assert!(bundle.manifest.quality["test"]["stages"]["cascade"]["coverage"].is_number());
    assert!(bundle.manifest.quality["test"]["stages"]["cascade"]["cost"].is_null());

    // From a bundle that has one: it is replaced, or goes.
    let mut again = TrainOptions::new(
        options.out.clone(),
        options.train.clone(),
        options.out.with_extension("again"),
        options.runtime.clone(),
    );
    again.encoder = options.encoder.clone();
    again.first_stage = false;
    assert!(trained(&again).first_stage.is_none());
    let bundle = Bundle::open(&again.out).unwrap();
    assert!(bundle.manifest.first_stage.is_none() && !bundle.has_first_stage());
    assert_eq!(names(&again.out), ["bundle.yaml", "model.onnx", "tokenizer.json"]);
}

#[test]
fn sources_that_are_left_out_are_measured_and_go_into_the_manifest() {
    let (_home, mut options) = options();
    let with_sources: String = rows(40)
        .lines()
        .enumerate()
        .map(|(at, line)| line.replacen('{', &format!(r#"{{"source":"s{}","#, at / 12 % 4), 1) + "\n")
        .collect();
    fs::write(&options.train, with_sources).unwrap();
    options.leave_out = Some(LeaveOut { groups: 2, ..LeaveOut::default() });
    options.source_balance = 0.5;
    options.first_stage = false;
    let report = trained(&options);
    let sources = report.left_out_sources.unwrap();
    assert_eq!(sources.per_source.len(), 4);
    assert!(sources.mean > 0.9, "{sources}");
    let quality = Bundle::open(&options.out).unwrap().manifest.quality;
    assert_eq!(quality["left_out_sources"]["mean"], sources.mean);
}
