use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Control, Step};
use crate::residency::Tier;
use crate::server::endpoint::{Answer, Endpoint, Network, Server, pause};
use crate::server::report::{
    Caps, DriverError, ErrorKind, Evidence, Inventory, Outcome, Placed, Residence, Scope,
};
use crate::server::yes;

/// vLLM engines with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1`, one for each expert.
///
/// Asleep at level 1 an engine's weights are in the host's memory (`dram`), at level 2 nowhere but on the disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VllmSleepConfig {
    /// The engine of each expert.
    pub engines: BTreeMap<ExpertId, Server>,
    /// What becomes of the requests in an engine that is put to sleep.
    #[serde(default)]
    pub mode: SleepMode,
    /// Whether a promotion ends with a token that the engine computed: its first after a wake-up is slow. Off for
    /// models that complete no text.
    #[serde(default = "yes")]
    pub warm_up: bool,
}

/// What becomes of the requests in an engine that is put to sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SleepMode {
    /// They are answered first.
    #[default]
    Wait,
    /// They end.
    Abort,
    /// They freeze, and go on when it wakes.
    Keep,
}

pub(super) struct VllmSleep {
    engines: BTreeMap<ExpertId, Engine>,
    mode: &'static str,
    warm_up: bool,
}

struct Engine {
    endpoint: Endpoint,
    /// The engine says only that it sleeps.
    known: Mutex<Known>,
}

/// What is remembered of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    /// It was asked to sleep with its weights there, and did not say that it did. It counts itself as asleep from
    /// then on, also while it still answers requests with all its weights on the accelerator.
    FallingAsleep(Tier),
    /// It sleeps with its weights there.
    Asleep(Tier),
    /// It was asked to wake up, and did not say that it had.
    HalfAwake,
}

impl VllmSleep {
    pub(super) fn new(config: &VllmSleepConfig, network: &Network) -> Result<Self, DriverError> {
        let engine = |(id, server): (&ExpertId, &Server)| {
            let endpoint = Endpoint::new(server, network)?;
            Ok((id.clone(), Engine { endpoint, known: Mutex::new(Known::Nothing) }))
        };
        let mode = match config.mode {
            SleepMode::Wait => "wait",
            SleepMode::Abort => "abort",
            SleepMode::Keep => "keep",
        };
        let engines = config.engines.iter().map(engine).collect::<Result<_, DriverError>>()?;
        Ok(Self { engines, mode, warm_up: config.warm_up })
    }

    fn engine(&self, expert: &ExpertId) -> Result<&Engine, DriverError> {
        self.engines.get(expert).ok_or_else(|| DriverError::unsupported(format!("no engine for {expert}")))
    }

    /// Where an engine's weights are once it has fallen asleep, where it was about to.
    async fn settled(&self, engine: &Engine, deadline: Instant) -> Result<Placed, DriverError> {
        let placed = engine.place(deadline).await?;
        let Known::FallingAsleep(tier) = engine.known() else { return Ok(placed) };
        // The same again changes nothing, and is answered when it sleeps.
        engine.fall_asleep(tier, self.mode, deadline).await?;
        engine.place(deadline).await
    }
}

impl Control for VllmSleep {
    fn caps(&self) -> Caps {
        Caps {
            tiers: vec![Tier::Hbm, Tier::Dram, Tier::Disk],
            scope: Scope::Server,
            exclusive: false,
            measures: false,
        }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.engines.contains_key(expert)
    }

    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        // All at once: one that does not answer must not use up the others' time.
        let places = self.engines.iter().map(async |(id, engine)| {
            // An engine that does not answer may be one that starts, with its weights on the accelerator.
            let unknown = Placed::new(Residence::Unknown, Evidence::Assumed);
            (id.clone(), engine.place(deadline).await.unwrap_or(unknown))
        });
        let experts = join_all(places).await.into_iter().collect();
        Ok(Inventory { experts, ..Inventory::default() })
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let engine = self.engine(step.expert)?;
        let placed = self.settled(engine, step.deadline).await?;
        if step.to != Tier::Hbm {
            return match placed.residence {
                Residence::In(tier) if tier <= step.to => Ok(Outcome::at(placed)),
                _ => Err(DriverError::refused(format!(
                    "{} sleeps at level 2; only waking up reads its weights again",
                    step.expert
                ))),
            };
        }
        if placed.residence == Residence::In(Tier::Hbm) {
            return Ok(Outcome::at(placed));
        }
        let asleep = engine.known();
        engine.set(Known::HalfAwake);
        if let Err(error) = engine.wake(asleep, step.deadline).await {
            // Nobody was there to be woken up.
            if error.kind == ErrorKind::Gone {
                engine.set(asleep);
                return Err(error);
            }
            return Err(error.after_a_change());
        }
        let outcome = engine.settle(false, step.deadline).await?;
        if self.warm_up {
            engine.one_token(step.deadline).await?;
        }
        Ok(outcome)
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let engine = self.engine(step.expert)?;
        let placed = self.settled(engine, step.deadline).await?;
        match placed.residence {
            Residence::In(tier) if tier >= step.to => return Ok(Outcome::at(placed)),
            Residence::In(Tier::Hbm) => {}
            Residence::In(_) => {
                return Err(DriverError::refused(format!(
                    "{} sleeps, and a sleeping engine keeps its level; wake it up first",
                    step.expert
                )));
            }
            Residence::Moving | Residence::Unknown => {
                return Err(DriverError::half_done(format!(
                    "{} woke up in part, and sleeping again would free nothing; promote it, or restart its engine",
                    step.expert
                )));
            }
        }
        engine.fall_asleep(step.to, self.mode, step.deadline).await?;
        engine.settle(true, step.deadline).await
    }
}

impl Engine {
    fn known(&self) -> Known {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    async fn sleeps(&self, deadline: Instant) -> Result<bool, DriverError> {
        let answer = self.endpoint.get("/is_sleeping", deadline).await?.told()?;
        let sleeps = answer.json()?.get("is_sleeping").and_then(Value::as_bool);
        sleeps.ok_or_else(|| answer.error(ErrorKind::Unsupported))
    }

    async fn place(&self, deadline: Instant) -> Result<Placed, DriverError> {
        if !self.sleeps(deadline).await? {
            // Also after a restart, which forgets that it slept.
            self.set(Known::Nothing);
            return Ok(Placed::told(Tier::Hbm));
        }
        Ok(match self.known() {
            Known::Asleep(tier) => Placed::new(Residence::In(tier), Evidence::Remembered),
            Known::FallingAsleep(_) => Placed::new(Residence::Moving, Evidence::Remembered),
            Known::HalfAwake => Placed::new(Residence::Unknown, Evidence::Remembered),
            Known::Nothing => Placed::new(Residence::In(Tier::Dram), Evidence::Assumed),
        })
    }

    async fn fall_asleep(&self, tier: Tier, mode: &str, deadline: Instant) -> Result<(), DriverError> {
        self.set(Known::FallingAsleep(tier));
        let level = if tier == Tier::Dram { 1 } else { 2 };
        let path = format!("/sleep?level={level}&mode={mode}");
        self.endpoint.post(&path, None, deadline).await?.done()?;
        self.set(Known::Asleep(tier));
        Ok(())
    }

    /// Waits until the engine says that it sleeps, or does not.
    async fn settle(&self, asleep: bool, deadline: Instant) -> Result<Outcome, DriverError> {
        loop {
            let sleeps = self.sleeps(deadline).await.map_err(DriverError::after_a_change)?;
            if sleeps == asleep {
                return Ok(Outcome::at(self.place(deadline).await.map_err(DriverError::after_a_change)?));
            }
            pause(deadline, if asleep { "the engine slept" } else { "the engine was awake" }).await?;
        }
    }

    async fn one_token(&self, deadline: Instant) -> Result<(), DriverError> {
        let models = self.endpoint.get("/v1/models", deadline).await.and_then(Answer::told);
        let models = models.and_then(|answer| answer.list("data")).map_err(DriverError::after_a_change)?;
        // Adapters have a parent.
        let is_base = |model: &&Value| model.get("parent").is_none_or(Value::is_null);
        let name = models.iter().find(is_base).and_then(|model| model.get("id"));
        let token = json!({"model": name, "prompt": "a", "max_tokens": 1});
        self.endpoint.one_token("/v1/completions", &token, deadline).await
    }

    async fn wake(&self, asleep: Known, deadline: Instant) -> Result<(), DriverError> {
        let answer = if asleep == Known::Asleep(Tier::Dram) {
            self.endpoint.post("/wake_up", None, deadline).await?.done()?
        } else {
            // Level 2 left no weights. Where the level is not known, reading them again is right for every level.
            self.endpoint.post("/wake_up?tags=weights", None, deadline).await?.done()?;
            let reload = json!({"method": "reload_weights"});
            let reloaded = self.endpoint.post("/collective_rpc", Some(&reload), deadline).await;
            reloaded.and_then(Answer::done).map_err(DriverError::after_a_change)?;
            let woken = self.endpoint.post("/wake_up?tags=kv_cache", None, deadline).await;
            woken.and_then(Answer::done).map_err(DriverError::after_a_change)?
        };
        // With status 200 it may be awake in part, or paused besides.
        if answer.json()?.get("status").and_then(Value::as_str) == Some("sleeping") {
            let started = self.endpoint.post("/wake_up?tags=scheduling", None, deadline).await;
            started.and_then(Answer::done).map_err(DriverError::after_a_change)?;
        }
        Ok(())
    }
}
