//! What a decision costs: processor time of all threads, and the time that its caller waits.

use std::time::Instant;

use encoder::{EncodeError, Encoder};
use serde::Serialize;

/// Cost of one decision, over prompts that were decided one after the other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Prompts that were decided.
    pub rows: usize,
    /// Mean processor time of the whole process, in microseconds; nothing where the system does not tell.
    pub cpu_us: Option<f64>,
    /// Median of the time from text to decision, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of that time, in microseconds.
    pub p99_us: f64,
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decider {
    First,
    Encoder,
    Cascade,
}

/// Decides prompts one after the other, tokenisation included.
pub(super) fn measure(encoder: &Encoder, texts: &[&str], who: Decider) -> Result<Option<Cost>, EncodeError> {
    if texts.is_empty() {
        return Ok(None);
    }
    // The first passes are slower: what they touch is not in the processor's caches.
    for text in texts.iter().take(8) {
        decide(encoder, text, who)?;
    }
    let mut waits = Vec::with_capacity(texts.len());
    let before = cpu_nanoseconds();
    for text in texts {
        let begun = Instant::now();
        decide(encoder, text, who)?;
        waits.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    let spent = cpu_nanoseconds().zip(before).map(|(after, before)| after.saturating_sub(before));
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share).round() as usize];
    Ok(Some(Cost {
        rows: texts.len(),
        cpu_us: spent.map(|spent| spent as f64 / 1e3 / texts.len() as f64),
        p50_us: at(0.5),
        p99_us: at(0.99),
    }))
}

fn decide(encoder: &Encoder, text: &str, who: Decider) -> Result<(), EncodeError> {
    let window = encoder.tokenize_window(text)?;
    if let Some(first) = encoder.first_stage().filter(|_| who != Decider::Encoder) {
        let probabilities = std::hint::black_box(first.probabilities(&window.ids));
        let threshold = encoder.threshold().unwrap_or(1.0);
        if who == Decider::First || probabilities.iter().any(|p| *p >= threshold) {
            return Ok(());
        }
    }
    encoder.features_of_windows(std::slice::from_ref(&window), |_| ()).map(drop)
}

/// Processor time that the threads of this process have had, in nanoseconds; nothing elsewhere than on Linux.
fn cpu_nanoseconds() -> Option<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let mut sum = 0;
    for task in tasks.flatten() {
        // A thread may end in between.
        let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}
