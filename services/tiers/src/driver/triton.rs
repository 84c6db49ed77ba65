use std::collections::BTreeMap;

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Control, Step};
use crate::residency::Tier;
use crate::server::endpoint::{Answer, Endpoint, Network, Server, pause, segment};
use crate::server::names::Names;
use crate::server::report::{
    Caps, DriverError, ErrorKind, Evidence, Inventory, Outcome, Placed, Residence, Scope,
};

/// A Triton server with `--model-control-mode=explicit`; in its other modes it refuses to load and unload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TritonConfig {
    /// Its HTTP endpoint.
    pub server: Server,
    /// What it calls each expert.
    pub models: BTreeMap<ExpertId, String>,
    /// Whether the models that an ensemble is made of go with it.
    #[serde(default)]
    pub unload_dependents: bool,
}

pub(super) struct Triton {
    endpoint: Endpoint,
    names: Names,
    unload_dependents: bool,
}

impl Triton {
    pub(super) fn new(config: TritonConfig, network: &Network) -> Result<Self, DriverError> {
        let endpoint = Endpoint::new(&config.server, network)?;
        Ok(Self { endpoint, names: Names::new(config.models), unload_dependents: config.unload_dependents })
    }
}

/// A refusal of a load or unload. That of the wrong mode is for good.
fn met(answer: Answer) -> Result<Answer, DriverError> {
    let text = String::from_utf8_lossy(&answer.body).to_lowercase();
    // With 503, which would otherwise mean that it may work later.
    if !answer.status.is_success() && text.contains("explicit model load / unload is not allowed") {
        return Err(DriverError::unsupported(format!(
            "{}; start Triton with --model-control-mode=explicit",
            answer.error(ErrorKind::Unsupported)
        )));
    }
    answer.done()
}

/// Where a version is. One without a state was never loaded.
fn residence(model: &Value) -> Residence {
    match model.get("state").and_then(Value::as_str) {
        Some("READY") => Residence::In(Tier::Hbm),
        Some("LOADING" | "UNLOADING") => Residence::Moving,
        Some("UNAVAILABLE") | None => Residence::In(Tier::Disk),
        Some(_) => Residence::Unknown,
    }
}

impl Control for Triton {
    fn caps(&self) -> Caps {
        Caps { tiers: vec![Tier::Hbm, Tier::Disk], scope: Scope::Expert, exclusive: false, measures: false }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.names.has(expert)
    }

    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        let all = json!({"ready": false});
        let answer = self.endpoint.query("/v2/repository/index", &all, deadline).await?.told()?;
        let Value::Array(index) = answer.json()? else {
            return Err(DriverError::unsupported("POST /v2/repository/index: the answer is not a list"));
        };
        let mut listed: BTreeMap<String, Placed> = BTreeMap::new();
        for version in &index {
            let Some(name) = version.get("name").and_then(Value::as_str) else { continue };
            let placed = Placed::new(residence(version), Evidence::Server);
            // A model is away when all its versions are, and there when one is and none moves.
            let model = listed.entry(name.to_owned()).or_insert_with(|| placed.clone());
            let rank = |residence| match residence {
                Residence::In(Tier::Disk) => 0,
                Residence::In(_) => 1,
                Residence::Moving => 2,
                Residence::Unknown => 3,
            };
            if rank(placed.residence) > rank(model.residence) {
                *model = placed;
            }
        }
        Ok(self.names.inventory(listed))
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let before = self.probe(step.deadline).await?.placed(step.expert);
        if step.to == Tier::Disk || before.residence == Residence::In(Tier::Hbm) {
            return Ok(Outcome::at(before));
        }
        let path = format!("/v2/repository/models/{}/load", segment(name));
        met(self.endpoint.post(&path, Some(&json!({})), step.deadline).await?)?;
        let placed =
            self.probe(step.deadline).await.map_err(DriverError::after_a_change)?.placed(step.expert);
        match placed.residence {
            Residence::In(Tier::Hbm) => Ok(Outcome::at(placed)),
            _ => Err(DriverError::half_done(format!(
                "Triton answered that {name:?} is loaded; its index does not"
            ))),
        }
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let before = self.probe(step.deadline).await?.placed(step.expert);
        if step.to == Tier::Hbm || before.residence == Residence::In(Tier::Disk) {
            return Ok(Outcome::at(before));
        }
        let path = format!("/v2/repository/models/{}/unload", segment(name));
        let body = json!({"parameters": {"unload_dependents": self.unload_dependents}});
        met(self.endpoint.post(&path, Some(&body), step.deadline).await?)?;
        // It answers while requests under way still use the model.
        loop {
            let now =
                self.probe(step.deadline).await.map_err(DriverError::after_a_change)?.placed(step.expert);
            if now.residence == Residence::In(Tier::Disk) {
                return Ok(Outcome::at(now));
            }
            pause(step.deadline, &format!("Triton had unloaded {name:?}")).await?;
        }
    }
}
