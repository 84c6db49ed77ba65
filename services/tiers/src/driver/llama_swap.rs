use std::collections::BTreeMap;

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::{Control, Step};
use crate::residency::Tier;
use crate::server::endpoint::{Endpoint, Network, Server, pause, segment};
use crate::server::names::Names;
use crate::server::report::{
    Caps, DriverError, ErrorKind, Evidence, Inventory, Outcome, Placed, Residence, Scope,
};

/// A llama-swap proxy. Its groups may remove models to load another; give experts that must stay groups that do not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LlamaSwapConfig {
    /// The proxy.
    pub server: Server,
    /// What it calls each expert.
    pub models: BTreeMap<ExpertId, String>,
    /// What is asked of a model to have it loaded: a path of its own server, without the first slash.
    #[serde(default = "health")]
    pub load_path: String,
}

fn health() -> String {
    "health".to_owned()
}

pub(super) struct LlamaSwap {
    endpoint: Endpoint,
    names: Names,
    load_path: String,
}

impl LlamaSwap {
    pub(super) fn new(config: LlamaSwapConfig, network: &Network) -> Result<Self, DriverError> {
        let endpoint = Endpoint::new(&config.server, network)?;
        let load_path = config.load_path.trim_start_matches('/').to_owned();
        Ok(Self { endpoint, names: Names::new(config.models), load_path })
    }

    async fn states(&self, deadline: Instant) -> Result<BTreeMap<String, String>, DriverError> {
        let running = self.endpoint.get("/running", deadline).await?.told()?.list("running")?;
        let state = |model: &Value| {
            let text = |key| Some(model.get(key)?.as_str()?.to_owned());
            Some((text("model")?, text("state")?))
        };
        running.iter().map(state).collect::<Option<_>>().ok_or_else(|| {
            DriverError::unsupported("GET /running: an entry has no model or state; is this llama-swap?")
        })
    }

    fn inventory(&self, states: &BTreeMap<String, String>) -> Inventory {
        let placed = |state: &String| match state.as_str() {
            "ready" => Placed::told(Tier::Hbm),
            "stopped" => Placed::told(Tier::Disk),
            "starting" | "stopping" => Placed::new(Residence::Moving, Evidence::Server),
            _ => Placed::new(Residence::Unknown, Evidence::Server),
        };
        self.names.inventory(states.iter().map(|(name, state)| (name.clone(), placed(state))).collect())
    }
}

impl Control for LlamaSwap {
    fn caps(&self) -> Caps {
        Caps { tiers: vec![Tier::Hbm, Tier::Disk], scope: Scope::Expert, exclusive: true, measures: false }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.names.has(expert)
    }

    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        Ok(self.inventory(&self.states(deadline).await?))
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let before = loop {
            let states = self.states(step.deadline).await?;
            // A request that meets a model on its way out may wait for ever, so it is not sent.
            if states.get(name).is_none_or(|state| state != "stopping") {
                break self.inventory(&states);
            }
            let stopped = pause(step.deadline, &format!("llama-swap had stopped {name:?}")).await;
            stopped.map_err(|error| DriverError { kind: ErrorKind::Busy, ..error })?;
        };
        if step.to == Tier::Disk || before.placed(step.expert).residence == Residence::In(Tier::Hbm) {
            return Ok(Outcome::at(before.placed(step.expert)));
        }
        // The answer is the model's own: whatever it is, the list says whether the model runs.
        let path = format!("/upstream/{}/{}", segment(name), self.load_path);
        let answer = self.endpoint.get_to_change(&path, step.deadline).await?;
        let after = self.probe(step.deadline).await.map_err(DriverError::after_a_change)?;
        let placed = after.placed(step.expert);
        match placed.residence {
            Residence::In(Tier::Hbm) => {
                Ok(Outcome { evicted: after.evicted(&before, step.expert), ..Outcome::at(placed) })
            }
            Residence::In(_) => Err(answer.error(ErrorKind::Refused)),
            Residence::Moving | Residence::Unknown => Err(answer.error(ErrorKind::HalfDone)),
        }
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let before = self.probe(step.deadline).await?.placed(step.expert);
        if step.to == Tier::Hbm || before.residence == Residence::In(Tier::Disk) {
            return Ok(Outcome::at(before));
        }
        let path = format!("/api/models/unload/{}", segment(name));
        self.endpoint.post(&path, None, step.deadline).await?.done()?;
        loop {
            let now =
                self.probe(step.deadline).await.map_err(DriverError::after_a_change)?.placed(step.expert);
            if now.residence == Residence::In(Tier::Disk) {
                return Ok(Outcome::at(now));
            }
            pause(step.deadline, &format!("llama-swap had stopped {name:?}")).await?;
        }
    }
}
