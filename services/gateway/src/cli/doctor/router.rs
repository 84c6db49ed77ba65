//! The router model: its library, its bundle, and whether both work together.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use encoder::{Bundle, Encoder, EncoderError, EncoderMetrics, Provider, Runtime, RuntimeError};

use super::report::{Check, Section, bytes};
use crate::config::RouterConfig;
use crate::metrics::process::resident_bytes;

/// What was found out about the router model. What is wrong is told by the errors' own texts.
#[derive(Clone, Debug)]
pub(super) struct Router {
    pub(super) library: Result<PathBuf, String>,
    pub(super) bundle: Result<Files, String>,
    /// `None` where library or bundle cannot be used.
    pub(super) model: Option<Result<Model, String>>,
}

#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) name: String,
    pub(super) directory: PathBuf,
    pub(super) categories: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) took: Duration,
    /// Memory that it took, where the system tells.
    pub(super) memory: Option<u64>,
    pub(super) provider: String,
}

impl Router {
    /// Loads the router as `serve` does, and lets it go again. Blocks while it does.
    pub(super) fn try_out(config: &RouterConfig, ort_dylib_path: Option<&Path>) -> Self {
        let found =
            encoder::locate(config.onnxruntime.as_deref(), ort_dylib_path, &encoder::Places::of_process());
        let missing = matches!(found, Err(RuntimeError::NotFound { .. }));
        let runtime = found.and_then(|path| Runtime::load(&path)).map_err(|error| match error {
            RuntimeError::NotFound { tried } => format!(
                "not found in any of {} places; run `make deps` in the repository or `pip install onnxruntime`, or name \
                 the file with --onnxruntime or ORT_DYLIB_PATH",
                tried.len()
            ),
            other => other.to_string(),
        });
        let bundle = crate::app::find_bundle(&config.bundle)
            .map_err(|e| e.to_string())
            .and_then(|directory| Bundle::open(&directory).map_err(|e| e.to_string()))
            .map(|bundle| bundle.with_cascade(&config.cascade));
        let library = runtime.as_ref().map(|runtime| runtime.path().to_owned()).map_err(Clone::clone);
        let files = bundle.as_ref().map_err(Clone::clone).map(|bundle| Files {
            name: format!("{} {}", bundle.manifest.name, bundle.manifest.version),
            directory: bundle.dir.clone(),
            categories: bundle.manifest.categories.iter().map(|c| c.name.clone()).collect(),
        });
        let model = match (runtime, bundle) {
            (_, Ok(bundle))
                if config.encoder.provider == Provider::None || missing && bundle.has_first_stage() =>
            {
                Some(start(|| Encoder::first_stage_alone(bundle, &config.encoder, EncoderMetrics::default())))
            }
            (Ok(runtime), Ok(bundle)) => Some(start(|| Encoder::start(bundle, &config.encoder, &runtime))),
            _ => None,
        };
        Self { library, bundle: files, model }
    }

    fn serves_alone(&self) -> bool {
        matches!(&self.model, Some(Ok(model)) if model.provider == Provider::None.name())
    }

    pub(super) fn checks(&self, config: &RouterConfig) -> Vec<Check> {
        let here = Section::Router;
        let mut checks = vec![
            match &self.library {
                Ok(path) => here.ok("library", format!("{} fits", path.display())),
                Err(error) if self.serves_alone() => here.warning(
                    "library",
                    format!("{}; the bundle's first stage serves alone, without embeddings", essence(error)),
                    "install ONNX Runtime 1.20 or newer: run `make deps`",
                ),
                Err(error) => {
                    here.error("library", error, "install ONNX Runtime 1.20 or newer: run `make deps`")
                }
            },
            match &self.bundle {
                Ok(files) => here.ok(
                    "bundle",
                    format!(
                        "{} in {}: {} categories, hashes match",
                        files.name,
                        files.directory.display(),
                        files.categories.len()
                    ),
                ),
                Err(error) => here.error(
                    "bundle",
                    essence(error),
                    "restore the bundle, or set router.bundle to another one",
                ),
            },
        ];
        match &self.model {
            Some(Ok(model)) => {
                let memory = model.memory.map(|m| format!(", {} of memory", bytes(m))).unwrap_or_default();
                let took = format!("{:.1} s", model.took.as_secs_f64());
                checks
                    .push(here.ok("model", format!("reproduces its golden input, ready in {took}{memory}")));
                let wanted = config.encoder.provider.name();
                checks.push(
                    here.ok("provider", format!("{} (router.encoder.provider: {wanted})", model.provider)),
                );
            }
            Some(Err(error)) => {
                checks.push(here.error("model", error, "restore the bundle from where it came from"));
            }
            None => {}
        }
        checks
    }
}

/// What stands for [`Router::checks`] where no route looks at prompts.
pub(super) fn not_needed() -> Check {
    Section::Router.ok("needed", "no: no route looks at prompts, so no model is loaded")
}

fn start(make: impl FnOnce() -> Result<Encoder, EncoderError>) -> Result<Model, String> {
    let before = resident_bytes();
    let begun = Instant::now();
    let encoder = make().map_err(|e| e.to_string())?;
    let model = Model {
        took: begun.elapsed(),
        memory: resident_bytes().zip(before).map(|(after, before)| after.saturating_sub(before)),
        provider: encoder.execution_provider().to_owned(),
    };
    encoder.shutdown();
    Ok(model)
}

/// The error's own words, without what `serve` puts before them and without the list of places after them.
fn essence(error: &str) -> &str {
    let error = error.strip_prefix("the router model cannot be loaded: ").unwrap_or(error);
    let first = error.lines().next().unwrap_or(error);
    first.strip_suffix(" These places were tried:").unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    fn router() -> Router {
        Router {
            library: Ok("/lib/libonnxruntime.so".into()),
            bundle: Ok(Files {
                name: "default 3".into(),
                directory: "/b".into(),
                categories: vec!["math".into()],
            }),
            model: Some(Ok(Model {
                took: Duration::from_millis(812),
                memory: Some(200 << 20),
                provider: "CPUExecutionProvider".into(),
            })),
        }
    }

    #[test]
    fn what_works_is_told_with_its_cost() {
        let checks = router().checks(&RouterConfig::default());
        assert!(checks.iter().all(|c| c.status == Status::Ok), "{checks:?}");
        assert_eq!(checks[2].detail, "reproduces its golden input, ready in 0.8 s, 200.0 MiB of memory");
        assert_eq!(checks[3].detail, "CPUExecutionProvider (router.encoder.provider: auto)");
    }

    #[test]
    fn what_is_broken_is_told_with_its_remedy() {
        let broken = Router {
            library: Err("not found in any of 3 places; run `make deps`".into()),
            bundle: Err("/b/model.onnx: sha256 is 1, the manifest says 2; copy it again".into()),
            model: None,
        };
        let checks = broken.checks(&RouterConfig::default());
        let told: Vec<_> = checks.iter().map(|c| (c.name.as_str(), c.status, c.remedy.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("library", Status::Failure, Some("run `make deps`")),
                ("bundle", Status::Failure, Some("copy it again"))
            ]
        );
        let alone = Router {
            library: Err("not found in any of 3 places; run `make deps`".into()),
            model: Some(Ok(Model { took: Duration::ZERO, memory: None, provider: "none".into() })),
            ..router()
        };
        let check = alone.checks(&RouterConfig::default()).remove(0);
        assert_eq!((check.name.as_str(), check.status), ("library", Status::Warning));
        let odd = Router { model: Some(Err("no thread".into())), ..router() };
        let check = odd.checks(&RouterConfig::default()).pop().unwrap();
        assert_eq!((check.name.as_str(), check.status), ("model", Status::Failure));
    }
}
