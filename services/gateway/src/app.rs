//! The composition root: the only place that makes clients, models and stores, and gives them to each other.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use encoder::{Encoder, Runtime};
use experts::{Client, Registry};
use prometheus_client::registry::Registry as MetricsRegistry;
use serde::Serialize;
use stores::{Change, EmbeddedMemory, EmbeddedStore, Kind, Write};
use tokio::sync::Semaphore;

use crate::admin::token::{AdminToken, Credentials, TokenHash};
use crate::auth::Gatekeeper;
use crate::auth::jwt::Verifier;
use crate::bundles::{Bundles, Opened, ShadowMetrics, Starter};
use crate::catalog::{Catalog, ChangeError};
use crate::config::{AccessTarget, Config, RouteSpec, RouterConfig, RouterLoad, TelemetryConfig, TlsConfig};
use crate::decision::DecisionLog;
use crate::feedback::Feedback;
use crate::http::tls::PlanesTls;
use crate::ids::Ids;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::metrics::fleet::Fleet;
use crate::metrics::tiers::{PoolGauges, TierMetrics};
use crate::pipeline::{Pipeline, now_ms};
use crate::problem::Problem;
use crate::reload::Current;
use crate::residency::{Lender, OwnerMetrics, Pools, Remote};
use crate::session::Sessions;
use crate::telemetry::access::AccessLog;
use crate::telemetry::export::{ExportTask, Exporter, TraceMetrics};
use crate::telemetry::trace::Tracer;

/// Conversations whose expert is remembered.
const SESSIONS: usize = 16_384;

/// Why the gateway cannot start. The first ones are the operator's to mend in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration's parts do not fit together.
    #[error("the configuration cannot be used:\n{0}")]
    Config(ChangeError),
    /// The router model cannot be used.
    #[error("the router model cannot be loaded: {0}")]
    Router(String),
    /// The client for upstreams cannot be made.
    #[error("upstream: {0}")]
    Upstream(String),
    /// A listener's certificates cannot be used.
    #[error("{0}")]
    Tls(Problem),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] stores::StoreError),
    /// Something that should not fail did.
    #[error("{0}")]
    Other(String),
}

/// A gateway that is ready to serve.
pub struct App {
    /// The data plane.
    pub pipeline: Arc<Pipeline>,
    /// The router models that there are.
    pub bundles: Bundles,
    /// What it is configured with.
    pub current: Current,
    /// All metrics.
    pub metrics: Arc<MetricsRegistry>,
    /// The admin API's tokens.
    pub credentials: Credentials,
    /// A token that was made at this start, to be shown once.
    pub new_token: Option<AdminToken>,
    /// TLS on the listeners.
    pub tls: PlanesTls,
    /// Sends traces, until it is taken to be run.
    pub(crate) export: Mutex<Option<ExportTask>>,
    /// Whether new requests are welcome; false while draining.
    pub ready: Arc<Ready>,
    /// Which parts run.
    pub role: Role,
    /// Lends the pools' experts to other processes, where this one runs for that.
    pub lender: Option<Arc<Lender>>,
}

/// Which parts of the gateway a process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// All that its configuration names
    #[default]
    All,
    /// Everything but the pools, which another process owns (`residency.remote`)
    Gateway,
    /// The admin plane and the pools, for gateways in other processes; no data plane
    Tiers,
}

impl Role {
    /// Whether a configuration has what the role needs.
    fn problem(self, config: &Config) -> Option<Problem> {
        let remote = config.residency.remote.is_some();
        match self {
            Self::Gateway if !config.pools.is_empty() => Some(Problem::at(
                "pools",
                "the role `gateway` owns no pools; move them to the owner's configuration, or start with the role `all`",
            )),
            Self::Gateway if !remote => Some(Problem::at(
                "residency.remote",
                "the role `gateway` needs the owner of the pools here; without any start with the role `all`",
            )),
            Self::Tiers if remote => Some(Problem::at(
                "residency.remote",
                "the role `tiers` owns the pools itself; name them in `pools` and leave this out",
            )),
            Self::Tiers if config.pools.is_empty() => {
                Some(Problem::at("pools", "the role `tiers` needs pools to own, and there are none"))
            }
            Self::All | Self::Gateway | Self::Tiers => None,
        }
    }
}

/// Whether the gateway wants traffic.
#[derive(Debug, Default)]
pub struct Ready(AtomicBool);

impl Ready {
    /// Sets it.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Reads it.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What an [`App`] takes from the world besides its configuration.
pub struct World {
    /// `ORT_DYLIB_PATH`.
    pub ort_dylib_path: Option<PathBuf>,
    /// Where ids and seeds start.
    pub seed: u64,
    /// Random bytes for a new admin token.
    pub token_bytes: [u8; 24],
    /// Which parts run.
    pub role: Role,
}

impl App {
    /// Opens the store, loads the router model and builds the rest. Blocks for the model's start, so it is
    /// called before the sockets are bound.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub fn build(config: Config, world: &World) -> Result<Self, StartError> {
        let role = world.role;
        let unfit = |problem| StartError::Config(ChangeError::Invalid(vec![problem]));
        if let Some(problem) = role.problem(&config) {
            return Err(unfit(problem));
        }
        let mut metrics = MetricsRegistry::default();
        let tls = PlanesTls::open(&config, &mut metrics).map_err(StartError::Tls)?;
        let store = Arc::new(EmbeddedStore::open(&config.store.path)?);
        let starter = Starter::new(config.router.clone(), world.ort_dylib_path.clone());
        let (opened, router) =
            Opened::new(starter, &store, &config.store.path, role != Role::Tiers && wants_router(&config))?;
        if router.encoder.is_some() {
            opened.register(&mut metrics);
        }
        let client = Client::new(&config.upstream).map_err(|e| StartError::Upstream(e.to_string()))?;
        let registry = Registry::new(client);
        let catalog =
            Catalog::open(config.declared(), router, registry, store.clone()).map_err(StartError::Config)?;
        let (tracer, export) = tracer(&config, catalog.registry().client(), &mut metrics, world.seed);
        let catalog = Arc::new(catalog);
        let access = access_log(&config.telemetry).map(Arc::new);
        metrics.register_collector(Box::new(Fleet { catalog: catalog.clone(), access: access.clone() }));
        let (owner, new_token) = admin_token(&config, &store, world.token_bytes)?;
        let credentials = Credentials::new(owner, &config.admin.tokens);
        let pools = match &config.residency.remote {
            None => own_pools(&config, &mut metrics)?,
            Some(_) => others_pools(&config, catalog.registry().client(), &mut metrics, world.seed)?,
        };
        let lender = match role {
            Role::Tiers => Some(Lender::start(pools.clone(), config.residency.lease(), &store)?),
            Role::All | Role::Gateway => {
                pools.warn_of_unknown(&catalog.view().experts);
                None
            }
        };
        let shadow = Arc::default();
        let bundles =
            Bundles::new(opened, catalog.clone(), Arc::clone(&shadow), ShadowMetrics::register(&mut metrics));
        let pipeline = Pipeline {
            catalog,
            pools,
            shadow,
            feedback: Feedback::new(store.clone(), config.feedback.clone(), &mut metrics),
            memory: Arc::new(Memory::new(
                Arc::new(EmbeddedMemory::open(store.clone())?),
                config.memory.clone(),
            )),
            router_deadline: Duration::from_millis(config.router.deadline_ms),
            gatekeeper: gatekeeper(&config),
            ledger: Arc::new(crate::usage::restore(&store)?),
            decisions: Arc::new(DecisionLog::new(config.telemetry.decisions)),
            sessions: Sessions::new(SESSIONS),
            metrics: Metrics::register(&mut metrics),
            tracer,
            access,
            limits: config.data.clone(),
            places: Arc::new(Semaphore::new(config.data.max_in_flight)),
            ids: Ids::new(world.seed),
        };
        Ok(Self {
            pipeline: Arc::new(pipeline),
            bundles,
            current: Current::new(config),
            metrics: Arc::new(metrics),
            credentials,
            new_token,
            tls,
            export: Mutex::new(export),
            ready: Arc::default(),
            role,
            lender: lender.map(Arc::new),
        })
    }
}

/// The pools, with their metrics where there are any.
fn own_pools(config: &Config, metrics: &mut MetricsRegistry) -> Result<Pools, StartError> {
    if config.pools.is_empty() {
        return Ok(Pools::default());
    }
    let counters = TierMetrics::register(metrics);
    let pools = Pools::new(&config.pools, now_ms(), |pool| counters.watch(pool));
    let pools = pools.map_err(|problem| StartError::Config(ChangeError::Invalid(vec![problem])))?;
    metrics.register_collector(Box::new(PoolGauges(pools.clone())));
    Ok(pools)
}

/// The pools of the process that the configuration names.
fn others_pools(
    config: &Config,
    client: &Client,
    metrics: &mut MetricsRegistry,
    seed: u64,
) -> Result<Pools, StartError> {
    let Some(owner) = &config.residency.remote else { return Ok(Pools::default()) };
    let (holder, counters) = (format!("gateway-{seed:016x}"), OwnerMetrics::register(metrics));
    let remote = Remote::new(owner, Arc::new(client.clone()), &holder, counters).map_err(|message| {
        let problem = Problem::at("residency.remote.token", message);
        StartError::Config(ChangeError::Invalid(vec![problem]))
    })?;
    Ok(Pools::remote(remote))
}

/// Without keys, requests are welcome from this machine, from those whose certificate was checked, and where
/// the operator says so.
fn gatekeeper(config: &Config) -> Gatekeeper {
    let data = &config.data;
    let certified = data.tls.as_ref().is_some_and(TlsConfig::requires_certificates);
    let verifier = (!config.auth.jwt.is_empty()).then(|| Verifier::new(&config.auth.jwt));
    Gatekeeper::new(data.listen.ip().is_loopback() || data.open_to_network || certified, verifier)
}

/// What records traces, and the task that sends them.
fn tracer(
    config: &Config,
    client: &Client,
    metrics: &mut MetricsRegistry,
    seed: u64,
) -> (Option<Tracer>, Option<ExportTask>) {
    let Some(traces) = &config.telemetry.traces else { return (None, None) };
    let counters = TraceMetrics::register(metrics);
    let (exporter, task) = Exporter::new(traces, Arc::new(client.clone()), counters, seed);
    (Some(Tracer::new(traces, exporter, seed.rotate_left(32))), Some(task))
}

fn access_log(config: &TelemetryConfig) -> Option<AccessLog> {
    match config.access_log {
        AccessTarget::Off => None,
        AccessTarget::Stdout => Some(AccessLog::new(config.format, std::io::stdout())),
        AccessTarget::Stderr => Some(AccessLog::new(config.format, std::io::stderr())),
    }
}

/// The configured token, the stored one's hash, or a new one that is stored as its hash.
fn admin_token(
    config: &Config,
    store: &EmbeddedStore,
    random: [u8; 24],
) -> Result<(TokenHash, Option<AdminToken>), StartError> {
    const ID: &str = "admin";
    if let Some(token) = &config.admin.token {
        return Ok((TokenHash::of(token.expose()), None));
    }
    if let Some(document) = store.load(Kind::Token, ID)? {
        return Ok((document.parse()?, None));
    }
    let token = AdminToken::from_random(random);
    let hash = TokenHash::of(token.expose());
    let change = Change { writes: vec![Write::put(Kind::Token, ID, &hash)?], audit: Vec::new() };
    store.commit(&change).map_err(|e| StartError::Other(e.to_string()))?;
    Ok((hash, Some(token)))
}

/// Whether the configuration wants the router model loaded.
pub fn wants_router(config: &Config) -> bool {
    match config.router.load {
        RouterLoad::Always => true,
        RouterLoad::Never => false,
        RouterLoad::WhenNeeded => config.routes.iter().any(RouteSpec::reads_prompts),
    }
}

/// Finds the ONNX Runtime library and the bundle, and starts the encoder. Where nobody named a library and none
/// is found, the bundle's first stage serves alone, if it has one.
///
/// # Errors
/// [`StartError::Router`].
pub fn start_encoder(config: &RouterConfig, ort_dylib_path: Option<&Path>) -> Result<Encoder, StartError> {
    let starter = Starter::new(config.clone(), ort_dylib_path.map(Path::to_owned));
    starter.encoder(&find_bundle(&config.bundle)?).map_err(StartError::Router)
}

/// Finds and loads the ONNX Runtime library.
///
/// # Errors
/// [`StartError::Router`] that lists where it was looked for and says what to do.
pub fn load_runtime(flag: Option<&Path>, ort_dylib_path: Option<&Path>) -> Result<Runtime, StartError> {
    let places = encoder::Places::of_process();
    let library = encoder::locate(flag, ort_dylib_path, &places);
    let loaded = library.and_then(|path| Runtime::load(&path));
    loaded.map_err(|e| StartError::Router(e.to_string()))
}

/// Where a bundle lies: a path as it stands, a plain name below `router-models` in the working directory,
/// in one of the executable's ancestors, or in `/usr/share/guildhall`, or in the working directory itself.
///
/// # Errors
/// [`StartError::Router`] that lists the places.
pub fn find_bundle(name: &str) -> Result<PathBuf, StartError> {
    if name.contains(['/', '\\']) {
        return Ok(PathBuf::from(name));
    }
    let below = |root: &Path| root.join("router-models").join(name);
    let mut places = vec![below(Path::new("."))];
    if let Ok(exe) = std::env::current_exe() {
        places.extend(exe.ancestors().skip(1).map(below));
    }
    places.push(below(Path::new("/usr/share/guildhall")));
    // What a training run has just written: `--out NAME`, then `--bundle NAME`.
    places.push(PathBuf::from(name));
    if let Some(found) = places.iter().find(|p| p.join("bundle.yaml").is_file()) {
        return Ok(found.clone());
    }
    let tried: Vec<String> = places.iter().map(|p| format!("  {}", p.display())).collect();
    Err(StartError::Router(format!(
        "there is no bundle `{name}`; set router.bundle to the path of one. These places were tried:\n{}",
        tried.join("\n")
    )))
}
