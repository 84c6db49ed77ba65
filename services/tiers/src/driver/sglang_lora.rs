use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Control, Step};
use crate::residency::Tier;
use crate::server::endpoint::{Endpoint, Network, Server};
use crate::server::report::{
    Caps, DriverError, ErrorKind, Evidence, Inventory, Outcome, Placed, Residence, Scope,
};

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
    /// Whose unload was not confirmed.
    unloading: Mutex<BTreeSet<String>>,
}

impl SglangLora {
    pub(super) fn new(config: SglangLoraConfig, network: &Network) -> Result<Self, DriverError> {
        let endpoint = Endpoint::new(&config.server, network)?;
        Ok(Self { endpoint, config, unloading: Mutex::default() })
    }

    fn adapter(&self, expert: &ExpertId) -> Result<&SglangAdapter, DriverError> {
        let adapter = self.config.adapters.get(expert);
        adapter.ok_or_else(|| DriverError::unsupported(format!("adapters: there is no {expert}")))
    }

    fn with_unloading<T>(&self, what: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        what(&mut self.unloading.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Unloads an adapter, also one whose unload failed half way: the engine finishes that.
    async fn unload(&self, name: &str, deadline: Instant) -> Result<(), DriverError> {
        self.with_unloading(|unloading| unloading.insert(name.to_owned()));
        let body = json!({"lora_name": name});
        let answer = self.endpoint.post("/unload_lora_adapter", Some(&body), deadline).await?;
        // What the engine does not know is not there.
        let is_unknown = String::from_utf8_lossy(&answer.body).contains("does not exist");
        if !answer.status.is_success() && !is_unknown {
            return Err(answer.error(ErrorKind::HalfDone));
        }
        self.with_unloading(|unloading| unloading.remove(name));
        Ok(())
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
        let models = self.endpoint.get("/v1/models", deadline).await?.told()?.list("data")?;
        // Adapters have a parent; their base has none.
        let is_adapter = |model: &&Value| model.get("parent").is_some_and(|parent| !parent.is_null());
        let name = |model: &Value| Some(model.get("id")?.as_str()?.to_owned());
        let loaded: BTreeSet<String> = models.iter().filter(is_adapter).filter_map(name).collect();
        let unloading = self.with_unloading(|unloading| unloading.clone());
        let placed = |adapter: &SglangAdapter| match &adapter.name {
            // The engine lists it no more before it is gone.
            name if unloading.contains(name) => Placed::new(Residence::Unknown, Evidence::Remembered),
            name if loaded.contains(name) => Placed::told(Tier::Dram),
            _ => Placed::told(Tier::Disk),
        };
        let adapters = &self.config.adapters;
        let is_ours = |name: &String| adapters.values().any(|adapter| adapter.name == *name);
        Ok(Inventory {
            experts: adapters.iter().map(|(id, adapter)| (id.clone(), placed(adapter))).collect(),
            strangers: loaded.iter().filter(|name| !is_ours(name)).cloned().collect(),
            free_bytes: None,
        })
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let adapter = self.adapter(step.expert)?;
        let before = self.probe(step.deadline).await?;
        let placed = before.placed(step.expert);
        if step.to == Tier::Disk || placed.residence == Residence::In(Tier::Dram) {
            return Ok(Outcome::at(placed));
        }
        // A name whose unload failed cannot be loaded before that was repeated.
        if placed.residence == Residence::Unknown {
            self.unload(&adapter.name, step.deadline).await?;
        }
        // Those half unloaded count: they may hold their bytes.
        let here = before
            .experts
            .iter()
            .filter(|(id, placed)| *id != step.expert && placed.residence != Residence::In(Tier::Disk));
        if here.count() + before.strangers.len() >= self.config.max_loaded_loras {
            return Err(DriverError::refused(format!(
                "{} adapters are loaded, and the engine would drop one of them silently; unload one first",
                self.config.max_loaded_loras
            )));
        }
        let body = json!({"lora_name": adapter.name, "lora_path": adapter.path, "pinned": false});
        let mut answer = self.endpoint.post("/load_lora_adapter", Some(&body), step.deadline).await?;
        if answer.status.is_client_error() {
            // Another's unload that failed half way blocks the name too.
            self.unload(&adapter.name, step.deadline).await?;
            answer = self.endpoint.post("/load_lora_adapter", Some(&body), step.deadline).await?;
        }
        let answer = answer.done()?;
        let after = self.probe(step.deadline).await.map_err(DriverError::after_a_change)?;
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
        self.unload(&adapter.name, step.deadline).await?;
        let after = self.probe(step.deadline).await.map_err(DriverError::after_a_change)?;
        match after.placed(step.expert) {
            placed if placed.residence == Residence::In(Tier::Disk) => Ok(Outcome::at(placed)),
            _ => Err(DriverError::half_done(format!("the engine still lists {:?}", adapter.name))),
        }
    }
}
