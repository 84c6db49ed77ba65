//! Embeddings of the experts' descriptions, for policies that look at them.
//!
//! A description is embedded beside the requests, when an expert, a route or the router model has changed; until that
//! is done the expert counts as having none, and policies say so. Nothing is embedded that no route looks at.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Catalog, Space, View};

/// How long an encoder that was too busy for descriptions is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Embeddings by space and text.
#[derive(Default)]
pub(super) struct Descriptions(Mutex<Known>);

type Known = HashMap<(Arc<str>, String), Arc<[f32]>>;

impl Descriptions {
    pub(super) fn get(&self, space: Option<&Space>, text: &str) -> Option<Arc<[f32]>> {
        let key = (space?.id.clone(), text.to_owned());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Adds what was embedded and forgets what nobody has as a description any more.
    fn keep(&self, space: &Space, embedded: Vec<(String, Arc<[f32]>)>, used: &BTreeSet<&str>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, text), _| used.contains(text.as_str()));
        known.extend(embedded.into_iter().map(|(text, vector)| ((space.id.clone(), text), vector)));
    }
}

/// The descriptions of a view's experts.
fn described(view: &View) -> BTreeSet<&str> {
    let texts = view.desired.experts.values().map(|entry| entry.value.description.as_str());
    texts.filter(|text| !text.is_empty()).collect()
}

impl Catalog {
    /// Embeds descriptions whenever something has changed, until `stop`.
    pub(crate) async fn describe(self: Arc<Self>, stop: CancellationToken) {
        loop {
            // Asked for before the look, so that a change during it is seen.
            let changed = self.changed.notified();
            let wait = match self.embed_missing().await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(%error, "experts' descriptions were not embedded; this is tried again");
                    Some(PATIENCE)
                }
            };
            let again = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => changed.await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = again => {}
            }
        }
    }

    /// Embeds the descriptions that are wanted and not known, and publishes what came of it.
    pub(crate) async fn embed_missing(&self) -> Result<(), String> {
        let view = self.view();
        let wanted = view.routes.values().any(|route| route.policy.wants().descriptions);
        let (Some(encoder), Some(space)) = (&view.router.encoder, &view.router.space) else { return Ok(()) };
        let used = described(&view);
        let missing: Vec<String> = used
            .iter()
            .filter(|text| wanted && self.parts.descriptions.get(Some(space), text).is_none())
            .map(|text| (*text).to_owned())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let embedded = encoder.embed(missing.clone()).await.map_err(|error| error.to_string())?;
        let vectors = embedded.into_iter().map(|embedding| embedding.vector);
        self.parts.descriptions.keep(space, missing.into_iter().zip(vectors).collect(), &used);
        self.republish().await.map_err(|error| error.to_string())
    }
}
