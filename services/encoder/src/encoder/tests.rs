//! Queue, cache and cancellation around a model that the test drives.

use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::*;
use crate::model::{Batch, Matrix, Model, Outputs};

mod cascade;

/// Tells the test of every batch and waits for its answer.
struct Driven {
    entered: mpsc::Sender<Batch>,
    answers: mpsc::Receiver<Answer>,
}

enum Answer {
    Logits([f32; 3]),
    Fail,
    Panic,
}

impl Model for Driven {
    fn forward(&mut self, batch: &Batch, _heads: Heads) -> Result<Outputs, String> {
        self.entered.send(batch.clone()).unwrap();
        let logits = match self.answers.recv().unwrap() {
            Answer::Logits(logits) => logits,
            Answer::Fail => return Err("out of luck".to_owned()),
            Answer::Panic => panic!("the model panics on purpose"),
        };
        let embedding = Matrix { values: vec![0.5; batch.rows * 8], width: 8 };
        Ok(Outputs {
            embedding,
            logits: Matrix { values: logits.repeat(batch.rows), width: 3 },
            ..Outputs::default()
        })
    }
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny")
}

struct Bed {
    encoder: Encoder,
    entered: mpsc::Receiver<Batch>,
    answers: mpsc::Sender<Answer>,
}

const SURE: Answer = Answer::Logits([9.0, 0.0, 0.0]);

impl Bed {
    /// One driven session.
    fn new(change: impl FnOnce(&mut EncoderConfig)) -> Self {
        Self::with(change, |_| None)
    }

    /// With a first stage before it.
    fn with(
        change: impl FnOnce(&mut EncoderConfig),
        cascade: impl FnOnce(&Windows) -> Option<Cascade>,
    ) -> Self {
        let mut config = EncoderConfig {
            max_batch: 8,
            max_batch_tokens: 512,
            max_wait_us: 0,
            queue_limit: 8,
            ..EncoderConfig::default()
        };
        change(&mut config);
        let Bundle { manifest, windows, .. } = Bundle::open(&tiny()).unwrap();
        let cascade = cascade(&windows);
        let (entered, batches) = mpsc::channel();
        let (answers, given) = mpsc::channel();
        let models: Vec<Box<dyn Model>> = vec![Box::new(Driven { entered, answers: given })];
        let parts = start::Parts { manifest, windows, cascade, models, provider: Some("cpu") };
        let inner = start::launch(parts, &config, EncoderMetrics::default()).unwrap();
        Self { encoder: Encoder(Arc::new(inner)), entered: batches, answers }
    }

    /// A caller with a prompt, which has got as far as it gets without an answer.
    async fn ask(&self, text: &str) -> tokio::task::JoinHandle<Result<Encoded, EncodeError>> {
        let (encoder, text) = (self.encoder.clone(), text.to_owned());
        let task = tokio::spawn(async move { encoder.features(&text, Reads::Embedding).await });
        tokio::task::yield_now().await;
        task
    }

    fn answer(&self, answer: Answer) {
        self.answers.send(answer).unwrap();
    }

    fn batch(&self) -> Batch {
        self.entered.recv().unwrap()
    }
}

#[tokio::test]
async fn what_arrives_during_a_pass_goes_into_the_next_one_together() {
    let bed = Bed::new(|_| {});
    let first = bed.ask("a").await;
    assert_eq!(bed.batch().rows, 1);
    let others = [bed.ask("b").await, bed.ask("c c").await, bed.ask("d").await];
    bed.answer(SURE);
    let batch = bed.batch();
    assert_eq!((batch.rows, batch.width), (3, 4));
    assert_eq!(batch.mask, [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 0]);
    bed.answer(SURE);
    assert_eq!(first.await.unwrap().unwrap().features.top().unwrap().0, 0);
    for other in others {
        other.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_recovers() {
    let bed = Bed::new(|config| config.queue_limit = 1);
    let first = bed.ask("a").await;
    bed.batch();
    assert_eq!(bed.encoder.features("b", Reads::Embedding).await.unwrap_err(), EncodeError::Overloaded);
    assert_eq!(bed.encoder.embed(vec!["b".into()]).await.unwrap_err(), EncodeError::Overloaded);
    assert_eq!(bed.encoder.metrics().refusals.get(), 2);
    bed.answer(SURE);
    first.await.unwrap().unwrap();
    bed.answer(SURE);
    assert!(bed.encoder.features("b", Reads::Embedding).await.is_ok());
}

#[tokio::test]
async fn a_caller_that_left_the_queue_is_skipped() {
    let bed = Bed::new(|_| {});
    let first = bed.ask("a").await;
    bed.batch();
    let (gone, stays) = (bed.ask("b b b").await, bed.ask("c").await);
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    bed.answer(SURE);
    let batch = bed.batch();
    assert_eq!((batch.rows, batch.width), (1, 3), "only `c` is left");
    bed.answer(SURE);
    first.await.unwrap().unwrap();
    stays.await.unwrap().unwrap();
}

#[tokio::test]
async fn identical_prompts_share_a_pass_and_the_next_hits_the_cache() {
    let bed = Bed::new(|_| {});
    let (leads, joins) = (bed.ask("a").await, bed.ask("a").await);
    assert_eq!(bed.batch().rows, 1);
    bed.answer(SURE);
    assert_eq!(leads.await.unwrap().unwrap().cache, CacheOutcome::Miss);
    assert_eq!(joins.await.unwrap().unwrap().cache, CacheOutcome::Joined);
    assert_eq!(bed.encoder.features("a", Reads::Embedding).await.unwrap().cache, CacheOutcome::Hit);
    let count = |outcome| bed.encoder.metrics().cache.get_or_create(&crate::CacheLabels { outcome }).get();
    assert_eq!([CacheOutcome::Miss, CacheOutcome::Joined, CacheOutcome::Hit].map(count), [1, 1, 1]);
}

#[tokio::test]
async fn when_the_leading_caller_leaves_the_next_one_takes_over() {
    let bed = Bed::new(|_| {});
    let (leads, heir) = (bed.ask("a").await, bed.ask("a").await);
    bed.batch();
    leads.abort();
    assert!(leads.await.unwrap_err().is_cancelled());
    tokio::task::yield_now().await;
    bed.answer(Answer::Logits([0.0, 9.0, 0.0]));
    bed.batch();
    bed.answer(Answer::Logits([0.0, 0.0, 9.0]));
    let read = heir.await.unwrap().unwrap();
    assert_eq!((read.cache, read.features.top().unwrap().0), (CacheOutcome::Miss, 2));
}

#[tokio::test]
async fn errors_reach_everyone_in_the_batch_and_are_not_kept() {
    let bed = Bed::new(|_| {});
    let task = bed.ask("a").await;
    bed.batch();
    let others = [bed.ask("b").await, bed.ask("c").await];
    bed.answer(Answer::Logits([1.0, f32::NAN, 0.0]));
    assert_eq!(task.await.unwrap().unwrap_err(), EncodeError::NotFinite("category_logits"));
    assert_eq!(bed.batch().rows, 2);
    bed.answer(Answer::Fail);
    for other in others {
        assert_eq!(other.await.unwrap().unwrap_err(), EncodeError::Inference("out of luck".to_owned()));
    }
    bed.answer(SURE);
    assert_eq!(bed.encoder.features("a", Reads::Embedding).await.unwrap().cache, CacheOutcome::Miss);
}

#[tokio::test]
async fn when_the_last_session_dies_nobody_waits_for_ever() {
    let bed = Bed::new(|_| {});
    let (first, second) = (bed.ask("a").await, bed.ask("b").await);
    bed.batch();
    bed.answer(Answer::Panic);
    assert_eq!(first.await.unwrap().unwrap_err(), EncodeError::Closed);
    assert_eq!(second.await.unwrap().unwrap_err(), EncodeError::Closed);
    assert_eq!(bed.encoder.features("c", Reads::Embedding).await.unwrap_err(), EncodeError::Closed);
}

#[tokio::test]
async fn shutdown_finishes_what_is_queued_and_takes_no_more() {
    let bed = Bed::new(|_| {});
    let (first, second) = (bed.ask("a").await, bed.ask("b b b b b b b b b b b b b b").await);
    bed.answer(SURE);
    bed.answer(SURE);
    let encoder = bed.encoder.clone();
    tokio::task::spawn_blocking(move || encoder.shutdown()).await.unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(bed.encoder.features("c", Reads::Embedding).await.unwrap_err(), EncodeError::Closed);
    assert_eq!(bed.encoder.embed(vec!["c".into()]).await.unwrap_err(), EncodeError::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_of_embeddings_holds_few_places_at_a_time() {
    let bed = Bed::new(|config| config.max_batch = 2);
    let encoder = bed.encoder.clone();
    let texts = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
    let task = tokio::spawn(async move { encoder.embed(texts).await });
    let mut rows = 0;
    while rows < 5 {
        rows += bed.batch().rows;
        assert!(bed.encoder.0.permits.available_permits() >= 6);
        bed.answer(SURE);
    }
    let embeddings = task.await.unwrap().unwrap();
    assert_eq!(embeddings.len(), 5);
    assert!(embeddings.iter().all(|e| e.tokens == 3 && e.vector.len() == 8));
}
