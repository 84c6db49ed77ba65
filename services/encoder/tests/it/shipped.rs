//! The bundle that the repository ships.

use encoder::{Bundle, Encoder, EncoderConfig};

use crate::common::{config, repository, runtime};

fn shipped(config: &EncoderConfig) -> Encoder {
    let bundle =
        Bundle::open(&repository().join("router-models/default")).unwrap_or_else(|error| panic!("{error}"));
    Encoder::start(bundle, config, runtime()).unwrap_or_else(|error| panic!("{error}"))
}

/// Prompts of all lengths, from one word to far beyond the window.
fn prompts() -> Vec<String> {
    let subjects = [
        "Write a function in Rust that reverses a linked list.",
        "What is the integral of x squared from zero to one?",
        "Translate `good morning` into French and German.",
        "My tooth aches since yesterday, what can I take against it?",
        "Is a verbal contract binding under English law?",
        "Hello!",
    ];
    (0..30).map(|n| [subjects[n % 6], "And give reasons. "].concat().repeat(1 + (n * n) % 23)).collect()
}

/// Results must not depend on the neighbours in a batch.
#[test]
fn a_prompt_gives_the_same_alone_and_in_a_mixed_batch() {
    let prompts = prompts();
    let alone = shipped(&EncoderConfig { max_batch: 1, ..config() });
    let alone = alone.features_batch(&prompts, |_| ()).unwrap();
    let together = shipped(&EncoderConfig { max_batch: 16, max_batch_tokens: 4096, sessions: 1, ..config() });
    let together = together.features_batch(&prompts, |_| ()).unwrap();
    for ((prompt, one), many) in prompts.iter().zip(&alone).zip(&together) {
        assert_eq!(one.top().unwrap().0, many.top().unwrap().0, "{prompt}");
        for (a, b) in one.probabilities.iter().zip(&*many.probabilities) {
            assert!((a - b).abs() < 1e-4, "{prompt}: {a} {b}");
        }
        for (a, b) in one.embedding.iter().zip(&*many.embedding) {
            assert!((a - b).abs() < 1e-4, "{prompt}: {a} {b}");
        }
    }
}

/// The trainer fits heads to what the graph's own head reads: the mean, `[CLS]`, the first and the last tokens.
#[test]
fn the_head_reads_the_ends_of_a_prompt_apart_from_its_mean() {
    let encoder = shipped(&config());
    let prompts = ["Fix it. ".to_owned() + &"The cat sat on the mat. ".repeat(9), "Hello".to_owned()];
    let features = encoder.features_batch(&prompts, |_| ()).unwrap();
    let inputs = encoder.head_inputs(&prompts, |_| ()).unwrap();
    for (features, input) in features.iter().zip(&inputs) {
        let width = features.embedding.len();
        assert_eq!(input.len(), 4 * width);
        for part in input.chunks_exact(width) {
            let norm = part.iter().map(|x| x * x).sum::<f32>().sqrt();
            assert!((norm - 0.5).abs() < 1e-4, "{norm}");
        }
        assert!(input.iter().zip(&*features.embedding).all(|(a, b)| (2.0 * a - b).abs() < 1e-4));
    }
    let similar = |input: &[f32], at: usize| {
        let (mean, part) = (&input[..384], &input[384 * at..384 * (at + 1)]);
        4.0 * mean.iter().zip(part).map(|(a, b)| a * b).sum::<f32>()
    };
    // "[CLS] hello [SEP]" has no more tokens than an end: both ends are the whole.
    assert!(similar(&inputs[1], 2) > 0.999 && similar(&inputs[1], 3) > 0.999);
    assert!(similar(&inputs[0], 2) < 0.99, "the long prompt begins as it does not go on");
}
