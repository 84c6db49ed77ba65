use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use training::eval::routing::{Report, RoutingEvalError, RoutingOptions, evaluate_routing};
use training::learn::{
    LearnOptions, MappingOptions, ScorerTarget, mapping_of_set, pilots_of_set, scorers_of_set,
};
use training::outcomes::OutcomeSet;

use crate::common::{encoder, tiny};

/// Two models, each right on one kind of prompt that words tell apart; the second is a little better on the whole and
/// ten times as large.
fn set(home: &Path) -> OutcomeSet {
    fs::write(
        home.join("models.json"),
        r#"{"models":[{"name":"small","params_total_b":7,"params_active_b":7},
            {"name":"large","params_total_b":70,"params_active_b":70}]}"#,
    )
    .unwrap();
    for (part, rows) in [("train", 80), ("valid", 20), ("test", 40)] {
        let mut lines = String::new();
        for i in 0..rows {
            let (prompt, domain, scores) = match i % 5 {
                0 | 1 => ("sort the list in python", "code", "[1,0]"),
                _ => ("prove the theorem", "math", "[0,1]"),
            };
            let row = format!(r#""prompt":"{prompt} {part} {i}","domain":"{domain}","scores":{scores}"#);
            writeln!(lines, r#"{{"id":"{part}{i}",{row}}}"#).unwrap();
        }
        // What is contaminated would turn everything round.
        for i in 0..rows {
            let row = r#""prompt":"prove the theorem","domain":"math","scores":[1,0],"contaminated":true"#;
            writeln!(lines, r#"{{"id":"bad{i}",{row}}}"#).unwrap();
        }
        fs::write(home.join(format!("{part}.jsonl")), lines).unwrap();
    }
    OutcomeSet::read(home).unwrap()
}

#[test]
fn a_router_that_tells_the_domains_apart_closes_the_gap() {
    let home = tempfile::tempdir().unwrap();
    let set = set(home.path());
    let encoder = encoder(&tiny());
    let options = RoutingOptions { cache: Some(home.path().join("readings")), ..RoutingOptions::default() };
    let measured = evaluate_routing(&encoder, &set, &options, |_| ()).unwrap();
    assert_eq!((measured.rows, measured.learnt_from), (40, 100));
    assert_eq!(measured.best_single_model, "large");
    assert_eq!((measured.best_single, measured.random, measured.oracle), (0.6, 0.5, 1.0));
    assert_eq!((measured.true_domain, measured.domain_accuracy), (1.0, 1.0));
    let coe = &measured.policies["coe_soft"];
    assert_eq!((coe.score, coe.gap_closed), (1.0, 1.0));
    assert_eq!(coe.score_interval, [1.0, 1.0]);
    // 24 of 40 rows gain 1 by the large model and 16 lose 1: half of the net gain of 8 is there after 4 rows.
    assert_eq!((coe.cpt50, coe.cpt80), (Some(0.1), Some(0.175)));
    // Right everywhere, with the large model on 24 of 40 rows.
    let cost = coe.cost_at["1.0"].unwrap();
    assert!(cost <= 7.0 * 0.4 + 70.0 * 0.6 + 1e-9, "{cost}");
    assert_eq!(measured.references["best_single"].cost_at["1.0"], Some(70.0));

    // A second run reads what the first one kept, and says the same.
    assert_eq!(evaluate_routing(&encoder, &set, &options, |_| ()).unwrap(), measured);
    let report = Report(std::slice::from_ref(&measured));
    assert!(report.to_string().contains("coe_soft"), "{report}");
    assert!(report.markdown().contains("| coe_soft | 1.0000 "), "{}", report.markdown());
    let svg = report.svg();
    assert_eq!(svg.matches("<polyline").count(), measured.policies.len() + 2, "{svg}");
    let json = serde_json::to_value(&measured).unwrap();
    for name in ["score", "gap_closed", "apgr", "cpt50", "cpt80"] {
        assert!(json["policies"]["coe_soft"][name].is_number(), "{json:#}");
    }
    assert!(json["policies"]["coe_soft"]["cost_at"]["0.95"].is_number(), "{json:#}");
}

#[test]
fn a_set_without_rows_to_learn_from_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let set = OutcomeSet { train: Vec::new(), ..set(home.path()) };
    let error = evaluate_routing(&encoder(&tiny()), &set, &RoutingOptions::default(), |_| ()).unwrap_err();
    assert!(matches!(error, RoutingEvalError::TooSmall { .. }), "{error}");
    assert!(error.to_string().contains("0 rows in train"), "{error}");
}

#[test]
fn what_is_learnt_of_experts_fits_the_admin_api() {
    let home = tempfile::tempdir().unwrap();
    let set = set(home.path());
    let encoder = encoder(&tiny());
    let learn = LearnOptions { cache: None, seed: 1 };

    let mapping = mapping_of_set(&encoder, &set, &MappingOptions::default(), &learn, |_, _| ()).unwrap();
    let categories: Vec<&str> = encoder.bundle().categories.iter().map(|c| c.name.as_str()).collect();
    for skills in mapping.experts.values() {
        assert!(skills.keys().all(|category| categories.contains(&category.as_str())));
        assert!(skills.values().all(|w| (0.0..=1.0).contains(w)));
    }
    assert_eq!((mapping.experts.len(), mapping.outcomes), (2, 200));
    assert!(mapping.robust.is_some() && mapping.assignment.is_none());

    let budget = MappingOptions { hosting_budget: Some(10.0), ..MappingOptions::default() };
    let small = mapping_of_set(&encoder, &set, &budget, &learn, |_, _| ()).unwrap();
    assert_eq!(small.experts.keys().collect::<Vec<_>>(), ["small"]);
    assert_eq!(small.assignment.unwrap().hosted_b, 7.0);
    assert_eq!(small.robust.unwrap().expert, "small");
    let none = MappingOptions { hosting_budget: Some(1.0), ..MappingOptions::default() };
    let error = mapping_of_set(&encoder, &set, &none, &learn, |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("raise one of them"), "{error}");

    let learnt = |target| scorers_of_set(&encoder, &set, target, &learn, |_, _| ()).unwrap();
    let scorers = learnt(ScorerTarget::Score);
    let read = encoder.features_batch(&["sort the list in python 5"], |_| ()).unwrap();
    let score = |expert: &str| {
        let scorer = &scorers.experts[expert];
        let embedding = scorer.weights.iter().zip(&*read[0].embedding).map(|(w, x)| w * x).sum::<f32>();
        scorer.bias + scorer.length * (1.0 + read[0].tokens as f32).ln() + embedding
    };
    assert!(score("small") > score("large"), "{} {}", score("small"), score("large"));
    assert!(!scorers.experts["small"].over_mapping);
    let over = learnt(ScorerTarget::OverMapping { pseudo_counts: 10.0 });
    assert!(over.experts.values().all(|scorer| scorer.over_mapping));

    let pilots = pilots_of_set(&encoder, &set, &learn, |_, _| ()).unwrap();
    assert_eq!(pilots.experts["small"].vectors.len(), 1);
    assert_eq!(pilots.experts["large"].vectors[0].len(), encoder.bundle().encoder.dimensions);
    assert_eq!(scorers.experts["small"].encoder, pilots.experts["small"].encoder);
}
