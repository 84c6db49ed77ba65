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
mod library;
mod shadow;
mod starter;
mod state;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use encoder::Manifest;
use serde::Serialize;
use stores::{AuditEntry, Change, EmbeddedStore};
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use crate::app::StartError;
use crate::catalog::{Catalog, ChangeError, Origin, RouterModel};
use archive::ArchiveError;
use library::{Found, Library, Staged, id_of};
use shadow::{Setup, Tally};
use state::{Shadowing, State};

pub(crate) use shadow::ShadowMetrics;
pub use shadow::{Comparison, Shadow};
pub(crate) use starter::Starter;

/// What is wrong with an operation on bundles. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundlesError {
    /// There is no bundle of that id.
    #[error("there is no bundle `{id}`")]
    NotFound {
        /// The id.
        id: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// It does not go together with the present state.
    #[error("{0}")]
    Conflict(String),
    /// The archive is too long.
    #[error("{0}")]
    TooLong(String),
    /// The bundle cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The catalogue's objects do not fit it, or the store failed.
    #[error(transparent)]
    Catalog(#[from] ChangeError),
    /// Something that should not fail did.
    #[error("{0}")]
    Internal(String),
}

impl From<ArchiveError> for BundlesError {
    fn from(error: ArchiveError) -> Self {
        match &error {
            ArchiveError::TooLong(_) => Self::TooLong(error.to_string()),
            ArchiveError::Unreadable(_) | ArchiveError::Entry { .. } => Self::Invalid(error.to_string()),
            ArchiveError::Disk(_) => Self::Internal(error.to_string()),
        }
    }
}

/// A bundle as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BundleView {
    /// Its name and version, as `NAME@VERSION`.
    pub(crate) id: String,
    /// Its name.
    name: String,
    /// Its version.
    version: String,
    /// What it is, for people.
    description: String,
    /// `file` for those that lie beside the configured one, `admin` for uploaded ones.
    origin: Origin,
    /// Whether it decides.
    active: bool,
    /// Whether a rollback would let it decide.
    previous: bool,
    /// The share of the prompts that it reads beside the one that decides; null when it reads none.
    #[schema(required)]
    shadow: Option<f64>,
    /// Why it does not do what it was told to; null when it does.
    #[schema(required)]
    problem: Option<String>,
    /// The labels of its classifier.
    categories: Vec<String>,
    /// The name under which `/v1/embeddings` serves its encoder.
    model_id: String,
    /// The width of its embeddings.
    dimensions: usize,
    /// Tokens of a prompt that a decision rests on.
    max_tokens: usize,
    /// The length of its files together.
    bytes: u64,
    /// The licence of the whole bundle.
    licence: String,
    /// Measured quality, as the bundle tells it.
    #[schema(value_type = Object)]
    quality: BTreeMap<String, serde_json::Value>,
}

/// What came of a bundle's check.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Checked {
    /// Its id.
    id: String,
    /// What computed the golden input: `cpu`, `cuda` or `tensorrt`.
    execution_provider: String,
    /// Milliseconds until it was ready to read.
    start_ms: u64,
}

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

/// What bundles are made with, before there is a catalogue.
pub(crate) struct Opened {
    starter: Starter,
    library: Library,
    state: State,
    problems: BTreeMap<String, String>,
}

/// The bundles of this gateway.
pub struct Bundles(Arc<Inner>);

struct Inner {
    starter: Starter,
    library: Library,
    catalog: Arc<Catalog>,
    slot: Arc<ArcSwapOption<Shadow>>,
    metrics: ShadowMetrics,
    /// Whose turn it is to start a model or to change what is there. An async mutex: the work is awaited under it.
    turn: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    /// What goes on beside requests, and operations whose client may leave.
    tasks: TaskTracker,
}

struct Known {
    state: State,
    /// By bundle, why it does not do what it was told to.
    problems: BTreeMap<String, String>,
    /// The latest comparison.
    tally: Option<Arc<Tally>>,
}

impl Opened {
    /// Finds the bundles and starts the one that decides: the one that was activated last, or, when it does not
    /// start, the one before it, or the configured one. `wanted` is whether any is.
    ///
    /// # Errors
    /// [`StartError::Router`] when none starts.
    pub(crate) fn new(
        starter: Starter,
        store: &EmbeddedStore,
        store_path: &Path,
        wanted: bool,
    ) -> Result<(Self, RouterModel), StartError> {
        let name = starter.config().bundle.clone();
        let configured = crate::app::find_bundle(&name);
        let library = Library::open(store_path.with_extension("bundles"), configured.as_ref().ok().cloned());
        let state = State::load(store, &name)?;
        let mut opened = Self { starter, library, state, problems: BTreeMap::new() };
        if !wanted {
            return Ok((opened, RouterModel::default()));
        }
        let chosen = [opened.state.active.clone(), opened.state.previous.clone()];
        for id in chosen.into_iter().flatten() {
            let found = opened.library.find(&id).map_err(|e| e.to_string());
            match found.and_then(|found| opened.starter.start(&found.dir)) {
                Ok(model) => return Ok((opened, model)),
                Err(problem) => {
                    tracing::error!(
                        router.bundle = id,
                        problem,
                        "THE ACTIVATED ROUTER MODEL DOES NOT START; the one before it decides instead"
                    );
                    opened.problems.insert(id, problem);
                }
            }
        }
        let model = opened.starter.start(&configured?).map_err(StartError::Router)?;
        Ok((opened, model))
    }

    /// Counters of the model that decides.
    pub(crate) fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.starter.metrics().register(registry);
    }
}

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

impl Inner {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find(self: &Arc<Self>, id: &str) -> Result<Found, BundlesError> {
        let (inner, id) = (self.clone(), id.to_owned());
        blocking(move || inner.library.find(&id)).await
    }

    /// The id of the bundle that decides.
    fn active(&self) -> Result<Arc<str>, BundlesError> {
        let view = self.catalog.view();
        if view.router.encoder.is_none() {
            let message = "no router model is loaded, because no route looks at prompts; set router.load: always and restart";
            return Err(BundlesError::Conflict(message.into()));
        }
        Ok(view.router.bundle.clone())
    }

    fn view(&self, found: &Found) -> BundleView {
        let known = self.known();
        let manifest = &found.manifest;
        let shadow = known.state.shadow.as_ref().filter(|s| s.bundle == found.id);
        let running = self.slot.load().as_ref().is_some_and(|s| s.tally().bundle() == found.id);
        BundleView {
            id: found.id.clone(),
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            description: manifest.description.clone(),
            origin: found.origin,
            active: *self.catalog.view().router.bundle == *found.id,
            previous: known.state.previous.as_deref() == Some(&*found.id),
            shadow: shadow.filter(|_| running).map(|s| s.sample),
            problem: known.problems.get(&found.id).cloned(),
            categories: manifest.categories.iter().map(|c| c.name.clone()).collect(),
            model_id: manifest.model_id.clone(),
            dimensions: manifest.encoder.dimensions,
            max_tokens: manifest.encoder.max_tokens,
            bytes: manifest.files.values().map(|file| file.bytes).sum(),
            licence: manifest.licence.clone(),
            quality: manifest.quality.clone(),
        }
    }

    /// Starts a bundle once and ends it; tells what computed it.
    fn try_out(&self, dir: &Path) -> Result<String, String> {
        let model = self.starter.try_out(dir)?;
        let Some(encoder) = model.encoder else { return Ok(String::new()) };
        let provider = encoder.execution_provider().to_owned();
        encoder.shutdown();
        Ok(provider)
    }

    async fn activate(
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
    async fn cast(self: &Arc<Self>, dir: PathBuf, sample: f64, now_ms: u64) -> Result<(), BundlesError> {
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
    async fn remember(self: &Arc<Self>, state: State, audit: AuditEntry) -> Result<(), BundlesError> {
        let change = Change { writes: vec![state.write()?], audit: vec![audit] };
        let store = self.catalog.store().clone();
        blocking(move || Ok(store.commit(&change).map(drop).map_err(ChangeError::from)?)).await?;
        self.known().state = state;
        Ok(())
    }
}

fn audit(action: &str, id: &str, by: &By) -> AuditEntry {
    AuditEntry {
        time_ms: by.now_ms,
        actor: by.actor.clone(),
        action: format!("bundle.{action}"),
        object: format!("bundles/{id}"),
        detail: serde_json::Value::Null,
    }
}

/// Runs what waits for the disk or computes for long on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundlesError> + Send + 'static,
) -> Result<T, BundlesError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| BundlesError::Internal(e.to_string()))?
}
