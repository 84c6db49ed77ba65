mod model;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::environment::Environment;
use ort::session::Session;
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

pub use model::OnnxModel;

use super::{Control, Step};
use crate::process;
use crate::residency::{Source, Tier};
use crate::server::report::{
    Caps, DriverError, ErrorKind, Evidence, Inventory, Outcome, Placed, Residence, Scope,
};
use worker::Worker;

/// How many measurements of a model are kept; the one in the middle counts.
const MEASUREMENTS: usize = 5;

/// The part of a model's bytes whose return means that it is gone.
const BACK: f64 = 0.75;

/// How far a measurement may be off: other threads allocate, and small blocks of the runtime stay for the next load.
/// No more than this part of the budget, and no more than these bytes.
const SLACK: (u64, u64) = (16, 8 << 20);

/// ONNX models in this process. A session that is loaded and has run once is in `hbm`, for which a budget of the
/// host's memory stands. Each has one thread unless `intra_op_threads` says more, keeps no arena and no second,
/// repacked copy of its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrtInprocConfig {
    /// Bytes of the host's memory that stand for the accelerator's: declared. A session that does not fit beside the
    /// others is not kept.
    pub budget_bytes: u64,
    /// The model of each expert.
    pub models: BTreeMap<ExpertId, OnnxModel>,
    /// Whether there is a tier `dram`: the models' files in memory, where an expert comes through and goes back to.
    /// Weights in files of their own stay on the disk.
    #[serde(default)]
    pub dram: bool,
    /// Threads of each session; at least 1.
    #[serde(default = "one")]
    pub intra_op_threads: usize,
}

fn one() -> usize {
    1
}

/// A resident model. Its expert is not removed before this is dropped.
#[derive(Clone, Debug)]
pub struct Resident(Arc<Mutex<Session>>);

impl Resident {
    /// Runs something with the session. It takes the thread until it is done, and runs of one session come one after
    /// another, so call it where blocking is fine. A binding of the session that outlives `work` keeps the expert, too.
    pub fn run<T>(&self, work: impl FnOnce(&mut Session) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) struct OrtInproc {
    shared: Arc<Shared>,
    /// One transition at a time, so that each measures its own bytes.
    one: Arc<Semaphore>,
    worker: Worker,
}

struct Shared {
    config: OrtInprocConfig,
    /// The process's, where it has one.
    environment: Option<Environment>,
    measures: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<ExpertId, Held>,
    moving: Option<ExpertId>,
    /// Whether the runtime has taken what it takes for itself.
    settled: bool,
}

/// What there is of a model in memory, and what was learnt of it.
#[derive(Default)]
struct Held {
    session: Option<Arc<Mutex<Session>>>,
    /// What the session counts for.
    bytes: u64,
    /// What loads of it took, the latest last.
    measured: Vec<u64>,
    file: Option<Arc<[u8]>>,
}

impl Held {
    /// Other threads allocate while a load is measured; the middle of several is not led astray by that.
    fn typical(&self) -> Option<u64> {
        let mut sorted = self.measured.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    fn learn(&mut self, bytes: u64) {
        self.measured.push(bytes);
        let old = self.measured.len().saturating_sub(MEASUREMENTS);
        self.measured.drain(..old);
    }

    fn placed(&self, source: Source) -> Placed {
        let tier = match (&self.session, &self.file) {
            (Some(_), _) => Tier::Hbm,
            (None, Some(_)) => Tier::Dram,
            (None, None) => Tier::Disk,
        };
        let mut placed = Placed::told(tier);
        if self.session.is_some() {
            placed.bytes.insert(Tier::Hbm, (self.bytes, source));
        }
        if let Some(file) = &self.file {
            placed.bytes.insert(Tier::Dram, (file.len() as u64, Source::Measured));
        }
        placed
    }
}

/// Notes that a transition is under way, until it ends, however it does.
struct Underway {
    shared: Arc<Shared>,
    _one: OwnedSemaphorePermit,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.shared.state().moving = None;
    }
}

impl OrtInproc {
    pub(super) fn new(
        config: OrtInprocConfig,
        environment: Option<&Environment>,
    ) -> Result<Self, DriverError> {
        if config.intra_op_threads == 0 {
            return Err(DriverError::unsupported("intra_op_threads: must be at least 1"));
        }
        for (id, model) in &config.models {
            let digits = |hash: &String| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
            if model.sha256.as_ref().is_some_and(|hash| !digits(hash)) {
                let what = format!("models.{id}.sha256: must be 64 hexadecimal digits");
                return Err(DriverError::unsupported(what));
            }
        }
        let measures = process::gives_back(|name| std::env::var(name).ok())
            && process::resident(Path::new("/nothing")).is_ok();
        let models = config.models.keys().map(|id| (id.clone(), Held::default())).collect();
        let state = Mutex::new(State { models, ..State::default() });
        let shared = Arc::new(Shared { config, environment: environment.cloned(), measures, state });
        let worker = Worker::start().map_err(|error| {
            DriverError::unsupported(format!("no thread for transitions can be started: {error}"))
        })?;
        Ok(Self { shared, one: Arc::new(Semaphore::new(1)), worker })
    }

    /// A ready model, held where it is; `None` where the expert is not in `hbm`.
    pub(super) fn resident(&self, expert: &ExpertId) -> Option<Resident> {
        let session = self.shared.state().models.get(expert)?.session.clone();
        session.map(Resident)
    }

    /// Makes a transition on the thread for them. It goes on when whoever asked for it has left.
    async fn go(
        &self,
        step: Step<'_>,
        transition: fn(&Shared, &ExpertId, Tier) -> Result<(), DriverError>,
    ) -> Result<Outcome, DriverError> {
        let turn = timeout_at(step.deadline, self.one.clone().acquire_owned()).await;
        let Ok(Ok(one)) = turn else {
            let what = format!("other transitions took until the deadline; {} was not moved", step.expert);
            return Err(DriverError::new(ErrorKind::Busy, what));
        };
        self.shared.state().moving = Some(step.expert.clone());
        let underway = Underway { shared: self.shared.clone(), _one: one };
        let (expert, to) = (step.expert.clone(), step.to);
        let (report, reported) = oneshot::channel();
        self.worker.run(Box::new(move || {
            let outcome = transition(&underway.shared, &expert, to).map(|()| underway.shared.placed(&expert));
            drop(underway);
            // Whoever asked may have left.
            let _ = report.send(outcome);
        }));
        match timeout_at(step.deadline, reported).await {
            Ok(Ok(placed)) => Ok(Outcome::at(placed?)),
            Ok(Err(_)) => Err(DriverError::half_done(format!(
                "the transition of {} broke off, or one before it did; start the process anew",
                step.expert
            ))),
            Err(_) => Err(DriverError::half_done(format!(
                "the deadline passed before {} was in {to}; it goes on",
                step.expert
            ))),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slack(&self) -> u64 {
        (self.config.budget_bytes / SLACK.0).min(SLACK.1)
    }

    fn source(&self) -> Source {
        if self.measures { Source::Measured } else { Source::Declared }
    }

    fn placed(&self, expert: &ExpertId) -> Placed {
        let held = self.state().models.get(expert).map(|held| held.placed(self.source()));
        held.unwrap_or_else(|| Placed::new(Residence::Unknown, Evidence::Assumed))
    }

    /// What the process holds, as far as that can be measured.
    fn resident(&self, model: &OnnxModel) -> u64 {
        let folder = model.file.parent().and_then(|folder| folder.canonicalize().ok()).unwrap_or_default();
        if self.measures { process::resident(&folder).unwrap_or(0) } else { 0 }
    }

    fn promote(&self, expert: &ExpertId, to: Tier) -> Result<(), DriverError> {
        let model = self.model(expert)?;
        let (resident, kept) = self.with(expert, |held| (held.session.is_some(), held.file.clone()));
        if resident || to == Tier::Disk {
            return Ok(());
        }
        let file: Option<Arc<[u8]>> = match kept {
            None if self.config.dram => Some(model.read()?.into()),
            kept => kept,
        };
        if to == Tier::Dram {
            self.with(expert, |held| held.file = file);
            return Ok(());
        }
        let size = match &file {
            Some(file) => file.len() as u64,
            None => model.check()?,
        };
        let expected = self.with(expert, |held| held.typical()).or(model.bytes).unwrap_or(size);
        self.admit(expert, expected)?;
        let environment = self.settled()?;
        let before = self.resident(model);
        let session = model.load(environment, self.config.intra_op_threads, file.as_deref())?;
        let grown = self.resident(model).saturating_sub(before);
        let took = if self.measures { grown } else { expected };
        // Where it does not fit after all, the session is dropped here, and the next time that is known beforehand.
        if self.measures {
            self.with(expert, |held| held.learn(took));
        }
        self.admit(expert, took)?;
        self.with(expert, |held| {
            held.bytes = held.typical().unwrap_or(took);
            held.session = Some(Arc::new(Mutex::new(session)));
            held.file = file;
        });
        Ok(())
    }

    /// The environment, in which the runtime has worked once before anything is measured.
    fn settled(&self) -> Result<&Environment, DriverError> {
        let environment = self.environment.as_ref().ok_or_else(|| {
            DriverError::unsupported(
                "this driver loads models in the process's ONNX Runtime, and the process gave it none; load the \
                 library (`make deps`, or ORT_DYLIB_PATH) in a program that runs such models",
            )
        })?;
        if !self.state().settled {
            OnnxModel::least(environment)?;
            self.state().settled = true;
        }
        Ok(environment)
    }

    fn demote(&self, expert: &ExpertId, to: Tier) -> Result<(), DriverError> {
        let model = self.model(expert)?;
        if to == Tier::Hbm {
            return Ok(());
        }
        let before = self.resident(model);
        let (unused, bytes) = self.with(expert, |held| {
            // Nobody gets at it from here on, unless somebody has it now.
            let unused = held.session.take_if(|session| Arc::strong_count(session) == 1);
            if unused.is_none() && held.session.is_some() {
                return Err(busy(expert));
            }
            Ok((unused, held.bytes))
        })?;
        let mut back = None;
        if let Some(session) = unused {
            let inner = session.lock().unwrap_or_else(PoisonError::into_inner).inner();
            // A binding keeps the session, too.
            if Arc::strong_count(&inner) > 2 {
                self.with(expert, |held| held.session = Some(session));
                return Err(busy(expert));
            }
            drop((inner, session));
            back = self.measures.then(|| before.saturating_sub(self.resident(model)));
            if let Some(back) = back {
                self.with(expert, |held| held.learn(back));
            }
        }
        if to == Tier::Disk {
            self.with(expert, |held| held.file = None);
        }
        match back {
            // A removal frees before it returns, so that waiting for more would be in vain.
            Some(back) if ((back + self.slack()) as f64) < bytes as f64 * BACK => {
                Err(DriverError::half_done(format!(
                    "{expert} was removed, and {back} of its {bytes} bytes came back: its memory was kept, or \
                 something else grew meanwhile"
                )))
            }
            _ => Ok(()),
        }
    }

    fn model(&self, expert: &ExpertId) -> Result<&OnnxModel, DriverError> {
        let model = self.config.models.get(expert);
        model.ok_or_else(|| DriverError::unsupported(format!("models: there is no {expert}")))
    }

    fn with<T>(&self, expert: &ExpertId, change: impl FnOnce(&mut Held) -> T) -> T {
        change(self.state().models.entry(expert.clone()).or_default())
    }

    /// Whether a session of so many bytes has room beside the others.
    fn admit(&self, expert: &ExpertId, bytes: u64) -> Result<(), DriverError> {
        let budget = self.config.budget_bytes;
        if bytes > budget + self.slack() {
            return Err(DriverError::refused(format!(
                "{expert} takes {bytes} bytes and budget_bytes is {budget}; raise it or use a smaller model"
            )));
        }
        let state = self.state();
        let others = state.models.values().filter(|held| held.session.is_some());
        let free = budget.saturating_sub(others.map(|held| held.bytes).sum());
        if bytes > free + self.slack() {
            return Err(DriverError::new(
                ErrorKind::Busy,
                format!("{expert} takes {bytes} bytes and {free} of {budget} are free; remove another first"),
            ));
        }
        Ok(())
    }
}

fn busy(expert: &ExpertId) -> DriverError {
    DriverError::new(ErrorKind::Busy, format!("{expert} is in use; remove it when its runs have ended"))
}

impl Control for OrtInproc {
    fn caps(&self) -> Caps {
        let tiers = if self.shared.config.dram {
            vec![Tier::Hbm, Tier::Dram, Tier::Disk]
        } else {
            vec![Tier::Hbm, Tier::Disk]
        };
        Caps { tiers, scope: Scope::Expert, exclusive: false, measures: self.shared.measures }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.shared.config.models.contains_key(expert)
    }

    async fn probe(&self, _deadline: Instant) -> Result<Inventory, DriverError> {
        let state = self.shared.state();
        let experts = state.models.iter().map(|(id, held)| {
            let mut placed = held.placed(self.shared.source());
            if state.moving.as_ref() == Some(id) {
                placed.residence = Residence::Moving;
            }
            (id.clone(), placed)
        });
        Ok(Inventory { experts: experts.collect(), ..Inventory::default() })
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        self.go(step, Shared::promote).await
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        self.go(step, Shared::demote).await
    }
}
