use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Control, Step};
use crate::residency::Tier;
use crate::server::endpoint::{Answer, Endpoint, Network, Server};
use crate::server::report::{
    Caps, DriverError, ErrorKind, Evidence, Inventory, Outcome, Placed, Residence, Scope,
};
use crate::server::yes;

/// What is released, and exactly what is resumed.
const TAGS: [&str; 3] = ["kv_cache", "weights", "cuda_graph"];

/// How long one token may take before an engine counts as still paused.
const ONE_TOKEN: Duration = Duration::from_secs(5);

/// A request for one token.
fn one_token() -> Value {
    json!({"text": "a", "sampling_params": {"max_new_tokens": 1}})
}

/// `SGLang` engines with `--enable-memory-saver`, one for each expert, that give their memory back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SglangMemoryConfig {
    /// The engine of each expert.
    pub engines: BTreeMap<ExpertId, SglangEngine>,
    /// Whether they run with `--enable-weights-cpu-backup`. With it released weights are in the host's memory
    /// (`dram`); without it they are gone, and are read again from the disk.
    pub weights_cpu_backup: bool,
    /// Whether a promotion ends with a token that the engine computed. Off for models that complete no text.
    #[serde(default = "yes")]
    pub warm_up: bool,
}

/// An engine and what it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SglangEngine {
    /// Where it is.
    pub server: Server,
    /// Its model's folder or name, as the engine knows it.
    pub model_path: String,
}

pub(super) struct SglangMemory {
    engines: BTreeMap<ExpertId, Engine>,
    backup: bool,
    warm_up: bool,
}

struct Engine {
    endpoint: Endpoint,
    model_path: String,
    /// The engine tells nothing of its memory.
    known: Mutex<Known>,
}

/// What is remembered of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// Nothing was asked of it, or all was given back.
    Whole,
    Released,
    /// Its memory is back and its weights are not: they hold anything.
    Garbage,
    /// A release or a resumption did not say how it ended.
    InPart,
}

impl SglangMemory {
    pub(super) fn new(config: SglangMemoryConfig, network: &Network) -> Result<Self, DriverError> {
        let engine = |(id, engine): (ExpertId, SglangEngine)| {
            let endpoint = Endpoint::new(&engine.server, network)?;
            Ok((id, Engine { endpoint, model_path: engine.model_path, known: Mutex::new(Known::Whole) }))
        };
        let engines = config.engines.into_iter().map(engine).collect::<Result<_, DriverError>>()?;
        Ok(Self { engines, backup: config.weights_cpu_backup, warm_up: config.warm_up })
    }

    fn engine(&self, expert: &ExpertId) -> Result<&Engine, DriverError> {
        self.engines.get(expert).ok_or_else(|| DriverError::unsupported(format!("no engine for {expert}")))
    }

    fn away(&self) -> Tier {
        if self.backup { Tier::Dram } else { Tier::Disk }
    }
}

impl Control for SglangMemory {
    fn caps(&self) -> Caps {
        Caps { tiers: vec![Tier::Hbm, self.away()], scope: Scope::Server, exclusive: false, measures: false }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.engines.contains_key(expert)
    }

    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        // All at once: one that does not answer must not use up the others' time.
        let places = self.engines.iter().map(async |(id, engine)| {
            // An engine that does not answer may be one that starts, with its weights on the accelerator.
            let unknown = Placed::new(Residence::Unknown, Evidence::Assumed);
            (id.clone(), engine.place(self.away(), deadline).await.unwrap_or(unknown))
        });
        let experts = join_all(places).await.into_iter().collect();
        Ok(Inventory { experts, ..Inventory::default() })
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let engine = self.engine(step.expert)?;
        let placed = engine.place(self.away(), step.deadline).await?;
        if step.to != Tier::Hbm || placed.residence == Residence::In(Tier::Hbm) {
            return Ok(Outcome::at(placed));
        }
        match engine.known() {
            // Resuming what was not released raises, so a tag is resumed once.
            Known::InPart => {
                return Err(DriverError::half_done(format!(
                    "nobody knows what {} has released, and resuming the rest twice would raise; restart its engine",
                    step.expert
                )));
            }
            Known::Released => {
                engine.set(Known::InPart);
                let resumed = engine.demand("/resume_memory_occupation", &json!({"tags": TAGS}), step).await;
                if let Err(error) = resumed {
                    if error.kind == ErrorKind::Gone {
                        engine.set(Known::Released);
                        return Err(error);
                    }
                    return Err(error.after_a_change());
                }
                engine.set(Known::Garbage);
            }
            Known::Garbage | Known::Whole => {}
        }
        if !self.backup {
            let body = json!({"model_path": engine.model_path});
            let read = engine.demand("/update_weights_from_disk", &body, step).await;
            let read = read.and_then(|answer| match answer.json()?.get("success").and_then(Value::as_bool) {
                Some(true) => Ok(()),
                _ => Err(answer.error(ErrorKind::HalfDone)),
            });
            // Still paused, so that nobody is answered from what is no model.
            read.map_err(DriverError::after_a_change)?;
        }
        let going = engine.demand("/continue_generation", &json!({}), step).await;
        going.map_err(DriverError::after_a_change)?;
        engine.set(Known::Whole);
        if self.warm_up {
            engine.endpoint.one_token("/generate", &one_token(), step.deadline).await?;
        }
        Ok(Outcome::at(Placed::new(Residence::In(Tier::Hbm), Evidence::Remembered)))
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let engine = self.engine(step.expert)?;
        let placed = engine.place(self.away(), step.deadline).await?;
        match placed.residence {
            Residence::In(tier) if tier >= step.to => return Ok(Outcome::at(placed)),
            Residence::In(_) => {}
            Residence::Moving | Residence::Unknown => {
                let what =
                    format!("nobody knows what {} has released; promote it, or restart it", step.expert);
                return Err(DriverError::half_done(what));
            }
        }
        // It must be idle before it is asked, or it fails an assertion.
        engine.set(Known::InPart);
        if let Err(error) = engine.demand("/pause_generation", &json!({"mode": "abort"}), step).await {
            if error.kind != ErrorKind::HalfDone {
                engine.set(Known::Whole);
            }
            return Err(error);
        }
        match engine.demand("/release_memory_occupation", &json!({"tags": TAGS}), step).await {
            Ok(_) => {
                engine.set(Known::Released);
                Ok(Outcome::at(Placed::new(Residence::In(self.away()), Evidence::Remembered)))
            }
            // It was refused before anything was released.
            Err(error) if matches!(error.kind, ErrorKind::Refused | ErrorKind::Busy) => {
                let going = engine.demand("/continue_generation", &json!({}), step).await;
                going.map_err(DriverError::after_a_change)?;
                engine.set(Known::Whole);
                Err(DriverError { kind: ErrorKind::Busy, ..error })
            }
            Err(error) => Err(error.after_a_change()),
        }
    }
}

impl Engine {
    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    async fn demand(&self, path: &str, body: &Value, step: Step<'_>) -> Result<Answer, DriverError> {
        self.endpoint.post(path, Some(body), step.deadline).await?.done()
    }

    async fn place(&self, away: Tier, deadline: Instant) -> Result<Placed, DriverError> {
        // Its health route would have a token computed, and a paused engine fails that after twenty seconds.
        self.endpoint.get("/model_info", deadline).await?.told()?;
        Ok(match self.known() {
            Known::Whole => Placed::new(Residence::In(Tier::Hbm), Evidence::Assumed),
            Known::Released => Placed::new(Residence::In(away), Evidence::Remembered),
            // A paused engine keeps a request waiting; one that was restarted answers.
            Known::InPart if self.generates(deadline).await => {
                self.set(Known::Whole);
                Placed::told(Tier::Hbm)
            }
            Known::Garbage | Known::InPart => Placed::new(Residence::Unknown, Evidence::Remembered),
        })
    }

    async fn generates(&self, deadline: Instant) -> bool {
        let soon = deadline.min(Instant::now() + ONE_TOKEN);
        self.endpoint.query("/generate", &one_token(), soon).await.and_then(Answer::told).is_ok()
    }
}
