//! Taking over changes of the configuration file while the gateway runs.
//!
//! The file and the secret files it names are looked at once a second, and on SIGHUP at once. What they
//! declare of experts, routes, teams and keys replaces what they declared before; a file that cannot be used
//! changes nothing, and its problems are logged and shown by the admin API. Everything else in the file is
//! read at the start only; a change there is reported as waiting for a restart.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::app::App;
use crate::config::{Config, Loaded};
use crate::metrics::Metrics;
use crate::pipeline::now_ms;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// What became of the latest change of the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reload {
    /// Changes taken over since the start.
    pub applied: u64,
    /// When the last one was, in milliseconds since 1970 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_ms: Option<u64>,
    /// Why the file as it is now is not in use; absent when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Sections whose change waits for a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<&'static str>,
}

/// The configuration in effect, and what became of its file's latest change.
#[derive(Debug)]
pub struct Current {
    /// As the process was started with; sections that need a restart are these.
    started: Config,
    state: Mutex<(Arc<Config>, Reload)>,
}

impl Current {
    /// A configuration that has just been started with.
    pub fn new(config: Config) -> Self {
        let state = Mutex::new((Arc::new(config.clone()), Reload::default()));
        Self { started: config, state }
    }

    /// What is in effect.
    pub fn config(&self) -> Arc<Config> {
        self.lock().0.clone()
    }

    /// What became of the file's latest change.
    pub fn reload(&self) -> Reload {
        self.lock().1.clone()
    }

    /// Whether the file as it is now is in use already.
    fn is(&self, config: &Config) -> bool {
        let state = self.lock();
        state.1.problem.is_none() && state.1.needs_restart == self.started.need_restart(config) && {
            state.0.declared() == config.declared()
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Arc<Config>, Reload)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a configuration that is now in effect as far as it can be.
    fn applied(&self, new: Config, now_ms: u64) -> Reload {
        let needs_restart = self.started.need_restart(&new);
        let mut effective = self.started.clone();
        effective.take_declared(new);
        let mut state = self.lock();
        state.0 = Arc::new(effective);
        let applied = state.1.applied + 1;
        state.1 = Reload { applied, applied_ms: Some(now_ms), problem: None, needs_restart };
        state.1.clone()
    }

    fn refused(&self, problem: String) {
        self.lock().1.problem = Some(problem);
    }
}

/// A file as far as it shows whether it has changed. Kubernetes replaces a symlink: the inode tells.
type Mark = Option<(u64, u64, i64, i64)>;

fn marks(files: &[PathBuf]) -> Vec<Mark> {
    let mark = |file: &PathBuf| {
        let found = std::fs::metadata(file).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    files.iter().map(mark).collect()
}

/// Watches a configuration's files until `stop`.
pub(crate) async fn watch(app: Arc<App>, path: PathBuf, mut hangup: Signal, stop: CancellationToken) {
    let mut files = vec![path.clone()];
    // Nothing is in use yet as far as this task knows: the file may have changed since the start read it.
    let mut seen = Vec::new();
    // What was seen at the last look, when it differs from what is in use: a file that is still being
    // written, and is valid up to there, must not be taken for a short one.
    let mut settling = None;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => false,
            _ = hangup.recv() => true,
        };
        let now = marks(&files);
        if !asked {
            if now == seen {
                settling = None;
                continue;
            }
            if settling.as_ref() != Some(&now) {
                settling = Some(now);
                continue;
            }
        }
        settling = None;
        seen = now;
        if let Some(named) = reload(&app, &path).await
            && named != files
        {
            files = named;
            seen = marks(&files);
        }
    }
}

/// Reads the file and puts it into effect, or keeps what there is. The result is the files it was read from.
async fn reload(app: &App, path: &Path) -> Option<Vec<PathBuf>> {
    let metrics: &Metrics = &app.pipeline.metrics;
    let done = match crate::config::load(path, &|name| std::env::var(name).ok()) {
        Ok(Loaded { config, files }) if app.current.is(&config) => return Some(files),
        Ok(Loaded { config, files }) => match app.pipeline.catalog.redeclare(config.declared()).await {
            Ok(view) => Ok((view, config, files)),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    };
    match done {
        Ok((view, config, files)) => {
            metrics.reloaded(true);
            let state = app.current.applied(config, now_ms());
            tracing::info!(
                config.file = %path.display(),
                catalog.revision = view.revision,
                "the changed configuration file is in use"
            );
            if !state.needs_restart.is_empty() {
                let sections = state.needs_restart.join(", ");
                tracing::warn!(
                    sections,
                    "these sections of the configuration file have changed and wait for a restart"
                );
            }
            Some(files)
        }
        Err(problem) => {
            metrics.reloaded(false);
            tracing::error!(
                config.file = %path.display(),
                problem,
                "the changed configuration file cannot be used; what was in use stays"
            );
            app.current.refused(problem);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_a_restart_is_named_and_not_shown_as_in_effect() {
        let current = Current::new(Config::demo());
        let mut new = Config::demo();
        new.data.max_in_flight = 7;
        new.routes.clear();
        let state = current.applied(new, 5);
        assert_eq!(state.needs_restart, ["data"]);
        assert_eq!((state.applied, state.applied_ms), (1, Some(5)));
        let effective = current.config();
        assert!(effective.routes.is_empty());
        assert_eq!(effective.data, Config::demo().data);
    }

    #[test]
    fn a_refused_file_leaves_what_is_in_effect() {
        let current = Current::new(Config::demo());
        current.refused("routes[0].policy: no".into());
        assert_eq!(*current.config(), Config::demo());
        assert_eq!(current.reload().problem.as_deref(), Some("routes[0].policy: no"));
        current.applied(Config::demo(), 1);
        assert_eq!(current.reload().problem, None);
    }
}
