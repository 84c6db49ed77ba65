//! Bundles as they are shown.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::library::Found;
use super::work::Inner;
use crate::catalog::Origin;

/// A bundle as it is shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BundleView {
    /// Its name and version, as `NAME@VERSION`.
    pub(crate) id: String,
    /// Its name.
    name: String,
    /// Its version.
    version: String,
    /// What it is, for people.
    description: String,
    /// `file` for those that lie beside the configured one, `admin` for uploaded ones.
    origin: Origin,
    /// Whether it decides.
    active: bool,
    /// Whether a rollback would let it decide.
    previous: bool,
    /// The share of the prompts that it reads beside the one that decides; null when it reads none.
    #[schema(required)]
    shadow: Option<f64>,
    /// Why it does not do what it was told to; null when it does.
    #[schema(required)]
    problem: Option<String>,
    /// The labels of its classifier.
    categories: Vec<String>,
    /// The name under which `/v1/embeddings` serves its encoder.
    model_id: String,
    /// The width of its embeddings.
    dimensions: usize,
    /// Tokens of a prompt that a decision rests on.
    max_tokens: usize,
    /// The length of its files together.
    bytes: u64,
    /// The licence of the whole bundle.
    licence: String,
    /// Measured quality, as the bundle tells it.
    #[schema(value_type = Object)]
    quality: BTreeMap<String, serde_json::Value>,
}

/// What came of a bundle's check.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Checked {
    /// Its id.
    pub(super) id: String,
    /// What computed the golden input: `cpu`, `cuda` or `tensorrt`.
    pub(super) execution_provider: String,
    /// Milliseconds until it was ready to read.
    pub(super) start_ms: u64,
}

impl Inner {
    /// A bundle with what it does now.
    pub(super) fn view(&self, found: &Found) -> BundleView {
        let known = self.known();
        let manifest = &found.manifest;
        let shadow = known.state.shadow.as_ref().filter(|s| s.bundle == found.id);
        let running = self.slot.load().as_ref().is_some_and(|s| s.tally().bundle() == found.id);
        BundleView {
            id: found.id.clone(),
            name: manifest.name.clone(),
            version: manifest.version.clone(),
            description: manifest.description.clone(),
            origin: found.origin,
            active: *self.catalog.view().router.bundle == *found.id,
            previous: known.state.previous.as_deref() == Some(&*found.id),
            shadow: shadow.filter(|_| running).map(|s| s.sample),
            problem: known.problems.get(&found.id).cloned(),
            categories: manifest.categories.iter().map(|c| c.name.clone()).collect(),
            model_id: manifest.model_id.clone(),
            dimensions: manifest.encoder.dimensions,
            max_tokens: manifest.encoder.max_tokens,
            bytes: manifest.files.values().map(|file| file.bytes).sum(),
            licence: manifest.licence.clone(),
            quality: manifest.quality.clone(),
        }
    }
}
