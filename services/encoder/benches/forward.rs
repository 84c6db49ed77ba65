//! What reading a prompt costs: the forward pass alone, tokenising alone, the first stage, and a hit in the cache.
//!
//!     make deps && cargo bench -p encoder
//!
//! The forward pass is that of `router-models/default` on the CPU, one session, one thread; its figure
//! includes the way through the queue (microseconds). Without bundle or ONNX Runtime nothing is measured,
//! and the output says so.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, Divan};
use encoder::{Bundle, Encoder, EncoderConfig, Places, Provider, Runtime, Tokenized, locate};
use routing::Reads;

const TEXT: &str = "Write a function in Rust that reverses a linked list, and explain why it terminates. ";

#[expect(clippy::print_stdout, reason = "the reason for measuring nothing belongs beside the measurements")]
fn main() {
    match runtime().and_then(|runtime| start(runtime, 1)) {
        Ok(encoder) => {
            println!("{} on {}", encoder.bundle().name, encoder.execution_provider());
            encoder.shutdown();
            Divan::from_args().main();
        }
        Err(reason) => println!("SKIPPED, nothing was measured: {reason}"),
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The library is loaded once in a process, also here.
fn runtime() -> Result<&'static Runtime, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let loaded = RUNTIME.get_or_init(|| {
        let env = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
        let places = Places { working_dir: Some(repository()), ..Places::default() };
        let path = locate(None, env.as_deref(), &places).map_err(|error| error.to_string())?;
        Runtime::load(&path).map_err(|error| error.to_string())
    });
    loaded.as_ref().map_err(Clone::clone)
}

fn start(runtime: &Runtime, max_batch: usize) -> Result<Encoder, String> {
    let bundle =
        Bundle::open(&repository().join("router-models/default")).map_err(|error| error.to_string())?;
    let config = EncoderConfig {
        provider: Provider::Cpu,
        sessions: 1,
        intra_op_threads: 1,
        max_batch,
        max_batch_tokens: usize::MAX,
        ..EncoderConfig::default()
    };
    Encoder::start(bundle, &config, runtime).map_err(|error| error.to_string())
}

/// `main` has started one already.
fn encoder(max_batch: usize) -> Option<Encoder> {
    start(runtime().ok()?, max_batch).ok()
}

#[divan::bench(args = [(32, 1), (32, 8), (32, 32), (128, 1), (128, 8), (128, 32), (256, 1), (256, 8), (256, 32)], max_time = 6)]
fn forward_tokens_batch(bencher: Bencher<'_, '_>, (tokens, batch): (u32, usize)) {
    let Some(encoder) = encoder(batch) else { return };
    let window =
        Tokenized { ids: (1000..1000 + tokens).collect(), tokens, truncated_tokens: 0, estimated: false };
    let windows = vec![window; batch];
    bencher
        .counter(ItemsCount::new(batch))
        .bench_local(|| encoder.features_of_windows(black_box(&windows), |_| ()));
    encoder.shutdown();
}

#[divan::bench(args = [50, 170, 500, 2_000, 8_000, 4_000_000])]
fn tokenise_bytes(bencher: Bencher<'_, '_>, bytes: usize) {
    let Some(encoder) = encoder(1) else { return };
    let text: String = TEXT.chars().cycle().take(bytes).collect();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| encoder.tokenize_window(black_box(&text)));
    encoder.shutdown();
}

/// A whole decision of the first stage: 128 tokens are some 530 bytes.
#[divan::bench(args = [50, 170, 530, 2_000, 8_000])]
fn first_stage_bytes(bencher: Bencher<'_, '_>, bytes: usize) {
    let Some(encoder) = encoder(1) else { return };
    let Some(first) = encoder.first_stage() else { return };
    let text: String = TEXT.chars().cycle().take(bytes).collect();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let window = encoder.tokenize_window(black_box(&text));
        window.map(|window| first.probabilities(&window.ids))
    });
    encoder.shutdown();
}

#[divan::bench(args = [170, 8_000, 4_000_000])]
fn cache_hit_bytes(bencher: Bencher<'_, '_>, bytes: usize) {
    let Some(encoder) = encoder(1) else { return };
    let Ok(tokio) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let text: String = TEXT.chars().cycle().take(bytes).collect();
    drop(tokio.block_on(encoder.features(&text, Reads::Embedding)));
    bencher.bench_local(|| tokio.block_on(encoder.features(black_box(&text), Reads::Embedding)));
    encoder.shutdown();
}
