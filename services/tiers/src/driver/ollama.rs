use std::collections::BTreeMap;

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Control, Step};
use crate::residency::{Source, Tier};
use crate::server::endpoint::{Endpoint, Network, Server, pause};
use crate::server::names::Names;
use crate::server::report::{Caps, DriverError, ErrorKind, Inventory, Outcome, Placed, Residence, Scope};
use crate::server::yes;

/// An Ollama server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OllamaConfig {
    /// Where it is.
    pub server: Server,
    /// What it calls each expert, such as `llama3.2:3b`; `latest` where no tag is given.
    pub models: BTreeMap<ExpertId, String>,
    /// Seconds that a model stays loaded without a request; negative for as long as nobody unloads it. Ollama makes
    /// room by removing the idle model with the shortest.
    #[serde(default = "forever")]
    pub keep_alive_s: i64,
    /// Whether a load computes one token. Off for models that complete no text.
    #[serde(default = "yes")]
    pub warm_up: bool,
}

fn forever() -> i64 {
    -1
}

pub(super) struct Ollama {
    endpoint: Endpoint,
    names: Names,
    keep_alive_s: i64,
    warm_up: bool,
}

/// The name as Ollama lists it: with a tag, and without the host and namespace that are understood. It finds models
/// in any case.
fn listed(name: &str) -> String {
    let name = name.to_lowercase();
    let name = name.strip_prefix("registry.ollama.ai/").unwrap_or(&name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if has_tag { name.to_owned() } else { format!("{name}:latest") }
}

impl Ollama {
    pub(super) fn new(config: OllamaConfig, network: &Network) -> Result<Self, DriverError> {
        let names = config.models.into_iter().map(|(id, name)| (id, listed(&name))).collect();
        let endpoint = Endpoint::new(&config.server, network)?;
        Ok(Self {
            endpoint,
            names: Names::new(names),
            keep_alive_s: config.keep_alive_s,
            warm_up: config.warm_up,
        })
    }

    async fn generate(&self, body: &Value, deadline: Instant) -> Result<(), DriverError> {
        self.endpoint.post("/api/generate", Some(body), deadline).await?.done().map(drop)
    }
}

/// A loaded model: on the accelerator when all of it is there, else in the host's memory, with what it takes in each.
fn placed(model: &Value) -> Option<(String, Placed)> {
    let name = listed(model.get("name")?.as_str()?);
    let size = model.get("size")?.as_u64()?;
    let near = model.get("size_vram")?.as_u64()?.min(size);
    let tier = if near == size { Tier::Hbm } else { Tier::Dram };
    let mut placed = Placed::told(tier);
    placed.bytes.insert(Tier::Hbm, (near, Source::Measured));
    placed.bytes.insert(Tier::Dram, (size - near, Source::Measured));
    placed.bytes.retain(|_, (bytes, _)| *bytes > 0);
    Some((name, placed))
}

impl Control for Ollama {
    fn caps(&self) -> Caps {
        Caps { tiers: vec![Tier::Hbm, Tier::Disk], scope: Scope::Expert, exclusive: true, measures: true }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.names.has(expert)
    }

    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        let models = self.endpoint.get("/api/ps", deadline).await?.told()?.list("models")?;
        let listed = models.iter().map(placed).collect::<Option<_>>();
        let listed = listed.ok_or_else(|| {
            DriverError::unsupported("GET /api/ps: a model has no name, size or size_vram; is this Ollama?")
        })?;
        Ok(self.names.inventory(listed))
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let before = self.probe(step.deadline).await?;
        if step.to == Tier::Disk || before.placed(step.expert).residence == Residence::In(Tier::Hbm) {
            return Ok(Outcome::at(before.placed(step.expert)));
        }
        let mut load = json!({"model": name, "keep_alive": self.keep_alive_s, "stream": false});
        if self.warm_up {
            load["prompt"] = json!("a");
            load["raw"] = json!(true);
            load["options"] = json!({"num_predict": 1});
        }
        self.generate(&load, step.deadline).await?;
        let after = self.probe(step.deadline).await.map_err(DriverError::after_a_change)?;
        let placed = after.placed(step.expert);
        match placed.residence {
            Residence::In(Tier::Hbm) => {
                Ok(Outcome { evicted: after.evicted(&before, step.expert), ..Outcome::at(placed) })
            }
            Residence::In(Tier::Disk) => Err(DriverError::new(
                ErrorKind::Busy,
                format!("Ollama loaded {name:?} and removed it again; another model took its place"),
            )),
            _ => {
                let near = placed.bytes.get(&Tier::Hbm).map_or(0, |(bytes, _)| *bytes);
                let size: u64 = placed.bytes.values().map(|(bytes, _)| bytes).sum();
                Err(DriverError::half_done(format!(
                    "Ollama put {near} of {size} bytes of {name:?} on the accelerator and the rest beside it"
                )))
            }
        }
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let name = self.names.of(step.expert)?;
        let before = self.probe(step.deadline).await?.placed(step.expert);
        if step.to == Tier::Hbm || before.residence == Residence::In(Tier::Disk) {
            return Ok(Outcome::at(before));
        }
        // Without a prompt: with one it would answer first.
        let unload = json!({"model": name, "keep_alive": 0, "stream": false});
        self.generate(&unload, step.deadline).await?;
        // It answers before the runner has ended and its memory is back.
        loop {
            let now =
                self.probe(step.deadline).await.map_err(DriverError::after_a_change)?.placed(step.expert);
            if now.residence == Residence::In(Tier::Disk) {
                return Ok(Outcome::at(now));
            }
            pause(step.deadline, &format!("Ollama had unloaded {name:?}")).await?;
        }
    }
}
