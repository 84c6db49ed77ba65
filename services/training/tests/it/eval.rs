use std::fs;

use training::eval::{EvalError, EvalOptions, evaluate_router};

use crate::common::{encoder, tiny};

const ROWS: &str = r#"{"text":"sort a list in python","category":"code"}
{"text":"prove the theorem","category":"math"}
{"text":"hello, how are you?","category":"chat"}
"#;

#[test]
fn a_bundle_is_measured_the_same_way_twice() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("rows.jsonl");
    fs::write(&data, ROWS).unwrap();
    let encoder = encoder(&tiny());
    let options = EvalOptions { seed: 3, perturbed_rows: 2, timed_rows: 0 };
    let mut last = (0, 0);
    let first = evaluate_router(&encoder, &data, &options, |done, total| last = (done, total)).unwrap();
    assert_eq!(first.rows, 3);
    assert_eq!(last, (11, 11));
    // The graph reads no case and no blanks beyond the words' bounds.
    assert_eq!(first.robustness_by_kind["case"], 1.0);
    assert_eq!(first.robustness_by_kind["whitespace"], 1.0);
    assert_eq!(evaluate_router(&encoder, &data, &options, |_, _| ()).unwrap(), first);

    let unperturbed = EvalOptions { perturbed_rows: 0, ..options };
    assert_eq!(evaluate_router(&encoder, &data, &unperturbed, |_, _| ()).unwrap().robustness, None);
}

#[test]
fn a_label_that_the_bundle_lacks_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("rows.jsonl");
    fs::write(&data, format!("{ROWS}{{\"text\":\"x\",\"category\":\"cooking\"}}\n")).unwrap();
    let error = evaluate_router(&encoder(&tiny()), &data, &EvalOptions::default(), |_, _| ()).unwrap_err();
    assert!(matches!(&error, EvalError::Category { row: 4, .. }), "{error}");
}
