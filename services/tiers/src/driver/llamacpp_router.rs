use std::collections::BTreeMap;

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

/// A llama-server in router mode, started with `--models-max 0 --no-models-autoload`: it counts models, not bytes,
/// and would kill busy ones to make room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LlamacppRouterConfig {
    /// The router.
    pub server: Server,
    /// What it calls each expert.
    pub models: BTreeMap<ExpertId, String>,
}

pub(super) struct LlamacppRouter {
    endpoint: Endpoint,
    names: Names,
}

/// What the router says of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Status {
    value: String,
    failed: bool,
    exit_code: Option<i64>,
}

impl LlamacppRouter {
    pub(super) fn new(config: LlamacppRouterConfig, network: &Network) -> Result<Self, DriverError> {
        Ok(Self { endpoint: Endpoint::new(&config.server, network)?, names: Names::new(config.models) })
    }

    async fn statuses(&self, deadline: Instant) -> Result<BTreeMap<String, Status>, DriverError> {
        let models = self.endpoint.get("/models", deadline).await?.told()?.list("data")?;
        let status = |model: &Value| {
            let status = model.get("status")?;
            let status = Status {
                value: status.get("value")?.as_str()?.to_owned(),
                failed: status.get("failed").and_then(Value::as_bool).unwrap_or(false),
                exit_code: status.get("exit_code").and_then(Value::as_i64),
            };
            Some((model.get("id")?.as_str()?.to_owned(), status))
        };
        models.iter().map(status).collect::<Option<_>>().ok_or_else(|| {
            DriverError::unsupported(
                "GET /models: a model has no id or status; start llama-server in router mode",
            )
        })
    }

    fn inventory(&self, statuses: &BTreeMap<String, Status>) -> Inventory {
        let placed = |status: &Status| match status.value.as_str() {
            "loaded" => Placed::told(Tier::Hbm),
            // A sleeping model has given its memory up.
            "unloaded" | "sleeping" => Placed::told(Tier::Disk),
            "loading" | "downloading" => Placed::new(Residence::Moving, Evidence::Server),
            _ => Placed::new(Residence::Unknown, Evidence::Server),
        };
        self.names.inventory(statuses.iter().map(|(name, status)| (name.clone(), placed(status))).collect())
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
        let statuses = self.statuses(step.deadline).await?;
        let before = self.inventory(&statuses);
        let Some(first) = statuses.get(name) else {
            return Err(DriverError::refused(format!("llama-server has no model {name:?}; correct models")));
        };
        if step.to == Tier::Disk || first.value == "loaded" {
            return Ok(Outcome::at(before.placed(step.expert)));
        }
        let mut began = first.value == "loading";
        if !began {
            let load = json!({"model": name});
            self.endpoint.post("/models/load", Some(&load), step.deadline).await?.done()?;
        }
        // The answer only says that it was accepted.
        loop {
            let statuses = self.statuses(step.deadline).await.map_err(DriverError::after_a_change)?;
            match statuses.get(name) {
                Some(status) if status.value == "loaded" => {
                    let after = self.inventory(&statuses);
                    let evicted = after.evicted(&before, step.expert);
                    return Ok(Outcome { evicted, ..Outcome::at(after.placed(step.expert)) });
                }
                // An old failure is shown until the load begins.
                Some(status) if status.failed && (began || !first.failed) => {
                    let code =
                        status.exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
                    return Err(DriverError::refused(format!("llama-server could not load {name:?}{code}")));
                }
                Some(status) if status.value == "unloaded" && began => {
                    return Err(DriverError::new(
                        ErrorKind::Busy,
                        format!(
                            "llama-server removed {name:?} while it loaded; start it with --models-max 0"
                        ),
                    ));
                }
                status => began |= status.is_some_and(|status| status.value == "loading"),
            }
            pause(step.deadline, &format!("llama-server had loaded {name:?}")).await?;
        }
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let before = self.probe(step.deadline).await?.placed(step.expert);
        if step.to == Tier::Hbm || before.residence == Residence::In(Tier::Disk) {
            return Ok(Outcome::at(before));
        }
        let unload = json!({"model": name});
        self.endpoint.post("/models/unload", Some(&unload), step.deadline).await?.done()?;
        loop {
            let now = self.probe(step.deadline).await.map_err(DriverError::after_a_change)?;
            if now.placed(step.expert).residence == Residence::In(Tier::Disk) {
                return Ok(Outcome::at(now.placed(step.expert)));
            }
            pause(step.deadline, &format!("llama-server had unloaded {name:?}")).await?;
        }
    }
}
