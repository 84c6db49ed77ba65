use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use encoder::{Bundle, Encoder, EncoderConfig, Places, Provider, Runtime, locate};
use tempfile::TempDir;
use training::router::TrainOptions;

/// The encoder's own test bundle: random weights, 8 dimensions, the categories code, math and chat.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../encoder/tests/data/tiny")
}

/// The library that `make test` provides. A machine without it fails these tests; it does not pass them.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let env = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let places = Places { working_dir: Some(repository), ..Places::default() };
        let path = locate(None, env.as_deref(), &places)
            .unwrap_or_else(|error| panic!("these tests need ONNX Runtime, run `make deps` first: {error}"));
        Runtime::load(&path).unwrap_or_else(|error| panic!("{error}"))
    })
}

pub(crate) fn config() -> EncoderConfig {
    EncoderConfig { provider: Provider::Cpu, sessions: 1, ..EncoderConfig::default() }
}

pub(crate) fn encoder(bundle: &Path) -> Encoder {
    let bundle = Bundle::open(bundle).unwrap_or_else(|error| panic!("{error}"));
    Encoder::start(bundle, &config(), runtime()).unwrap_or_else(|error| panic!("{error}"))
}

/// Rows of three kinds that words tell apart, `each` of every kind.
pub(crate) fn rows(each: usize) -> String {
    let kinds = [
        (
            "music",
            ["say hello to people", "hello, do you like water", "say thank you", "come and look at my oil"],
        ),
        (
            "python",
            ["sort the list in python", "python function code", "make the code find numbers", "code to sort"],
        ),
        (
            "proof",
            [
                "prove the theorem",
                "add the numbers to a sum",
                "a theorem about the sum",
                "prove it, one number",
            ],
        ),
    ];
    let mut lines = String::new();
    for i in 0..each {
        for (category, texts) in kinds {
            let text = format!("{} {}", texts[i % texts.len()], "abcdefghij".split_at(i % 10).0);
            writeln!(lines, r#"{{"text":"{text} {i}","category":"{category}","license":"L{}"}}"#, i % 2)
                .unwrap();
        }
    }
    lines
}

/// A directory with training rows, and options that train on them.
pub(crate) fn options() -> (TempDir, TrainOptions) {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("rows.jsonl");
    std::fs::write(&data, rows(40)).unwrap();
    let mut options = TrainOptions::new(tiny(), data, home.path().join("new"), runtime().clone());
    options.encoder = config();
    options.lexical_penalty = 1e-3;
    options.embedding_penalty = 1e-3;
    options.max_steps = 40;
    (home, options)
}
