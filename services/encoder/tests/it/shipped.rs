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
