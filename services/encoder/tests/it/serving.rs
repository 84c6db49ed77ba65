use std::sync::Arc;

use encoder::{CacheOutcome, EncoderConfig, Stage};
use routing::Reads;

use crate::common::{config, encoder};

#[tokio::test]
async fn a_prompt_gives_a_distribution_over_the_categories_and_a_unit_vector() {
    let encoder = encoder(&config());
    let read = encoder.features("please sort the list in python", Reads::Embedding).await.unwrap();
    let sum: f32 = read.features.probabilities.iter().sum();
    assert!((sum - 1.0).abs() < 1e-5);
    let norm: f32 = read.features.embedding.iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-4);
    assert_eq!(read.features.probabilities.len(), encoder.bundle().categories.len());
    assert_eq!(read.features.tokens, 6);
    assert_eq!((read.stage, read.cache), (Stage::Encoder, CacheOutcome::Miss));
    assert_eq!((read.truncated_tokens, read.estimated), (0, false));
    assert_eq!(encoder.execution_provider(), "cpu");
    encoder.shutdown();
}

#[tokio::test]
async fn the_state_comes_with_the_embedding_alone_and_is_kept_from_then_on() {
    let encoder = encoder(&config());
    let prompt = "please sort the list in python";
    let less = encoder.features(prompt, Reads::Categories).await.unwrap();
    assert!(less.features.state.is_empty());
    let more = encoder.features(prompt, Reads::Embedding).await.unwrap();
    assert_eq!(more.cache, CacheOutcome::Miss, "what was kept says too little");
    assert_eq!(more.features.state.len(), encoder.bundle().encoder.dimensions);
    // A mean of normed vectors has a mean of zero.
    assert!(more.features.state.iter().sum::<f32>().abs() < 1e-3);
    assert!(more.features.state.iter().any(|x| x.abs() > 1e-3));
    assert_eq!(encoder.features(prompt, Reads::Embedding).await.unwrap().cache, CacheOutcome::Hit);
    let encoding = encoder.clone();
    let bulk = tokio::task::spawn_blocking(move || encoding.features_batch(&[prompt], |_| ()).unwrap());
    for (a, b) in bulk.await.unwrap()[0].state.iter().zip(&*more.features.state) {
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    encoder.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_gives_the_same_alone_and_in_a_mixed_batch() {
    let alone = encoder(&EncoderConfig { cache_entries: 0, max_batch: 1, ..config() });
    let together = encoder(&EncoderConfig { cache_entries: 0, sessions: 1, max_wait_us: 50_000, ..config() });
    let prompts: Vec<String> =
        (0..60).map(|n| "sort the list 7 times ".repeat(1 + n % 3) + &n.to_string()).collect();
    let tasks: Vec<_> = prompts
        .iter()
        .cloned()
        .map(|prompt| {
            let together = together.clone();
            tokio::spawn(async move { together.features(&prompt, Reads::Embedding).await.unwrap().features })
        })
        .collect();
    for (prompt, task) in prompts.iter().zip(tasks) {
        let (one, many) =
            (alone.features(prompt, Reads::Embedding).await.unwrap().features, task.await.unwrap());
        assert_eq!(one.top().unwrap().0, many.top().unwrap().0, "{prompt}");
        for (a, b) in one.probabilities.iter().zip(&*many.probabilities) {
            assert!((a - b).abs() < 1e-4, "{prompt}: {a} {b}");
        }
    }
}

#[test]
fn bulk_work_gives_what_single_prompts_give_in_their_order() {
    let encoder = encoder(&config());
    let prompts: Vec<String> =
        (0..300).map(|n| "prove the theorem ".repeat(n % 9) + &n.to_string()).collect();
    let mut seen = 0;
    let bulk = encoder.features_batch(&prompts, |done| seen = done).unwrap();
    assert_eq!((bulk.len(), seen), (prompts.len(), prompts.len()));
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (prompt, bulk) in prompts.iter().zip(&bulk) {
        let one = tokio.block_on(encoder.features(prompt, Reads::Embedding)).unwrap().features;
        assert_eq!((one.tokens, one.truncated), (bulk.tokens, bulk.truncated));
        for (a, b) in one.probabilities.iter().zip(&*bulk.probabilities) {
            assert!((a - b).abs() < 1e-4, "{prompt}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_time_comes_from_the_cache_and_identical_prompts_share_a_pass() {
    let encoder = encoder(&config());
    let prompt: Arc<str> = "say hello".into();
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (encoder, prompt) = (encoder.clone(), prompt.clone());
            tokio::spawn(async move { encoder.features(&prompt, Reads::Embedding).await.unwrap() })
        })
        .collect();
    let mut misses = 0;
    for task in tasks {
        misses += usize::from(task.await.unwrap().cache == CacheOutcome::Miss);
    }
    assert_eq!(misses, 1);
    let again = encoder.features(&prompt, Reads::Embedding).await.unwrap();
    assert_eq!(again.cache, CacheOutcome::Hit);
    assert!(again.forward.is_zero() && again.queue.is_zero());
}

#[tokio::test]
async fn texts_are_embedded_in_order_by_their_heads() {
    let encoder = encoder(&config());
    let long = "say hello ".repeat(40);
    let texts = ["hello", "", &long, "sort the list"].map(String::from).to_vec();
    let embeddings = encoder.embed(texts).await.unwrap();
    assert_eq!(embeddings.iter().map(|e| e.tokens).collect::<Vec<_>>(), [3, 2, 32, 5]);
    let hello = encoder.features("hello", Reads::Embedding).await.unwrap().features.embedding;
    for (a, b) in embeddings[0].vector.iter().zip(&*hello) {
        assert!((a - b).abs() < 1e-5);
    }
    assert!(encoder.embed(Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_prompt_of_megabytes_is_read_at_its_ends_and_says_so() {
    let encoder = encoder(&config());
    let prompt = "sort the list ".repeat(300_000);
    let read = encoder.features(&prompt, Reads::Embedding).await.unwrap();
    assert!(read.estimated && read.features.truncated);
    assert_eq!(read.truncated_tokens + 14, read.features.tokens);
    assert_eq!(encoder.features(&prompt, Reads::Embedding).await.unwrap().cache, CacheOutcome::Hit);
    assert_eq!(encoder.tokenize_window(&prompt).unwrap().ids.len(), 16);
}

#[tokio::test]
async fn any_text_is_read_even_none() {
    let encoder = encoder(&config());
    for text in ["", " ", "\0\u{1}\u{feff}", "\u{202e}\u{0301}", "🦀🦀🦀", "日本語", "[CLS][SEP][PAD]"]
    {
        let read = encoder.features(text, Reads::Embedding).await.unwrap();
        assert!((read.features.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{text:?}");
    }
}

#[tokio::test]
async fn metrics_carry_their_full_names() {
    let encoder = encoder(&config());
    encoder.features("say hello", Reads::Embedding).await.unwrap();
    encoder.features(&"say hello ".repeat(20), Reads::Embedding).await.unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    encoder.metrics().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "guildhall_encoder_truncations_total 1",
        "guildhall_encoder_cache_total{outcome=\"miss\"} 2",
        "guildhall_encoder_refusals_total 0",
        "guildhall_encoder_prompt_tokens_count 2",
        "guildhall_encoder_queue_seconds_count 2",
        "guildhall_encoder_batch_size_count 2",
        "guildhall_encoder_forward_seconds_count 2",
    ] {
        assert!(text.contains(line), "{line} is not in:\n{text}");
    }
}
