mod copies;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use http::StatusCode;
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
use copies::Copies;

/// Adapters of a vLLM engine with `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`.
///
/// The engine tells which adapters are registered, not where they are: it moves them by itself. So the driver
/// registers no more than its host memory takes, and brings an adapter to a slot by asking it for one token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VllmLoraConfig {
    /// The engine.
    pub server: Server,
    /// The adapters.
    pub adapters: BTreeMap<ExpertId, Adapter>,
    /// Its `--max-loras`: adapters in one step.
    pub max_loras: usize,
    /// Its `--max-cpu-loras`: adapters in the host's memory, those in slots included.
    pub max_cpu_loras: usize,
}

/// An adapter as its engine knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Its name, by which requests ask for it.
    pub name: String,
    /// Its folder, as the engine sees it. New weights need a new name: under the old one the engine would answer
    /// from a cache of the old weights.
    pub path: String,
    /// A copy that `guildhall adapter compress` made. The adapter then rests as this file: it is expanded into `path`
    /// before the engine loads it, and `path` is removed when the engine has let it go. So `path` must be a folder of
    /// its own, which need not exist, under the same absolute path here and for the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub compressed: Option<PathBuf>,
}

pub(super) struct VllmLora {
    endpoint: Endpoint,
    config: VllmLoraConfig,
    /// Who was brought to a slot.
    slots: Mutex<BTreeSet<ExpertId>>,
    copies: Copies,
}

impl VllmLora {
    pub(super) fn new(config: VllmLoraConfig, network: &Network) -> Result<Self, DriverError> {
        if config.max_loras == 0 || config.max_cpu_loras < config.max_loras {
            return Err(DriverError::unsupported(format!(
                "max_cpu_loras {} must be at least max_loras {}, and that at least 1",
                config.max_cpu_loras, config.max_loras
            )));
        }
        let endpoint = Endpoint::new(&config.server, network)?;
        let copies = Copies::new(&config.adapters)?;
        Ok(Self { endpoint, config, slots: Mutex::default(), copies })
    }

    fn adapter(&self, expert: &ExpertId) -> Result<&Adapter, DriverError> {
        let adapter = self.config.adapters.get(expert);
        adapter.ok_or_else(|| DriverError::unsupported(format!("adapters: there is no {expert}")))
    }

    fn with_slots<T>(&self, what: impl FnOnce(&mut BTreeSet<ExpertId>) -> T) -> T {
        what(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the engine load an adapter, which is expanded before where it rests compressed.
    async fn load(&self, expert: &ExpertId, adapter: &Adapter, deadline: Instant) -> Result<(), DriverError> {
        self.copies.expand(expert, deadline).await?;
        let registered = self.register(adapter, deadline).await;
        if let Err(error) = &registered
            && error.kind != ErrorKind::HalfDone
            && let Err(left) = self.copies.discard(expert, deadline).await
        {
            tracing::warn!(expert.id = %expert, error = %left, "an expanded adapter is left that no engine loaded");
        }
        registered
    }

    async fn register(&self, adapter: &Adapter, deadline: Instant) -> Result<(), DriverError> {
        let body = json!({"lora_name": adapter.name, "lora_path": adapter.path, "load_inplace": false});
        let answer = self.endpoint.post("/v1/load_lora_adapter", Some(&body), deadline).await?;
        // Someone else registered it in between.
        let text = String::from_utf8_lossy(&answer.body).to_lowercase();
        if answer.status == StatusCode::BAD_REQUEST && text.contains("already") {
            return Ok(());
        }
        answer.done().map(drop)
    }
}

impl Control for VllmLora {
    fn caps(&self) -> Caps {
        Caps {
            tiers: vec![Tier::Slot, Tier::Dram, Tier::Disk],
            scope: Scope::Expert,
            exclusive: false,
            measures: !self.copies.is_empty(),
        }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.config.adapters.contains_key(expert)
    }

    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        let models = self.endpoint.get("/v1/models", deadline).await?.told()?.list("data")?;
        let name = |model: &Value| Some(model.get("id")?.as_str()?.to_owned());
        let registered: BTreeSet<String> = models.iter().filter_map(name).collect();
        let ours: BTreeSet<&str> =
            self.config.adapters.values().map(|adapter| adapter.name.as_str()).collect();
        // Adapters have a parent; their base has none.
        let is_adapter = |model: &&Value| model.get("parent").is_some_and(|parent| !parent.is_null());
        let others = models.iter().filter(is_adapter).filter_map(name);
        let strangers: Vec<String> = others.filter(|name| !ours.contains(name.as_str())).collect();
        let is_registered = |id: &ExpertId| {
            self.config.adapters.get(id).is_some_and(|adapter| registered.contains(&adapter.name))
        };
        let slots = self.with_slots(|slots| {
            slots.retain(is_registered);
            slots.clone()
        });
        let placed = |id: &ExpertId| match () {
            () if !is_registered(id) => Placed::told(Tier::Disk),
            () if slots.contains(id) => Placed::new(Residence::In(Tier::Slot), Evidence::Remembered),
            () => Placed::new(Residence::In(Tier::Dram), Evidence::Assumed),
        };
        let experts = self.config.adapters.keys().map(|id| (id.clone(), placed(id))).collect();
        let mut inventory = Inventory { experts, strangers, free_bytes: None };
        self.copies.weigh(&mut inventory, deadline).await;
        Ok(inventory)
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let adapter = self.adapter(step.expert)?;
        let before = self.probe(step.deadline).await?;
        let placed = before.placed(step.expert);
        if matches!(placed.residence, Residence::In(tier) if tier <= step.to) {
            return Ok(Outcome::at(placed));
        }
        let in_tier = |far: Tier| {
            let experts = before.experts.values();
            experts.filter(|placed| matches!(placed.residence, Residence::In(tier) if tier <= far)).count()
        };
        if step.to == Tier::Slot && in_tier(Tier::Slot) >= self.config.max_loras {
            return Err(DriverError::refused(format!(
                "all {} slots are taken; demote an adapter first",
                self.config.max_loras
            )));
        }
        if placed.residence == Residence::In(Tier::Disk) {
            if in_tier(Tier::Dram) + before.strangers.len() >= self.config.max_cpu_loras {
                return Err(DriverError::refused(format!(
                    "{} adapters are registered, and the engine would drop one of them silently; unload one first",
                    self.config.max_cpu_loras
                )));
            }
            self.load(step.expert, adapter, step.deadline).await?;
        }
        if step.to == Tier::Slot {
            let token = json!({"model": adapter.name, "prompt": "a", "max_tokens": 1});
            self.endpoint.one_token("/v1/completions", &token, step.deadline).await?;
            self.with_slots(|slots| slots.insert(step.expert.clone()));
        }
        let after = self.probe(step.deadline).await.map_err(DriverError::after_a_change)?;
        match after.placed(step.expert) {
            Placed { residence: Residence::In(tier), .. } if tier > step.to => Err(DriverError::half_done(
                format!("the engine took {:?} and does not list it; it may have restarted", adapter.name),
            )),
            placed => Ok(Outcome::at(placed)),
        }
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let adapter = self.adapter(step.expert)?;
        let placed = self.probe(step.deadline).await?.placed(step.expert);
        if matches!(placed.residence, Residence::In(tier) if tier >= step.to) {
            if placed.residence == Residence::In(Tier::Disk) {
                // The engine ended before, or a load was given up half way.
                self.copies.discard(step.expert, step.deadline).await?;
            }
            return Ok(Outcome::at(placed));
        }
        if step.to == Tier::Disk {
            let body = json!({"lora_name": adapter.name});
            let answer = self.endpoint.post("/v1/unload_lora_adapter", Some(&body), step.deadline).await?;
            // What the engine does not know is not there.
            if answer.status != StatusCode::NOT_FOUND {
                answer.done()?;
            }
        }
        // A slot is taken over by the next adapter that needs one; the engine is asked for nothing.
        self.with_slots(|slots| slots.remove(step.expert));
        let after = self.probe(step.deadline).await.map_err(DriverError::after_a_change)?;
        match after.placed(step.expert) {
            placed if matches!(placed.residence, Residence::In(tier) if tier >= step.to) => {
                if placed.residence == Residence::In(Tier::Disk) {
                    let discarded = self.copies.discard(step.expert, step.deadline).await;
                    discarded.map_err(DriverError::after_a_change)?;
                }
                Ok(Outcome::at(placed))
            }
            _ => Err(DriverError::half_done(format!("the engine still lists {:?}", adapter.name))),
        }
    }
}
