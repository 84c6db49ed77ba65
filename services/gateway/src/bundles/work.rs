//! The steps that operations on bundles are made of. They run one operation at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use stores::{AuditEntry, Change};
use tokio_util::task::TaskTracker;

use super::comparison::{Setup, ShadowMetrics, Tally};
use super::library::{Found, Library};
use super::shadow::Shadow;
use super::starter::Starter;
use super::state::State;
use super::{BundleView, BundlesError, By};
use crate::catalog::{Catalog, ChangeError};

/// What the operations share.
pub(super) struct Inner {
    pub(super) starter: Starter,
    pub(super) library: Library,
    pub(super) catalog: Arc<Catalog>,
    pub(super) slot: Arc<ArcSwapOption<Shadow>>,
    pub(super) metrics: ShadowMetrics,
    /// Whose turn it is to start a model or to change what is there. An async mutex: the work is awaited under it.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) known: Mutex<Known>,
    /// What goes on beside requests, and operations whose client may leave.
    pub(super) tasks: TaskTracker,
}

/// What is known beside the directories.
pub(super) struct Known {
    pub(super) state: State,
    /// By bundle, why it does not do what it was told to.
    pub(super) problems: BTreeMap<String, String>,
    /// The latest comparison.
    pub(super) tally: Option<Arc<Tally>>,
}

impl Inner {
    pub(super) fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn find(self: &Arc<Self>, id: &str) -> Result<Found, BundlesError> {
        let (inner, id) = (self.clone(), id.to_owned());
        blocking(move || inner.library.find(&id)).await
    }

    /// The id of the bundle that decides.
    pub(super) fn active(&self) -> Result<Arc<str>, BundlesError> {
        let view = self.catalog.view();
        if view.router.encoder.is_none() {
            let message = "no router model is loaded, because no route looks at prompts; set router.load: always and restart";
            return Err(BundlesError::Conflict(message.into()));
        }
        Ok(view.router.bundle.clone())
    }

    /// Starts a bundle once and ends it; tells what computed it.
    pub(super) fn try_out(&self, dir: &Path) -> Result<String, String> {
        let model = self.starter.try_out(dir)?;
        let Some(encoder) = model.encoder else { return Ok(String::new()) };
        let provider = encoder.execution_provider().to_owned();
        encoder.shutdown();
        Ok(provider)
    }

    pub(super) async fn activate(
        self: Arc<Self>,
        found: Found,
        action: &'static str,
        by: By,
    ) -> Result<BundleView, BundlesError> {
        let active = self.active()?;
        if *active == *found.id {
            let stored = self.known().state.clone();
            // It may decide only because the one that should does not start.
            if stored.active.as_ref().is_some_and(|id| *id != found.id) && !by.dry_run {
                let state = State { active: Some(found.id.clone()), ..stored };
                self.remember(state, audit(action, &found.id, &by)).await?;
                self.known().problems.clear();
            }
            return Ok(self.view(&found));
        }
        let (inner, dir) = (self.clone(), found.dir.clone());
        let model = blocking(move || inner.starter.start(&dir).map_err(BundlesError::Invalid)).await?;
        // A shadow ends: what it was compared with does not decide any more.
        let state = State {
            active: Some(found.id.clone()),
            previous: Some(active.to_string()),
            shadow: None,
            ..self.known().state.clone()
        };
        let change = Change { writes: vec![state.write()?], audit: vec![audit(action, &found.id, &by)] };
        self.catalog.switch(model, change, by.dry_run).await?;
        if by.dry_run {
            return Ok(self.view(&found));
        }
        {
            let mut known = self.known();
            known.state = state;
            known.problems.remove(&found.id);
        }
        self.slot.store(None);
        tracing::info!(router.bundle = found.id, router.previous = %active, "another router model decides");
        Ok(self.view(&found))
    }

    /// Starts a model beside the one that decides.
    pub(super) async fn cast(
        self: &Arc<Self>,
        dir: PathBuf,
        sample: f64,
        now_ms: u64,
    ) -> Result<(), BundlesError> {
        let against = self.active()?;
        let inner = self.clone();
        let model = blocking(move || inner.starter.try_out(&dir).map_err(BundlesError::Invalid)).await?;
        let setup = Setup { against, sample, since_ms: now_ms, metrics: self.metrics.clone() };
        let (shadow, run) = Shadow::new(model, setup);
        self.tasks.spawn(run);
        self.known().tally = Some(shadow.tally().clone());
        self.slot.store(Some(Arc::new(shadow)));
        Ok(())
    }

    /// Stores what is to hold over a restart.
    pub(super) async fn remember(
        self: &Arc<Self>,
        state: State,
        audit: AuditEntry,
    ) -> Result<(), BundlesError> {
        let change = Change { writes: vec![state.write()?], audit: vec![audit] };
        let store = self.catalog.store().clone();
        blocking(move || Ok(store.commit(&change).map(drop).map_err(ChangeError::from)?)).await?;
        self.known().state = state;
        Ok(())
    }
}

pub(super) fn audit(action: &str, id: &str, by: &By) -> AuditEntry {
    AuditEntry {
        time_ms: by.now_ms,
        actor: by.actor.clone(),
        action: format!("bundle.{action}"),
        object: format!("bundles/{id}"),
        detail: serde_json::Value::Null,
    }
}

/// Runs what waits for the disk or computes for long on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundlesError> + Send + 'static,
) -> Result<T, BundlesError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| BundlesError::Internal(e.to_string()))?
}
