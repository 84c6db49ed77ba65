use std::fmt::Write as _;
use std::path::Path;

use training::gates::{LearntGate, gates_of_prompts};
use training::learn::{LearnError, LearnOptions, Learnt};

use crate::common::{encoder, rows, tiny};

fn learn(text: &str, expert: Option<&str>) -> Result<Learnt<LearntGate>, LearnError> {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("prompts.jsonl");
    std::fs::write(&file, text).unwrap();
    let encoder = encoder(&tiny());
    let learnt = gates_of_prompts(&encoder, &file, expert, &LearnOptions::default(), |_, _| ());
    encoder.shutdown();
    learnt
}

/// Which prompts share a batch is a matter of time, and moves the last digits.
fn cosine(a: &LearntGate, b: &LearntGate) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let (a, b) = (&a.vector, &b.vector);
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn every_expert_has_a_gate_that_no_other_expert_changes() {
    let all = learn(&rows(12), None).unwrap();
    assert_eq!(all.experts.keys().collect::<Vec<_>>(), ["music", "proof", "python"]);
    assert_eq!((all.prompts, all.experts["music"].vector.len()), (36, 8));
    let without: String =
        rows(12).lines().filter(|line| !line.contains("\"proof\"")).fold(String::new(), |mut kept, line| {
            writeln!(kept, "{line}").unwrap();
            kept
        });
    let fewer = learn(&without, None).unwrap();
    assert_eq!(fewer.experts.len(), 2);
    for (name, gate) in &fewer.experts {
        assert!(cosine(gate, &all.experts[name]) > 0.9999, "{name}: {gate:?} {:?}", all.experts[name]);
    }
    // What says whose the prompts are is not part of what is learnt.
    let alone: String =
        rows(12).lines().filter(|line| line.contains("\"music\"")).fold(String::new(), |mut kept, line| {
            writeln!(kept, "{}", line.replace("\"category\":\"music\",", "")).unwrap();
            kept
        });
    let named = learn(&alone, Some("band")).unwrap();
    assert!(cosine(&named.experts["band"], &all.experts["music"]) > 0.9999);
    assert!(cosine(&all.experts["proof"], &all.experts["music"]) < 0.99);
    let json = serde_json::to_value(&named).unwrap();
    assert!(
        json["experts"]["band"]["encoder"].is_string() && json["experts"]["band"]["vector"][7].is_number()
    );
}

#[test]
fn bad_prompts_are_named_by_their_place() {
    let refused = |text: &str| learn(text, None).unwrap_err().to_string();
    let nobody = refused("{\"text\":\"a\",\"category\":\"x\"}\n{\"text\":\"b\"}\n");
    assert!(nobody.contains("prompts.jsonl:2: ") && nobody.contains("whose prompt"), "{nobody}");
    let few = refused(&rows(3));
    assert!(few.contains("has 3 prompts of `music`, and at least 10 are needed"), "{few}");
    let missing = gates_of_prompts(
        &encoder(&tiny()),
        Path::new("/nowhere.jsonl"),
        None,
        &LearnOptions::default(),
        |_, _| (),
    );
    assert!(missing.unwrap_err().to_string().contains("/nowhere.jsonl"));
}
