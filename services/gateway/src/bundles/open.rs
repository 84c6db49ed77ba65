//! What decides from the start on.

use std::collections::BTreeMap;
use std::path::Path;

use stores::EmbeddedStore;

use super::library::Library;
use super::starter::Starter;
use super::state::State;
use crate::app::StartError;
use crate::catalog::RouterModel;

/// What bundles are made with, before there is a catalogue.
pub(crate) struct Opened {
    pub(super) starter: Starter,
    pub(super) library: Library,
    pub(super) state: State,
    pub(super) problems: BTreeMap<String, String>,
}

impl Opened {
    /// Finds the bundles and starts the one that decides: the one that was activated last, or, when it does not
    /// start, the one before it, or the configured one. `wanted` is whether any is.
    ///
    /// # Errors
    /// [`StartError::Router`] when none starts.
    pub(crate) fn new(
        starter: Starter,
        store: &EmbeddedStore,
        store_path: &Path,
        wanted: bool,
    ) -> Result<(Self, RouterModel), StartError> {
        let name = starter.config().bundle.clone();
        let configured = crate::app::find_bundle(&name);
        let library = Library::open(store_path.with_extension("bundles"), configured.as_ref().ok().cloned());
        let state = State::load(store, &name)?;
        let mut opened = Self { starter, library, state, problems: BTreeMap::new() };
        if !wanted {
            return Ok((opened, RouterModel::default()));
        }
        let chosen = [opened.state.active.clone(), opened.state.previous.clone()];
        for id in chosen.into_iter().flatten() {
            let found = opened.library.find(&id).map_err(|e| e.to_string());
            match found.and_then(|found| opened.starter.start(&found.dir)) {
                Ok(model) => return Ok((opened, model)),
                Err(problem) => {
                    tracing::error!(
                        router.bundle = id,
                        problem,
                        "THE ACTIVATED ROUTER MODEL DOES NOT START; the one before it decides instead"
                    );
                    opened.problems.insert(id, problem);
                }
            }
        }
        let model = opened.starter.start(&configured?).map_err(StartError::Router)?;
        Ok((opened, model))
    }

    /// Counters of the model that decides.
    pub(crate) fn register(&self, registry: &mut prometheus_client::registry::Registry) {
        self.starter.metrics().register(registry);
    }
}
