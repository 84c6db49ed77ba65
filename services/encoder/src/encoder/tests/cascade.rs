//! The first stage before the encoder, and without it.

use super::*;
use crate::first::{FirstStage, FirstStageWeights};
use crate::lexical::RoundedTable;

/// A first stage that is sure of category 1 for every prompt that has the token of `sort`, and even otherwise.
fn cascade(windows: &Windows) -> Cascade {
    let window = windows.head("sort", 16).unwrap().ids;
    let mut values = vec![0; 3 * (windows.largest_id() as usize + 1)];
    values[3 * window[1] as usize + 1] = 127;
    let weights = FirstStageWeights {
        unigram: RoundedTable { values, scale: vec![1.0; 3] },
        bigram: RoundedTable { values: vec![0; 3], scale: vec![1.0; 3] },
        bias: vec![0.0; 3],
    };
    Cascade { first: FirstStage::new(&weights), threshold: 0.9 }
}

fn bed() -> Bed {
    Bed::with(|_| {}, |windows| Some(cascade(windows)))
}

#[tokio::test]
async fn what_the_first_stage_is_sure_of_costs_no_pass() {
    let bed = bed();
    let read = bed.encoder.features("sort it", Reads::Categories).await.unwrap();
    assert_eq!((read.stage, read.cache), (Stage::First, CacheOutcome::Miss));
    assert_eq!(read.features.top().unwrap().0, 1);
    assert!(read.features.embedding.is_empty() && read.forward.is_zero());
    assert_eq!(read.features.tokens, 2);
    assert!(bed.entered.try_recv().is_err(), "the graph was run");
    let again = bed.encoder.features("sort it", Reads::Categories).await.unwrap();
    assert_eq!((again.stage, again.cache), (Stage::First, CacheOutcome::Hit));

    bed.answer(SURE);
    let doubtful = bed.encoder.features("hello", Reads::Categories).await.unwrap();
    assert_eq!((doubtful.stage, doubtful.features.top().unwrap().0), (Stage::Encoder, 0));
    let count = |stage| bed.encoder.metrics().decisions.get_or_create(&crate::StageLabels { stage }).get();
    assert_eq!((count(Stage::First), count(Stage::Encoder)), (2, 1));
}

#[tokio::test]
async fn who_wants_the_embedding_gets_it_whatever_is_remembered() {
    let bed = bed();
    bed.encoder.features("sort", Reads::Categories).await.unwrap();
    bed.answer(SURE);
    let read = bed.encoder.features("sort", Reads::Embedding).await.unwrap();
    assert_eq!(
        (read.stage, read.cache, read.features.embedding.len()),
        (Stage::Encoder, CacheOutcome::Miss, 8)
    );
    // From now on both are served by the better reading.
    for reads in [Reads::Categories, Reads::Embedding] {
        let again = bed.encoder.features("sort", reads).await.unwrap();
        assert_eq!((again.stage, again.cache), (Stage::Encoder, CacheOutcome::Hit));
    }
}

#[tokio::test]
async fn a_full_queue_does_not_stop_the_first_stage() {
    let bed = Bed::with(|config| config.queue_limit = 1, |windows| Some(cascade(windows)));
    let waiting = bed.ask("a").await;
    bed.batch();
    let refused = bed.encoder.features("b", Reads::Categories).await.unwrap_err();
    assert_eq!(refused, EncodeError::Overloaded);
    assert_eq!(bed.encoder.features("sort", Reads::Categories).await.unwrap().stage, Stage::First);
    bed.answer(SURE);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn alone_it_decides_what_it_doubts_and_gives_no_embedding() {
    let mut bundle = Bundle::open(&tiny()).unwrap();
    let error = Encoder::first_stage_alone(
        Bundle::open(&tiny()).unwrap(),
        &EncoderConfig::default(),
        EncoderMetrics::default(),
    );
    assert!(error.err().unwrap().to_string().contains("router.cascade.enabled"));
    bundle.cascade = Some(cascade(&bundle.windows));
    let encoder =
        Encoder::first_stage_alone(bundle, &EncoderConfig::default(), EncoderMetrics::default()).unwrap();
    assert_eq!((encoder.execution_provider(), encoder.is_first_stage_alone()), ("none", true));
    assert_eq!(encoder.metrics().first_stage_alone.get(), 1);
    let read = encoder.features("hello", Reads::Categories).await.unwrap();
    assert_eq!(read.stage, Stage::First);
    assert!(read.features.top().unwrap().1 < 0.5);
    assert_eq!(encoder.features("hello", Reads::Embedding).await.unwrap_err(), EncodeError::NoEncoder);
    assert_eq!(encoder.embed(vec!["a".into()]).await.unwrap_err(), EncodeError::NoEncoder);
    assert_eq!(encoder.features_batch(&["a"], |_| ()).unwrap_err(), EncodeError::NoEncoder);
    encoder.shutdown();
}

#[test]
fn the_operator_turns_it_off_or_sets_its_threshold() {
    let with = |config| {
        let mut bundle = Bundle::open(&tiny()).unwrap();
        bundle.cascade = Some(cascade(&bundle.windows));
        bundle.with_cascade(&config).cascade.map(|cascade| cascade.threshold)
    };
    assert_eq!(with(crate::CascadeConfig::default()), Some(0.9));
    assert_eq!(with(crate::CascadeConfig { threshold: Some(0.5), enabled: true }), Some(0.5));
    assert_eq!(with(crate::CascadeConfig { threshold: None, enabled: false }), None);
}
