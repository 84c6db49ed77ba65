use std::path::{Path, PathBuf};

use super::*;
use crate::bundle::Bundle;
use crate::config::Provider;
use crate::queue::softmax;
use crate::runtime::{Places, locate};
use crate::window::Excerpt;

/// The rule of batching never puts prompts of unlike length together; the graph must not care if it did.
#[test]
fn rows_of_a_batch_do_not_influence_each_other_whatever_their_lengths() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let env = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
    let places = Places { working_dir: Some(repository.clone()), ..Places::default() };
    let library = locate(None, env.as_deref(), &places)
        .unwrap_or_else(|error| panic!("this test needs ONNX Runtime, run `make deps` first: {error}"));
    let runtime = Runtime::load(&library).unwrap();
    let prompts = [
        "Hello!",
        "Write a function in Rust that reverses a linked list, and prove that it terminates.",
        "x",
        "",
        &"Is a verbal contract binding under English law? Give reasons. ".repeat(20),
        "What is the integral of x squared from zero to one?",
    ];
    for dir in ["services/encoder/tests/data/tiny", "router-models/default"] {
        let bundle = Bundle::open(&repository.join(dir)).unwrap_or_else(|error| panic!("{error}"));
        let config = EncoderConfig { provider: Provider::Cpu, ..EncoderConfig::default() };
        let mut model =
            OrtModel::build(&runtime, &bundle.model, &bundle.manifest, Engine::Cpu, &config, (1, 1)).unwrap();
        let limit = bundle.manifest.encoder.max_tokens;
        let windows: Vec<Vec<u32>> = prompts
            .iter()
            .map(|text| bundle.windows.routing(&Excerpt::of(text), limit).unwrap().ids)
            .collect();
        let together = model.forward(&Batch::pad(windows.iter().map(Vec::as_slice)), Heads::States).unwrap();
        for (row, window) in windows.iter().enumerate() {
            let alone =
                model.forward(&Batch::pad(std::iter::once(window.as_slice())), Heads::States).unwrap();
            let one = softmax(alone.logits.get(0).unwrap()).unwrap();
            let many = softmax(together.logits.get(row).unwrap()).unwrap();
            let top =
                |p: &[f32]| p.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(at, _)| at);
            assert_eq!(top(&one), top(&many), "{dir}, prompt {row}");
            let embeddings = alone.embedding.get(0).unwrap().iter().zip(together.embedding.get(row).unwrap());
            for (a, b) in one.iter().zip(&*many).chain(embeddings) {
                assert!((a - b).abs() < 1e-4, "{dir}, prompt {row}: {a} {b}");
            }
            let (own, among) = (alone.states.get(0).unwrap(), together.states.get(row).unwrap());
            assert_eq!(own.len(), bundle.manifest.encoder.dimensions);
            assert_eq!(own.iter().all(|x| *x == 0.0), window.len() == 2, "special tokens are left out");
            for (a, b) in own.iter().zip(among) {
                assert!((a - b).abs() < 1e-3, "{dir}, prompt {row}: state {a} {b}");
            }
        }
    }
}
