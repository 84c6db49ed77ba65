use std::sync::Arc;
use std::time::Duration;

use routing::Features;

use super::*;
use crate::encoder::Stage;

fn decision(tokens: u32) -> Decision {
    let features = Features {
        embedding: Arc::from([0.0; 384]),
        probabilities: Arc::from([1.0]),
        tokens,
        ..Features::default()
    };
    let (queue, forward) = (Duration::ZERO, Duration::ZERO);
    Decision { features, stage: Stage::Encoder, truncated_tokens: 0, estimated: false, queue, forward }
}

async fn put(cache: &DecisionCache, key: &str, tokens: u32) {
    match cache.find(key).await {
        Found::Lead(lead) => drop(lead.insert(decision(tokens))),
        _ => panic!("{key} was there already"),
    }
}

#[tokio::test]
async fn what_was_decided_is_found_again() {
    let cache = DecisionCache::new(100, 1 << 20);
    put(&cache, "a", 7).await;
    assert!(matches!(cache.find("a").await, Found::Hit(d) if d.features.tokens == 7));
    assert!(matches!(cache.find("b").await, Found::Lead(_)));
}

#[tokio::test]
async fn neither_entries_nor_bytes_grow_without_bound() {
    let by_entries = DecisionCache::new(100, 1 << 30);
    let by_bytes = DecisionCache::new(1_000_000, 100 << 10);
    for n in 0..2000_u32 {
        put(&by_entries, &format!("entry {n}"), n).await;
        put(&by_bytes, &format!("{n} {}", "long ".repeat(200)), n).await;
    }
    assert!((1..=100).contains(&by_entries.0.len()), "{}", by_entries.0.len());
    assert!((1..=100 << 10).contains(&by_bytes.0.weight()), "{}", by_bytes.0.weight());
    assert!(by_bytes.0.len() <= 40, "an entry takes some 2.8 KB: {}", by_bytes.0.len());
}

#[tokio::test]
async fn without_entries_nothing_is_kept_and_identical_texts_still_join() {
    let cache = Arc::new(DecisionCache::new(0, 1 << 20));
    let Found::Lead(lead) = cache.find("a").await else { panic!("an empty cache had it") };
    let other = Arc::clone(&cache);
    let joined = tokio::spawn(async move { matches!(other.find("a").await, Found::Joined(_)) });
    tokio::task::yield_now().await;
    drop(lead.insert(decision(1)));
    assert!(joined.await.unwrap());
    assert!(matches!(cache.find("a").await, Found::Lead(_)));
}

#[tokio::test]
async fn a_lead_that_is_given_up_passes_to_the_next_who_waits() {
    let cache = Arc::new(DecisionCache::new(10, 1 << 20));
    let Found::Lead(lead) = cache.find("a").await else { panic!("an empty cache had it") };
    let other = Arc::clone(&cache);
    let heir = tokio::spawn(async move { matches!(other.find("a").await, Found::Lead(_)) });
    tokio::task::yield_now().await;
    drop(lead);
    assert!(heir.await.unwrap());
}
