//! Router models that come and go while the gateway runs.
//!
//! ```text
//! upload -> unpack beside -> check whole, try out -> there -> shadow -> activate <-> roll back
//!           archive.rs       starter.rs              library.rs  shadow.rs  catalog
//! ```
//!
//! A bundle counts once its directory has its name, which one renaming gives it. Which one decides is stored with
//! the change of the catalogue's view, so that prompts, categories and what survives a restart change together;
//! requests under way keep the model that they began with. Operations take turns: each starts a model, which is
//! work for all cores.

mod archive;
mod comparison;
mod error;
mod library;
mod open;
mod shadow;
mod show;
mod starter;
mod state;
mod work;

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use encoder::Manifest;
use stores::Change;
use tokio_util::task::TaskTracker;

use crate::catalog::{Catalog, ChangeError, Origin};
use library::{Found, Staged, id_of};
use state::{Shadowing, State};
use work::{Inner, Known, audit, blocking};

pub use comparison::Comparison;
pub(crate) use comparison::ShadowMetrics;
pub(crate) use error::BundlesError;
pub(crate) use open::Opened;
pub use shadow::Shadow;
pub(crate) use show::{BundleView, Checked};
pub(crate) use starter::Starter;

/// What an operation is done for.
#[derive(Clone, Debug)]
pub(crate) struct By {
    /// Who wants it.
    pub(crate) actor: String,
    /// When, in milliseconds since 1970 UTC.
    pub(crate) now_ms: u64,
    /// Whether it is only to be checked.
    pub(crate) dry_run: bool,
}

/// The bundles of this gateway.
pub struct Bundles(Arc<Inner>);

impl Bundles {
    /// The bundles, with the catalogue whose prompts they read. Of `slot` requests take the shadow.
    pub(crate) fn new(
        opened: Opened,
        catalog: Arc<Catalog>,
        slot: Arc<ArcSwapOption<Shadow>>,
        metrics: ShadowMetrics,
    ) -> Self {
        let Opened { starter, library, state, problems } = opened;
        let known = Mutex::new(Known { state, problems, tally: None });
        let (turn, tasks) = (tokio::sync::Mutex::default(), TaskTracker::new());
        Self(Arc::new(Inner { starter, library, catalog, slot, metrics, turn, known, tasks }))
    }

    /// Starts what was stored to run beside requests. A shadow that does not start is told of and left out.
    pub(crate) fn start(&self, now_ms: u64) {
        let Some(Shadowing { bundle, sample }) = self.0.known().state.shadow.clone() else { return };
        let inner = self.0.clone();
        self.0.tasks.spawn(async move {
            let _turn = inner.turn.lock().await;
            if inner.catalog.view().router.encoder.is_none() {
                return;
            }
            let started = match inner.find(&bundle).await {
                Ok(found) => inner.cast(found.dir, sample, now_ms).await,
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                let problem = error.to_string();
                tracing::error!(router.bundle = bundle, problem, "the stored shadow does not start");
                inner.known().problems.insert(bundle, problem);
            }
        });
    }

    /// Ends what runs beside requests, and the model that decides. No request may come any more.
    pub(crate) async fn shutdown(&self) {
        self.0.slot.store(None);
        self.0.tasks.close();
        self.0.tasks.wait().await;
        let Some(encoder) = self.0.catalog.view().router.encoder.clone() else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || encoder.shutdown()).await {
            tracing::error!(%error, "the encoder failed to stop");
        }
    }

    /// Bytes that an archive may hold.
    pub(crate) fn most_bytes(&self) -> u64 {
        self.0.starter.config().max_bundle_bytes
    }

    /// All bundles, by id.
    pub(crate) async fn list(&self) -> Result<Vec<BundleView>, BundlesError> {
        let inner = self.0.clone();
        blocking(move || {
            let found = inner.library.list();
            Ok(found.into_values().map(|found| inner.view(&found)).collect())
        })
        .await
    }

    /// One bundle.
    pub(crate) async fn get(&self, id: &str) -> Result<BundleView, BundlesError> {
        let found = self.0.find(id).await?;
        Ok(self.0.view(&found))
    }

    /// Unpacks an archive beside the bundles. Blocks on its source.
    pub(crate) fn stage(&self, source: impl Read) -> Result<Upload, BundlesError> {
        Ok(Upload(self.0.library.stage(source, self.most_bytes())?))
    }

    /// Checks an upload whole, tries it out, and keeps it.
    pub(crate) async fn admit(&self, upload: Upload, by: By) -> Result<BundleView, BundlesError> {
        let inner = self.0.clone();
        self.in_turn(async move || {
            let changed = inner.clone();
            let (found, dry_run) = blocking(move || {
                let staged = upload.0;
                // What the system says names our place for it, which is of no use to whoever sent it.
                let place = format!("{}/", staged.dir.display());
                let own = |problem: String| {
                    let named =
                        problem.replace(&place, "").replace(place.trim_end_matches('/'), "the bundle");
                    BundlesError::Invalid(named)
                };
                let manifest = Manifest::read(&staged.dir).map_err(|e| own(e.to_string()))?;
                changed.library.has_place(&staged, &manifest)?;
                changed.try_out(&staged.dir).map_err(own)?;
                if by.dry_run {
                    let dir = staged.dir.clone();
                    return Ok((Found { id: id_of(&manifest), dir, origin: Origin::Admin, manifest }, true));
                }
                let found = changed.library.keep(staged, manifest)?;
                let change = Change { writes: Vec::new(), audit: vec![audit("upload", &found.id, &by)] };
                changed.catalog.store().commit(&change).map_err(ChangeError::from)?;
                Ok((found, false))
            })
            .await?;
            if !dry_run {
                tracing::info!(router.bundle = found.id, "a router model was uploaded");
            }
            Ok(inner.view(&found))
        })
        .await
    }

    /// Checks a bundle whole and tries it out.
    pub(crate) async fn validate(&self, id: &str) -> Result<Checked, BundlesError> {
        let found = self.0.find(id).await?;
        let inner = self.0.clone();
        self.in_turn(async move || {
            blocking(move || {
                let begun = Instant::now();
                let provider = inner.try_out(&found.dir).map_err(BundlesError::Invalid)?;
                let start_ms = begun.elapsed().as_millis() as u64;
                Ok(Checked { id: found.id, execution_provider: provider, start_ms })
            })
            .await
        })
        .await
    }

    /// Lets a bundle decide.
    pub(crate) async fn activate(&self, id: &str, by: By) -> Result<BundleView, BundlesError> {
        let found = self.0.find(id).await?;
        let inner = self.0.clone();
        self.in_turn(async move || inner.activate(found, "activate", by).await).await
    }

    /// Lets the bundle decide that did before.
    pub(crate) async fn roll_back(&self, by: By) -> Result<BundleView, BundlesError> {
        let inner = self.0.clone();
        self.in_turn(async move || {
            let Some(id) = inner.known().state.previous.clone() else {
                let message = "no bundle decided before this one; activate the one that you want";
                return Err(BundlesError::Conflict(message.into()));
            };
            let found = inner.find(&id).await?;
            inner.activate(found, "rollback", by).await
        })
        .await
    }

    /// Lets a bundle read a share of the prompts beside the one that decides.
    pub(crate) async fn shadow(&self, id: &str, sample: f64, by: By) -> Result<BundleView, BundlesError> {
        let found = self.0.find(id).await?;
        let inner = self.0.clone();
        self.in_turn(async move || {
            let active = inner.active()?;
            if *active == *found.id {
                let message =
                    format!("bundle `{}` decides already; let another one read beside it", found.id);
                return Err(BundlesError::Conflict(message));
            }
            if by.dry_run {
                return Ok(inner.view(&found));
            }
            inner.cast(found.dir.clone(), sample, by.now_ms).await?;
            let shadow = Some(Shadowing { bundle: found.id.clone(), sample });
            let state = State { shadow, ..inner.known().state.clone() };
            inner.remember(state, audit("shadow", &found.id, &by)).await?;
            inner.known().problems.remove(&found.id);
            tracing::info!(router.bundle = found.id, sample, "a second router model reads beside the first");
            Ok(inner.view(&found))
        })
        .await
    }

    /// Ends a bundle's reading beside the one that decides. What was compared stays to be seen.
    pub(crate) async fn end_shadow(&self, id: &str, by: By) -> Result<BundleView, BundlesError> {
        let found = self.0.find(id).await?;
        let inner = self.0.clone();
        self.in_turn(async move || {
            if inner.known().state.shadow.as_ref().is_none_or(|s| s.bundle != found.id) {
                return Err(BundlesError::Conflict(format!("bundle `{}` is not a shadow", found.id)));
            }
            if !by.dry_run {
                let state = State { shadow: None, ..inner.known().state.clone() };
                inner.remember(state, audit("shadow.end", &found.id, &by)).await?;
                inner.slot.store(None);
                inner.known().problems.remove(&found.id);
            }
            Ok(inner.view(&found))
        })
        .await
    }

    /// How a bundle compares with the one that decides, or decided while it was a shadow last.
    pub(crate) fn comparison(&self, id: &str) -> Result<Comparison, BundlesError> {
        let tally = self.0.known().tally.clone().filter(|tally| tally.bundle() == id);
        let running = self.0.slot.load().as_ref().is_some_and(|s| s.tally().bundle() == id);
        tally.map(|tally| tally.comparison(running)).ok_or_else(|| {
            let message = format!(
                "bundle `{id}` has not read beside another one since the start; POST /admin/v1/bundles/{id}/shadow first"
            );
            BundlesError::Conflict(message)
        })
    }

    /// Removes an uploaded bundle that nothing needs.
    pub(crate) async fn remove(&self, id: &str, by: By) -> Result<(), BundlesError> {
        let found = self.0.find(id).await?;
        let inner = self.0.clone();
        self.in_turn(async move || {
            let id = found.id.clone();
            let used = |what| Err(BundlesError::Conflict(format!("bundle `{id}` {what}")));
            if found.origin == Origin::File {
                return used("came with the program or its configuration; remove its directory there");
            }
            let state = inner.known().state.clone();
            let active = inner.catalog.view().router.bundle.clone();
            if *active == *id || state.active.as_deref() == Some(&*id) {
                return used("decides; activate another one first");
            }
            if state.shadow.as_ref().is_some_and(|s| s.bundle == id) {
                return used("reads beside the one that decides; end that first");
            }
            if by.dry_run {
                return Ok(());
            }
            let previous = state.previous.clone().filter(|previous| *previous != id);
            inner.remember(State { previous, ..state }, audit("remove", &id, &by)).await?;
            let (library, gone) = (inner.clone(), found.clone());
            blocking(move || library.library.remove(&gone)).await?;
            inner.known().problems.remove(&id);
            tracing::info!(router.bundle = id, "a router model was removed");
            Ok(())
        })
        .await
    }

    /// Runs an operation when it is its turn, to its end even if its caller leaves: what is stored and what is
    /// in use must not part.
    async fn in_turn<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<T, BundlesError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, BundlesError>> + Send,
    {
        let inner = self.0.clone();
        let task = self.0.tasks.spawn(async move {
            let _turn = inner.turn.lock().await;
            Box::pin(work()).await
        });
        task.await.map_err(|e| BundlesError::Internal(e.to_string()))?
    }
}

/// An unpacked archive that is no bundle yet.
pub(crate) struct Upload(Staged);
