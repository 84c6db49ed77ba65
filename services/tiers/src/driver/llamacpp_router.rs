use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Control, Step};
use crate::residency::Tier;
use crate::server::endpoint::{Endpoint, Network, Server, pause};
use crate::server::names::Names;
use crate::server::report::{
    Caps, DriverError, ErrorKind, Evidence, Inventory, Outcome, Placed, Residence, Scope,
};
use crate::server::yes;

/// Our word for an instance that was asked to stop and still runs.
const LEAVING: &str = "leaving";

/// A llama-server in router mode, started with `--models-max 0 --no-models-autoload`: it counts models, not bytes,
/// and would kill busy ones to make room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LlamacppRouterConfig {
    /// The router.
    pub server: Server,
    /// What it calls each expert.
    pub models: BTreeMap<ExpertId, String>,
    /// Whether a promotion ends with a token that the model computed. Off for models that complete no text.
    #[serde(default = "yes")]
    pub warm_up: bool,
}

pub(super) struct LlamacppRouter {
    endpoint: Endpoint,
    names: Names,
    warm_up: bool,
    /// The instances that were asked to stop: until they have, the router lists them as if nothing had been said.
    leaving: Mutex<BTreeMap<String, Value>>,
}

/// What the router says of a model.
#[derive(Clone, Debug)]
struct Status {
    value: String,
    failed: bool,
    exit_code: Option<i64>,
    /// The arguments that its instance was started with; its port is among them, so no other instance has the same.
    args: Value,
}

impl LlamacppRouter {
    pub(super) fn new(config: LlamacppRouterConfig, network: &Network) -> Result<Self, DriverError> {
        Ok(Self {
            endpoint: Endpoint::new(&config.server, network)?,
            names: Names::new(config.models),
            warm_up: config.warm_up,
            leaving: Mutex::default(),
        })
    }

    async fn statuses(&self, deadline: Instant) -> Result<BTreeMap<String, Status>, DriverError> {
        let models = self.endpoint.get("/models", deadline).await?.told()?.list("data")?;
        let status = |model: &Value| {
            let status = model.get("status")?;
            let status = Status {
                value: status.get("value")?.as_str()?.to_owned(),
                failed: status.get("failed").and_then(Value::as_bool).unwrap_or(false),
                exit_code: status.get("exit_code").and_then(Value::as_i64),
                args: status.get("args").cloned().unwrap_or_default(),
            };
            Some((model.get("id")?.as_str()?.to_owned(), status))
        };
        let statuses: Option<BTreeMap<_, _>> = models.iter().map(status).collect();
        let mut statuses = statuses.ok_or_else(|| {
            DriverError::unsupported(
                "GET /models: a model has no id or status; start llama-server in router mode",
            )
        })?;
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|name, args| {
            statuses.get(name).is_some_and(|status| status.value != "unloaded" && status.args == *args)
        });
        for name in leaving.keys() {
            if let Some(status) = statuses.get_mut(name) {
                LEAVING.clone_into(&mut status.value);
            }
        }
        Ok(statuses)
    }

    fn inventory(&self, statuses: &BTreeMap<String, Status>) -> Inventory {
        let placed = |status: &Status| match status.value.as_str() {
            "loaded" => Placed::told(Tier::Hbm),
            // A sleeping model has given its memory up.
            "unloaded" | "sleeping" => Placed::told(Tier::Disk),
            "loading" | "downloading" | "downloaded" => Placed::new(Residence::Moving, Evidence::Server),
            LEAVING => Placed::new(Residence::Moving, Evidence::Remembered),
            _ => Placed::new(Residence::Unknown, Evidence::Server),
        };
        self.names.inventory(statuses.iter().map(|(name, status)| (name.clone(), placed(status))).collect())
    }

    async fn one_token(&self, name: &str, deadline: Instant) -> Result<(), DriverError> {
        let token = json!({"model": name, "prompt": "a", "max_tokens": 1});
        self.endpoint.one_token("/v1/completions?autoload=false", &token, deadline).await
    }
}

impl Control for LlamacppRouter {
    fn caps(&self) -> Caps {
        Caps { tiers: vec![Tier::Hbm, Tier::Disk], scope: Scope::Expert, exclusive: false, measures: false }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.names.has(expert)
    }

    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        Ok(self.inventory(&self.statuses(deadline).await?))
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let (statuses, first) = loop {
            let statuses = self.statuses(step.deadline).await?;
            let Some(first) = statuses.get(name).map(|status| status.value.clone()) else {
                return Err(DriverError::refused(format!(
                    "llama-server has no model {name:?}; correct models"
                )));
            };
            if step.to == Tier::Disk || first != LEAVING {
                break (statuses, first);
            }
            // It would refuse to load what still runs.
            let stopped = pause(step.deadline, &format!("llama-server had unloaded {name:?}")).await;
            stopped.map_err(|error| DriverError { kind: ErrorKind::Busy, ..error })?;
        };
        let before = self.inventory(&statuses);
        if step.to == Tier::Disk || first == "loaded" {
            return Ok(Outcome::at(before.placed(step.expert)));
        }
        match first.as_str() {
            "loading" => {}
            // It runs, so it cannot be loaded; the next request brings its memory back.
            "sleeping" => self.one_token(name, step.deadline).await?,
            _ => {
                let load = json!({"model": name});
                self.endpoint.post("/models/load", Some(&load), step.deadline).await?.done()?;
            }
        }
        // The answer only says that it was accepted. From then on the model is listed as loading, until it is there
        // or has ended.
        loop {
            let statuses = self.statuses(step.deadline).await.map_err(DriverError::after_a_change)?;
            match statuses.get(name) {
                Some(status) if status.value == "loaded" => {
                    if self.warm_up && first != "sleeping" {
                        self.one_token(name, step.deadline).await?;
                    }
                    let after = self.inventory(&statuses);
                    let evicted = after.evicted(&before, step.expert);
                    return Ok(Outcome { evicted, ..Outcome::at(after.placed(step.expert)) });
                }
                Some(status) if status.failed => {
                    let code =
                        status.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
                    return Err(DriverError::refused(format!(
                        "llama-server could not load {name:?}{code}; its log says why"
                    )));
                }
                Some(status) if status.value == "unloaded" => {
                    return Err(DriverError::new(
                        ErrorKind::Busy,
                        format!(
                            "llama-server removed {name:?} while it loaded; start it with --models-max 0"
                        ),
                    ));
                }
                _ => {}
            }
            pause(step.deadline, &format!("llama-server had loaded {name:?}")).await?;
        }
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let statuses = self.statuses(step.deadline).await?;
        let before = self.inventory(&statuses).placed(step.expert);
        if step.to == Tier::Hbm || before.residence == Residence::In(Tier::Disk) {
            return Ok(Outcome::at(before));
        }
        if let Some(status) = statuses.get(name).filter(|status| status.value != LEAVING) {
            let leaving = || self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            leaving().insert(name.to_owned(), status.args.clone());
            let unload = json!({"model": name});
            let answer = self.endpoint.post("/models/unload", Some(&unload), step.deadline).await?;
            if answer.status.is_client_error() {
                leaving().remove(name);
                let now = self.probe(step.deadline).await?.placed(step.expert);
                // It may have ended by itself in between.
                return match now.residence {
                    Residence::In(Tier::Disk) => Ok(Outcome::at(now)),
                    _ => Err(answer.error(ErrorKind::Refused)),
                };
            }
            answer.done()?;
        }
        loop {
            let now = self.probe(step.deadline).await.map_err(DriverError::after_a_change)?;
            if now.placed(step.expert).residence == Residence::In(Tier::Disk) {
                return Ok(Outcome::at(now.placed(step.expert)));
            }
            pause(step.deadline, &format!("llama-server had unloaded {name:?}")).await?;
        }
    }
}
