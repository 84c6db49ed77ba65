use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::encoder::{CacheOutcome, Stage};

/// What the encoder counts and times.
#[derive(Clone, Debug)]
pub struct EncoderMetrics {
    /// Seconds between the arrival of a prompt in the queue and its forward pass.
    pub queue_seconds: Histogram,
    /// Prompts in a forward pass.
    pub batch_size: Histogram,
    /// Tokens of a prompt before truncation.
    pub prompt_tokens: Histogram,
    /// Seconds of a forward pass.
    pub forward_seconds: Histogram,
    /// Prompts of which only a part was read.
    pub truncations: Counter,
    /// Decisions by how the cache took part.
    pub cache: Family<CacheLabels, Counter>,
    /// Prompts refused because the queue was full.
    pub refusals: Counter,
    /// Decisions by who read the prompt, those of the cache included.
    pub decisions: Family<StageLabels, Counter>,
    /// 1 while the first stage serves alone, for want of an encoder.
    pub first_stage_alone: Gauge,
}

/// Label of [`EncoderMetrics::decisions`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StageLabels {
    /// Who read the prompt.
    pub stage: Stage,
}

/// Label of [`EncoderMetrics::cache`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CacheLabels {
    /// How the cache took part.
    pub outcome: CacheOutcome,
}

impl Default for EncoderMetrics {
    fn default() -> Self {
        let seconds = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
        let powers = |from: u32, to: u32| (from..=to).map(|power| f64::from(1_u32 << power));
        Self {
            queue_seconds: Histogram::new(seconds),
            batch_size: Histogram::new(powers(0, 8)),
            prompt_tokens: Histogram::new(powers(3, 14)),
            forward_seconds: Histogram::new(seconds),
            truncations: Counter::default(),
            cache: Family::default(),
            refusals: Counter::default(),
            decisions: Family::default(),
            first_stage_alone: Gauge::default(),
        }
    }
}

impl EncoderMetrics {
    /// Adds all of them, under their full names, to a registry without a prefix of its own.
    pub fn register(&self, registry: &mut Registry) {
        let own = registry.sub_registry_with_prefix("guildhall_encoder");
        own.register(
            "queue_seconds",
            "Seconds between the arrival of a prompt in the encoder's queue and its forward pass",
            self.queue_seconds.clone(),
        );
        own.register("batch_size", "Prompts in a forward pass of the encoder", self.batch_size.clone());
        own.register("prompt_tokens", "Tokens of a prompt before truncation", self.prompt_tokens.clone());
        own.register(
            "forward_seconds",
            "Seconds of a forward pass of the encoder",
            self.forward_seconds.clone(),
        );
        own.register(
            "truncations",
            "Prompts of which the encoder read only a part",
            self.truncations.clone(),
        );
        own.register("cache", "Decisions by how the encoder's cache took part", self.cache.clone());
        own.register(
            "refusals",
            "Prompts refused because the encoder's queue was full",
            self.refusals.clone(),
        );
        own.register("decisions", "Decisions by who read the prompt", self.decisions.clone());
        own.register(
            "first_stage_alone",
            "1 while the first stage serves alone, for want of an encoder",
            self.first_stage_alone.clone(),
        );
    }

    pub(crate) fn count(&self, outcome: CacheOutcome, stage: Stage) {
        self.cache.get_or_create(&CacheLabels { outcome }).inc();
        self.decisions.get_or_create(&StageLabels { stage }).inc();
    }
}

impl EncodeLabelValue for CacheOutcome {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        self.name().encode(encoder)
    }
}

impl EncodeLabelValue for Stage {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        self.name().encode(encoder)
    }
}
