//! Log probabilities: made up, but of the right shape and the same every time.

use serde_json::{Value, json};

use super::Shape;
use crate::answer::{digest, tokens};
use crate::latency::unit;

/// Most alternatives of one token.
const MOST_BEST: usize = 20;

/// The log probabilities of a text's tokens with the `best` alternatives of each.
pub(super) fn of(shape: Shape, text: &str, best: usize) -> Value {
    let best = best.min(MOST_BEST);
    match shape {
        Shape::Chat => {
            let content: Vec<Value> = tokens(text).map(|token| chat_token(token, best)).collect();
            json!({ "content": content, "refusal": null })
        }
        Shape::Text => {
            let pieces: Vec<&str> = tokens(text).collect();
            let alternatives = |token: &&str| -> Value {
                (0..best)
                    .map(|rank| (alternative(token, rank), json!(log_probability(token, rank))))
                    .collect()
            };
            let mut offset = 0;
            let offsets: Vec<usize> = pieces
                .iter()
                .map(|piece| {
                    offset += piece.chars().count();
                    offset - piece.chars().count()
                })
                .collect();
            json!({
                "tokens": pieces,
                "token_logprobs": pieces.iter().map(|token| log_probability(token, 0)).collect::<Vec<_>>(),
                "top_logprobs": pieces.iter().map(alternatives).collect::<Vec<_>>(),
                "text_offset": offsets,
            })
        }
    }
}

fn chat_token(token: &str, best: usize) -> Value {
    let entry = |rank: usize| {
        let token = alternative(token, rank);
        json!({ "token": token, "logprob": log_probability(&token, rank), "bytes": token.as_bytes() })
    };
    let mut chosen =
        json!({ "token": token, "logprob": log_probability(token, 0), "bytes": token.as_bytes() });
    if let Some(members) = chosen.as_object_mut() {
        members.insert("top_logprobs".to_owned(), (0..best).map(entry).collect());
    }
    chosen
}

/// The alternative of that rank; the first is the token itself.
fn alternative(token: &str, rank: usize) -> String {
    if rank == 0 { token.to_owned() } else { format!("{token}~{rank}") }
}

fn log_probability(token: &str, rank: usize) -> f64 {
    let value = -0.1 * unit(digest(&[token]), 0) - rank as f64;
    (value * 1e4).round() / 1e4
}
