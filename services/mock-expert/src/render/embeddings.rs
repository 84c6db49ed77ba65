//! Embeddings: every word has a fixed direction, a text is the sum of its words.

use base64::Engine;

use super::quoted;
use crate::answer::digest;
use crate::latency::unit;

/// The answer to an embeddings request.
pub(crate) fn embeddings(model: &str, inputs: &[String], dimensions: usize, base64: bool) -> String {
    let entries: Vec<String> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = embed(text, dimensions);
            let value = if base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                quoted(&base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                // A list of finite numbers can always be written.
                serde_json::to_string(&vector).unwrap_or_default()
            };
            format!(r#"{{"object":"embedding","index":{index},"embedding":{value}}}"#)
        })
        .collect();
    let tokens: usize = inputs.iter().map(|text| text.len() / 4 + 1).sum();
    format!(
        r#"{{"object":"list","data":[{}],"model":{},"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}}}"#,
        entries.join(","),
        quoted(model)
    )
}

/// A vector of length one; texts that share words point in similar directions.
fn embed(text: &str, dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f64; dimensions];
    for word in std::iter::once("").chain(text.split_whitespace()) {
        let seed = digest(&[&word.to_lowercase()]);
        for (place, value) in sum.iter_mut().enumerate() {
            *value += unit(seed, place as u64) - 0.5;
        }
    }
    let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    sum.iter().map(|x| (x / norm) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        embed(a, 64).iter().zip(embed(b, 64)).map(|(x, y)| x * y).sum()
    }

    #[test]
    fn similar_texts_are_near_and_lengths_are_one() {
        assert!((cosine("a red car", "a red car") - 1.0).abs() < 1e-5);
        assert!(cosine("a red car", "a red bus") > cosine("a red car", "sort this list"));
    }
}
