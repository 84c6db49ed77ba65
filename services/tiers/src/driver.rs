//! Drivers: how an expert is brought to a tier of a real server, and how that server is asked what is where.
//!
//! A server's status code says that it took an order, not that the bytes are there or free. So a driver waits until
//! the server itself shows the new state, and where a [`MeterConfig`] says where free memory can be read, until that
//! shows it. Whatever stops in between is [`ErrorKind::HalfDone`], and [`Driver::probe`] says what became of it.
//!
//! To add a driver: a file in `driver/`, and here its module, its variants and its arms.

mod llama_swap;
mod llamacpp_router;
mod ollama;
mod ort_inproc;
mod sglang_lora;
mod sglang_memory;
mod sim;
mod triton;
mod vllm_lora;
mod vllm_sleep;

pub use crate::server::endpoint::Server;
pub use crate::server::meter::MeterConfig;
pub use crate::server::report::{
    Caps, DriverError, ErrorKind, Evidence, Inventory, Outcome, Placed, Residence, Scope,
};
pub use llama_swap::LlamaSwapConfig;
pub use llamacpp_router::LlamacppRouterConfig;
pub use ollama::OllamaConfig;
pub use ort_inproc::{OnnxModel, OrtInprocConfig, Resident};
pub use sglang_lora::{SglangAdapter, SglangLoraConfig};
pub use sglang_memory::{SglangEngine, SglangMemoryConfig};
pub use sim::SimConfig;
pub use triton::TritonConfig;
pub use vllm_lora::{Adapter, VllmLoraConfig};
pub use vllm_sleep::{SleepMode, VllmSleepConfig};

use ort::environment::Environment;
use routing::ExpertId;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::residency::Tier;
use crate::server::endpoint::Network;
use crate::server::meter::Meter;

/// Which servers a pool's experts are on, and how they are moved there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DriverSpec {
    /// The driver with its settings.
    pub driver: DriverConfig,
    /// Where the accelerator's free memory can be read. Without it bytes are taken to be free when the server says
    /// that the expert is gone, which some servers say too early.
    #[serde(default)]
    pub meter: Option<MeterConfig>,
}

/// A driver with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DriverConfig {
    /// Nothing real: declared bytes over declared links.
    Sim(SimConfig),
    /// vLLM engines, one for each expert, that sleep.
    VllmSleep(VllmSleepConfig),
    /// Adapters of a vLLM engine.
    VllmLora(VllmLoraConfig),
    /// `SGLang` engines, one for each expert, that give their memory back.
    SglangMemory(SglangMemoryConfig),
    /// Adapters of a `SGLang` engine.
    SglangLora(SglangLoraConfig),
    /// A llama-server in router mode.
    LlamacppRouter(LlamacppRouterConfig),
    /// An Ollama server.
    Ollama(OllamaConfig),
    /// A llama-swap proxy.
    LlamaSwap(LlamaSwapConfig),
    /// A Triton server.
    Triton(TritonConfig),
    /// ONNX models in this process.
    OrtInproc(OrtInprocConfig),
}

/// A transition to make.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Whose.
    pub expert: &'a ExpertId,
    /// Where its nearest copy shall be.
    pub to: Tier,
    /// Until when. A server may go on after that; the next probe tells.
    pub deadline: Instant,
}

/// A driver at work. Whoever owns it makes one transition of an expert at a time; dropping a call is safe as long as
/// a probe follows.
pub struct Driver {
    kind: Kind,
    meter: Option<Meter>,
}

enum Kind {
    Sim(sim::Sim),
    VllmSleep(vllm_sleep::VllmSleep),
    VllmLora(vllm_lora::VllmLora),
    SglangMemory(sglang_memory::SglangMemory),
    SglangLora(sglang_lora::SglangLora),
    LlamacppRouter(llamacpp_router::LlamacppRouter),
    Ollama(ollama::Ollama),
    LlamaSwap(llama_swap::LlamaSwap),
    Triton(triton::Triton),
    OrtInproc(ort_inproc::OrtInproc),
}

/// What every driver does.
trait Control {
    fn caps(&self) -> Caps;

    fn has(&self, expert: &ExpertId) -> bool;

    /// What is where. Changes nothing at the server, and what it remembers only to agree with it.
    async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError>;

    /// Brings an expert nearer, and returns when the server shows it there. Does nothing where it is there already.
    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError>;

    /// Takes an expert farther away, and returns when the server shows that. Does nothing where it is there already.
    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError>;
}

/// Runs an expression with the driver that it is.
macro_rules! each {
    ($kind:expr, $driver:ident => $what:expr) => {
        match $kind {
            Kind::Sim($driver) => $what,
            Kind::VllmSleep($driver) => $what,
            Kind::VllmLora($driver) => $what,
            Kind::SglangMemory($driver) => $what,
            Kind::SglangLora($driver) => $what,
            Kind::LlamacppRouter($driver) => $what,
            Kind::Ollama($driver) => $what,
            Kind::LlamaSwap($driver) => $what,
            Kind::Triton($driver) => $what,
            Kind::OrtInproc($driver) => $what,
        }
    };
}

impl Driver {
    /// Makes it ready. Asks no server anything yet.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] with what is wrong in the settings.
    pub fn new(spec: DriverSpec) -> Result<Self, DriverError> {
        Self::build(spec, &Network::Tcp, None)
    }

    /// As [`Driver::new`], for a program that has loaded ONNX Runtime: drivers that run models in this process load
    /// them in its environment, of which there is one. Without it they refuse to.
    ///
    /// # Errors
    /// As [`Driver::new`].
    pub fn with_onnxruntime(spec: DriverSpec, environment: &Environment) -> Result<Self, DriverError> {
        Self::build(spec, &Network::Tcp, Some(environment))
    }

    #[cfg(test)]
    pub(crate) fn with_network(spec: DriverSpec, network: &Network) -> Result<Self, DriverError> {
        Self::build(spec, network, None)
    }

    fn build(
        spec: DriverSpec,
        network: &Network,
        environment: Option<&Environment>,
    ) -> Result<Self, DriverError> {
        let kind = match spec.driver {
            DriverConfig::Sim(config) => Kind::Sim(sim::Sim::new(config)?),
            DriverConfig::VllmSleep(config) => Kind::VllmSleep(vllm_sleep::VllmSleep::new(&config, network)?),
            DriverConfig::VllmLora(config) => Kind::VllmLora(vllm_lora::VllmLora::new(config, network)?),
            DriverConfig::SglangMemory(config) => {
                Kind::SglangMemory(sglang_memory::SglangMemory::new(config, network)?)
            }
            DriverConfig::SglangLora(config) => {
                Kind::SglangLora(sglang_lora::SglangLora::new(config, network)?)
            }
            DriverConfig::LlamacppRouter(config) => {
                Kind::LlamacppRouter(llamacpp_router::LlamacppRouter::new(config, network)?)
            }
            DriverConfig::Ollama(config) => Kind::Ollama(ollama::Ollama::new(config, network)?),
            DriverConfig::LlamaSwap(config) => Kind::LlamaSwap(llama_swap::LlamaSwap::new(config, network)?),
            DriverConfig::Triton(config) => Kind::Triton(triton::Triton::new(config, network)?),
            DriverConfig::OrtInproc(config) => {
                Kind::OrtInproc(ort_inproc::OrtInproc::new(config, environment)?)
            }
        };
        let meter = spec.meter.map(|meter| Meter::new(meter, network)).transpose()?;
        Ok(Self { kind, meter })
    }

    /// Its kind's name, as in the configuration.
    pub fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Sim(_) => "sim",
            Kind::VllmSleep(_) => "vllm_sleep",
            Kind::VllmLora(_) => "vllm_lora",
            Kind::SglangMemory(_) => "sglang_memory",
            Kind::SglangLora(_) => "sglang_lora",
            Kind::LlamacppRouter(_) => "llamacpp_router",
            Kind::Ollama(_) => "ollama",
            Kind::LlamaSwap(_) => "llama_swap",
            Kind::Triton(_) => "triton",
            Kind::OrtInproc(_) => "ort_inproc",
        }
    }

    /// Whether it moves an expert.
    pub fn has(&self, expert: &ExpertId) -> bool {
        each!(&self.kind, driver => driver.has(expert))
    }

    /// What it can do.
    pub fn caps(&self) -> Caps {
        let caps = each!(&self.kind, driver => driver.caps());
        Caps { measures: caps.measures || self.meter.is_some(), ..caps }
    }

    /// What is where, as far as the server tells. To be asked at the start, after every error, and now and then.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] or [`ErrorKind::Busy`] where nobody answers, [`ErrorKind::Unsupported`] where the answer
    /// is not what the server's documentation says. A driver with a server for each expert reports those that do not
    /// answer as [`Residence::Unknown`] instead. A meter that does not answer leaves the free bytes out.
    pub async fn probe(&self, deadline: Instant) -> Result<Inventory, DriverError> {
        let mut inventory = each!(&self.kind, driver => driver.probe(deadline).await)?;
        if let Some(meter) = &self.meter {
            match meter.free(deadline).await {
                Ok(free) => inventory.free_bytes = Some(free),
                Err(error) if error.kind == ErrorKind::Unsupported => return Err(error),
                // Where the experts are is known without it, and no transition begins before it is back.
                Err(error) => tracing::warn!(driver = self.name(), %error, "free memory cannot be read"),
            }
        }
        Ok(inventory)
    }

    /// Brings an expert nearer, and returns when the server shows it there.
    ///
    /// # Errors
    /// As [`ErrorKind`] says. After the deadline, [`ErrorKind::HalfDone`]: the server may still be loading.
    pub async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        self.check(step)?;
        let before = self.free(step.deadline).await?;
        let mut outcome = each!(&self.kind, driver => driver.promote(step).await)?;
        if let Some((meter, before)) = self.meter.as_ref().zip(before) {
            let after = meter.free(step.deadline).await.map_err(DriverError::after_a_change)?;
            outcome.free_bytes = Some((before, after));
        }
        Ok(outcome)
    }

    /// Takes an expert farther away, and returns when the server shows that. With a meter it also waits until three
    /// quarters of `frees_bytes`, what the accelerator should have back, are free; other transitions on the same
    /// accelerator would be counted with it and have to wait.
    ///
    /// # Errors
    /// As [`ErrorKind`] says; [`ErrorKind::HalfDone`] where the bytes did not come back before the deadline.
    pub async fn demote(&self, step: Step<'_>, frees_bytes: u64) -> Result<Outcome, DriverError> {
        self.check(step)?;
        let before = self.free(step.deadline).await?;
        let mut outcome = each!(&self.kind, driver => driver.demote(step).await)?;
        if let Some((meter, before)) = self.meter.as_ref().zip(before) {
            outcome.free_bytes = Some((before, meter.freed(before, frees_bytes, step.deadline).await?));
        }
        Ok(outcome)
    }

    /// A model that this process runs itself, kept where it is until what is returned is dropped; `None` where it is
    /// not ready, or the driver's experts are elsewhere.
    pub fn resident(&self, expert: &ExpertId) -> Option<Resident> {
        match &self.kind {
            Kind::OrtInproc(driver) => driver.resident(expert),
            _ => None,
        }
    }

    async fn free(&self, deadline: Instant) -> Result<Option<u64>, DriverError> {
        match &self.meter {
            Some(meter) => Ok(Some(meter.free(deadline).await?)),
            None => Ok(None),
        }
    }

    fn check(&self, step: Step<'_>) -> Result<(), DriverError> {
        if !each!(&self.kind, driver => driver.has(step.expert)) {
            let what = format!("the driver has no expert {}; add it to its settings", step.expert);
            return Err(DriverError::unsupported(what));
        }
        let tiers = self.caps().tiers;
        if !tiers.contains(&step.to) {
            let names: Vec<_> = tiers.iter().map(Tier::to_string).collect();
            let what = format!("the driver has no tier {}; it has {}", step.to, names.join(", "));
            return Err(DriverError::unsupported(what));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
