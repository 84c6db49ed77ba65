//! What reading a request's body costs. Run: `cargo bench -p gateway`.

use bytes::Bytes;
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use experts::Operation;
use gateway::pipeline::decode::decode;

fn main() {
    divan::main();
}

/// A chat of about this many bytes, in messages of at most 2 KiB.
fn chat(bytes: usize) -> Bytes {
    let text =
        "Explain what a router gateway does, and say \\\"why\\\" it matters.\\n".repeat(bytes / 64 + 1);
    let messages: Vec<String> = text.as_bytes()[..bytes]
        .chunks(2048)
        .map(|part| String::from_utf8_lossy(part).trim_end_matches('\\').to_owned())
        .map(|part| format!(r#"{{"role":"user","content":"{part}"}}"#))
        .collect();
    format!(r#"{{"model":"auto","temperature":0.2,"messages":[{}]}}"#, messages.join(",")).into()
}

#[divan::bench(args = [256, 1024, 16_384, 262_144])]
fn body(bencher: Bencher<'_, '_>, bytes: usize) {
    let body = chat(bytes);
    bencher
        .counter(BytesCount::new(body.len()))
        .bench(|| decode(Operation::ChatCompletions, black_box(body.clone()), 64).is_ok());
}
