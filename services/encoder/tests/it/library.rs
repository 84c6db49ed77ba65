//! Libraries and providers that cannot be used.

use std::fs;
use std::path::PathBuf;

use encoder::{Bundle, Encoder, EncoderConfig, Provider, Runtime, RuntimeError};

use crate::common::{config, encoder, runtime, tiny};

#[test]
fn an_unusable_library_is_an_error_and_another_one_may_be_loaded_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("libonnxruntime.so");
    fs::write(&text, "not a library").unwrap();
    let mut unusable = vec![text, dir.path().join("gone.so"), dir.path().to_owned()];
    // A sound library that is another one.
    let other = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/lib64/libm.so.6"];
    unusable.extend(other.iter().map(PathBuf::from).find(|path| path.exists()));
    for path in unusable {
        match Runtime::load(&path) {
            Err(error @ RuntimeError::Unusable { .. }) => {
                let error = error.to_string();
                assert!(error.contains(path.to_str().unwrap()) && error.contains("make deps"), "{error}");
            }
            // With threads for tests, another test has loaded the library by now.
            Err(RuntimeError::Loaded) => {}
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    assert!(runtime().build_info().contains("ORT Build Info"));
}

#[test]
fn a_second_runtime_in_one_process_is_refused() {
    let first = runtime();
    assert!(matches!(Runtime::load(first.path()), Err(RuntimeError::Loaded)));
}

#[test]
fn a_provider_that_the_library_lacks_is_an_error_and_auto_takes_the_cpu() {
    for (provider, name) in [(Provider::Cuda, "cuda"), (Provider::Tensorrt, "tensorrt")] {
        let config = EncoderConfig { provider, ..config() };
        match Encoder::start(Bundle::open(&tiny()).unwrap(), &config, runtime()) {
            // On a machine with such a GPU and such a library it is right that it starts.
            Ok(encoder) => assert_eq!(encoder.execution_provider(), name),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains(&format!("`{name}`")) && error.contains("encoder.provider"),
                    "{error}"
                );
            }
        }
    }
    let auto = encoder(&EncoderConfig { provider: Provider::Auto, ..config() });
    assert!(["cpu", "cuda"].contains(&auto.execution_provider()));
}

#[test]
fn settings_that_cannot_be_are_named() {
    let cases = [
        (EncoderConfig { intra_op_threads: 0, ..config() }, "intra_op_threads"),
        (EncoderConfig { queue_limit: 0, ..config() }, "queue_limit"),
        (EncoderConfig { queue_limit: usize::MAX, ..config() }, "queue_limit"),
    ];
    for (config, field) in cases {
        let error = Encoder::start(Bundle::open(&tiny()).unwrap(), &config, runtime()).err().unwrap();
        assert!(error.to_string().contains(field), "{error}");
    }
}
