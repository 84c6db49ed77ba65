use stores::Options;

use super::*;

fn report(text: &str) -> Result<f32, String> {
    let whole = format!("{{\"decision\": \"d-1\", {text}}}");
    let report: Report = serde_json::from_str(&whole).map_err(|e| e.to_string())?;
    report.score().map_err(|e| e.to_string())
}

#[test]
fn a_score_or_a_label_is_given_and_not_both() {
    assert_eq!(report("\"score\": 0.25"), Ok(0.25));
    assert_eq!(report("\"label\": \"good\""), Ok(1.0));
    assert_eq!(report("\"label\": \"bad\""), Ok(0.0));
    for (text, says) in [
        ("\"score\": 1.01", "score: must lie between"),
        ("\"score\": -0.1", "score: must lie between"),
        ("\"score\": 1e999", "out of range"),
        ("\"label\": \"fine\"", "unknown variant `fine`"),
        ("\"score\": 1, \"label\": \"good\"", "not both"),
        ("\"comment\": \"x\"", "score: is missing"),
        ("\"stars\": 5", "unknown field `stars`"),
    ] {
        let error = report(text).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn keys_sort_as_time_does() {
    let times = [0, 9, 10, 1_790_000_000_000, 1_790_000_000_001, 19_790_000_000_000];
    assert!(times.windows(2).all(|pair| key_from(pair[0]) < key_from(pair[1])));
}

#[tokio::test]
async fn outcomes_are_bounded_by_number_and_age_and_exported_in_order() {
    let store = Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap());
    let config = FeedbackConfig { max_entries: 3, max_age_days: 2, embeddings: false };
    let feedback = Feedback::new(store.clone(), config.clone(), &mut Registry::default());
    let outcome = |day: u64, score: f32| Outcome {
        decision: DecisionId(day),
        time_ms: day * DAY_MS,
        reported_ms: 0,
        by: Reporter::Data { key: None },
        route: None,
        policy: None,
        bundle: None,
        probabilities: BTreeMap::new(),
        embedding: None,
        expert: ExpertId::new("a").unwrap(),
        score,
        propensity: None,
        comment: None,
    };
    for (day, score) in [(5, 0.5), (2, 0.0), (4, 0.5), (3, 0.5), (5, 1.0)] {
        feedback.write(&outcome(day, score)).await.unwrap();
    }
    let days = async |since: u64| {
        let Some((lines, _, _)) = feedback.lines(key_from(since), 10).await.unwrap() else {
            return Vec::new();
        };
        let text = String::from_utf8(lines).unwrap();
        let all = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        all.map(|o| (o["time_ms"].as_u64().unwrap() / DAY_MS, o["score"].as_f64().unwrap())).collect()
    };
    assert_eq!(days(0).await, [(3, 0.5), (4, 0.5), (5, 1.0)], "the oldest went, the later word counts");
    assert_eq!(days(4 * DAY_MS).await, [(4, 0.5), (5, 1.0)]);
    let (_, after, count) = feedback.lines(String::new(), 2).await.unwrap().unwrap();
    assert_eq!((count, feedback.lines(after, 2).await.unwrap().map(|page| page.2)), (2, Some(1)));
    Feedback::sweep(&store, &config, 7 * DAY_MS);
    assert_eq!(days(0).await, [(5, 1.0)]);
}
