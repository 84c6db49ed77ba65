use std::collections::{BTreeMap, BTreeSet};

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

/// No adapter has this name. Unloading it changes nothing, and the refusal lists what is loaded, which no other
/// route does.
const NOBODY: &str = "guildhall-asks-what-is-loaded";

/// Adapters of a `SGLang` engine with `--enable-lora` and one data-parallel replica. Loaded means in the host's memory;
/// the engine brings them to the accelerator with each batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SglangLoraConfig {
    /// The engine.
    pub server: Server,
    /// The adapters: by which name requests ask for each, and its folder as the engine sees it.
    pub adapters: BTreeMap<ExpertId, SglangAdapter>,
    /// Its `--max-loaded-loras`: over it the engine would unregister one that was not used for long.
    pub max_loaded_loras: usize,
}

/// An adapter as its engine knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SglangAdapter {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub path: String,
}

pub(super) struct SglangLora {
    endpoint: Endpoint,
    config: SglangLoraConfig,
}

impl SglangLora {
    pub(super) fn new(config: SglangLoraConfig, network: &Network) -> Result<Self, DriverError> {
        Ok(Self { endpoint: Endpoint::new(&config.server, network)?, config })
    }

    fn adapter(&self, expert: &ExpertId) -> Result<&SglangAdapter, DriverError> {
        let adapter = self.config.adapters.get(expert);
        adapter.ok_or_else(|| DriverError::unsupported(format!("adapters: there is no {expert}")))
    }

    fn inventory(&self, loaded: &BTreeSet<String>) -> Inventory {
        let placed = |adapter: &SglangAdapter| {
            Placed::told(if loaded.contains(&adapter.name) { Tier::Dram } else { Tier::Disk })
        };
        let adapters = &self.config.adapters;
        let is_ours = |name: &String| adapters.values().any(|adapter| adapter.name == *name);
        Inventory {
            experts: adapters.iter().map(|(id, adapter)| (id.clone(), placed(adapter))).collect(),
            strangers: loaded.iter().filter(|name| !is_ours(name)).cloned().collect(),
            free_bytes: None,
        }
    }
}

/// What an answer, a refusal too, says is loaded: a list of names, or an object by name.
fn loaded(answer: &Answer) -> Result<BTreeSet<String>, DriverError> {
    let json = answer.json().map_err(|_| answer.error(ErrorKind::Busy))?;
    match json.get("loaded_adapters") {
        Some(Value::Array(names)) => Ok(names.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        Some(Value::Object(names)) => Ok(names.keys().cloned().collect()),
        _ => Err(answer.error(ErrorKind::Unsupported)),
    }
}

impl Control for SglangLora {
    fn caps(&self) -> Caps {
        Caps { tiers: vec![Tier::Dram, Tier::Disk], scope: Scope::Expert, exclusive: false, measures: false }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.config.adapters.contains_key(expert)
    }

    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        let nobody = json!({"lora_name": NOBODY});
        let answer = self.endpoint.query("/unload_lora_adapter", &nobody, deadline).await?;
        Ok(self.inventory(&loaded(&answer)?))
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let adapter = self.adapter(step.expert)?;
        let before = self.probe(step.deadline).await?;
        let placed = before.placed(step.expert);
        if step.to == Tier::Disk || placed.residence == Residence::In(Tier::Dram) {
            return Ok(Outcome::at(placed));
        }
        let here = before.experts.values().filter(|placed| placed.residence == Residence::In(Tier::Dram));
        if here.count() + before.strangers.len() >= self.config.max_loaded_loras {
            return Err(DriverError::refused(format!(
                "{} adapters are loaded, and the engine would drop one of them silently; unload one first",
                self.config.max_loaded_loras
            )));
        }
        let body = json!({"lora_name": adapter.name, "lora_path": adapter.path, "pinned": false});
        let mut answer = self.endpoint.post("/load_lora_adapter", Some(&body), step.deadline).await?;
        if answer.status.is_client_error() {
            // An unload that failed half way blocks the name until it is repeated.
            let unload = json!({"lora_name": adapter.name});
            self.endpoint.post("/unload_lora_adapter", Some(&unload), step.deadline).await?;
            answer = self.endpoint.post("/load_lora_adapter", Some(&body), step.deadline).await?;
        }
        let answer = answer.done()?;
        let after = self.inventory(&loaded(&answer).map_err(DriverError::after_a_change)?);
        match after.placed(step.expert) {
            placed if placed.residence == Residence::In(Tier::Dram) => {
                let is_lost = |id: &&ExpertId| {
                    before.placed(id).residence == Residence::In(Tier::Dram)
                        && after.placed(id).residence != Residence::In(Tier::Dram)
                };
                let evicted = after.experts.keys().filter(is_lost).cloned().collect();
                Ok(Outcome { evicted, ..Outcome::at(placed) })
            }
            _ => Err(answer.error(ErrorKind::HalfDone)),
        }
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let adapter = self.adapter(step.expert)?;
        let placed = self.probe(step.deadline).await?.placed(step.expert);
        if step.to != Tier::Disk || placed.residence == Residence::In(Tier::Disk) {
            return Ok(Outcome::at(placed));
        }
        let body = json!({"lora_name": adapter.name});
        let answer = self.endpoint.post("/unload_lora_adapter", Some(&body), step.deadline).await?;
        let after = loaded(&answer).map_err(DriverError::after_a_change)?;
        if !answer.status.is_success() || after.contains(&adapter.name) {
            return Err(answer.error(ErrorKind::HalfDone));
        }
        Ok(Outcome::at(Placed::new(Residence::In(Tier::Disk), Evidence::Server)))
    }
}
