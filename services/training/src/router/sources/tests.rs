use super::*;

/// Rows as (source, label).
fn material(rows: &[(Option<&str>, usize)]) -> Material {
    let row = |(source, _): &(Option<&str>, usize)| Row {
        text: String::new(),
        category: String::new(),
        license: None,
        source: source.map(str::to_owned),
    };
    Material {
        categories: vec!["a".into(), "b".into()],
        train: rows.iter().map(row).collect(),
        train_labels: rows.iter().map(|(_, label)| *label).collect(),
        valid: Vec::new(),
        valid_labels: Vec::new(),
        test: None,
        left_out: BTreeMap::new(),
        licences: None,
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_category_keeps_a_source_whichever_group_is_left_out() {
    let rows = [(Some("only"), 0), (Some("x"), 1), (Some("x"), 1), (Some("y"), 1), (None, 1)];
    let (found, kept) = groups(&material(&rows), 0);
    assert_eq!((found, kept), (vec![set(&["x"]), set(&["y"])], vec!["only".to_owned()]));
    // Rows without a source stay in, so that both may be left out at once.
    assert_eq!(groups(&material(&rows), 1).0, [set(&["x", "y"])]);
    // Without such a row one of the two has to stay.
    let (found, kept) = groups(&material(&rows[..4]), 1);
    assert_eq!(
        (found, kept),
        (vec![set(&["x"])], vec!["y".to_owned(), "only".to_owned()].into_iter().rev().collect())
    );
}

/// Two sources of each category with words of their own: what is left out cannot be known by its words, but by
/// its embedding.
fn trial(material: &Material) -> (Vec<Example>, Penalty) {
    let examples =
        material.train.iter().zip(&material.train_labels).enumerate().map(|(index, (row, &label))| {
            let word = 4 + u32::from(row.source.as_deref().unwrap_or("s").as_bytes()[0]) % 16;
            let side = if label == 0 { [1.0, 0.0] } else { [0.0, 1.0] };
            Example { ids: vec![1, word, 20 + (index % 3) as u32, 2], embedding: side.into() }
        });
    let penalty = Penalty { lexical: 1e-3, embedding: 1e-3, min_examples: 1, smoothing: 0.0, stretch: 4.0 };
    (examples.collect(), penalty)
}

#[test]
fn left_out_sources_are_measured_and_results_are_kept() {
    let rows: Vec<(Option<&str>, usize)> =
        [("p", 0), ("q", 0), ("r", 1), ("s", 1)].iter().flat_map(|&(s, l)| vec![(Some(s), l); 6]).collect();
    let material = material(&rows);
    let (examples, penalty) = trial(&material);
    let tables = Tables { unigrams: 32, bigrams: 7 };
    let trial = Trial {
        material: &material,
        train: &examples,
        valid: &[],
        weights: &[],
        tables,
        penalty,
        max_steps: 30,
    };
    let home = tempfile::tempdir().unwrap();
    let how = LeaveOut { groups: 0, select: true, checkpoint: Some(home.path().join("kept.json")) };
    let mut told = Vec::new();
    let report = trial.run(&how, &mut |progress| told.push(progress)).unwrap();
    assert_eq!(report.per_source.len(), 4);
    assert!((report.mean - 1.0).abs() < 1e-9, "{report}");
    assert_eq!(report.tried.len(), 5);
    assert!(told.contains(&Progress::LeavingOut { done: 19, total: 20 }));
    // The second run reads all results: nothing but the file says what they are.
    let text = std::fs::read_to_string(home.path().join("kept.json")).unwrap();
    std::fs::write(home.path().join("kept.json"), text.replace("\"accuracy\":1.0", "\"accuracy\":0.25"))
        .unwrap();
    assert!((trial.run(&how, &mut |_| ()).unwrap().mean - 0.25).abs() < 1e-9);
    // Other settings are other fits.
    let other = Trial { max_steps: 29, ..trial };
    assert!((other.run(&how, &mut |_| ()).unwrap().mean - 1.0).abs() < 1e-9);
}

#[test]
fn rows_without_sources_cannot_be_left_out() {
    let material = material(&[(None, 0), (None, 1)]);
    let (examples, penalty) = trial(&material);
    let tables = Tables { unigrams: 32, bigrams: 7 };
    let trial = Trial {
        material: &material,
        train: &examples,
        valid: &[],
        weights: &[],
        tables,
        penalty,
        max_steps: 3,
    };
    let error = trial.run(&LeaveOut::default(), &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("no source can be left out"), "{error}");
}
