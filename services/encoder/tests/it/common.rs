use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use encoder::{Bundle, Encoder, EncoderConfig, Places, Provider, Runtime, locate};

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny")
}

/// The library that `make test` provides. A machine without it fails these tests; it does not pass them.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let env = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
        let places = Places { working_dir: Some(repository()), ..Places::default() };
        let path = locate(None, env.as_deref(), &places)
            .unwrap_or_else(|error| panic!("these tests need ONNX Runtime, run `make deps` first: {error}"));
        Runtime::load(&path).unwrap_or_else(|error| panic!("{error}"))
    })
}

pub(crate) fn config() -> EncoderConfig {
    EncoderConfig { provider: Provider::Cpu, sessions: 2, ..EncoderConfig::default() }
}

pub(crate) fn encoder(config: &EncoderConfig) -> Encoder {
    let bundle = Bundle::open(&tiny()).unwrap();
    Encoder::start(bundle, config, runtime()).unwrap_or_else(|error| panic!("{error}"))
}
