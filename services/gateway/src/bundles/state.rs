//! Which bundles do what, as it is stored.

use serde::{Deserialize, Serialize};
use stores::{EmbeddedStore, Kind, StoreError, Write};

/// The state's name in the store.
const ID: &str = "router";

/// What holds over a restart.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// `router.bundle` of the configuration file when this was stored. When the file names another one, that is
    /// the operator's later word, and what was activated before is forgotten.
    pub(super) configured: String,
    /// The bundle that was activated.
    pub(super) active: Option<String>,
    /// The bundle that decided before it.
    pub(super) previous: Option<String>,
    /// The bundle that reads beside it.
    pub(super) shadow: Option<Shadowing>,
}

/// A bundle that reads beside the one that decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Shadowing {
    pub(super) bundle: String,
    /// The share of the prompts, 0 to 1.
    pub(super) sample: f64,
}

impl State {
    /// What is stored, as far as it holds for a file that names this bundle.
    pub(super) fn load(store: &EmbeddedStore, configured: &str) -> Result<Self, StoreError> {
        let fresh = Self { configured: configured.to_owned(), ..Self::default() };
        let Some(document) = store.load(Kind::Setting, ID)? else { return Ok(fresh) };
        let stored: Self = document.parse()?;
        if stored.configured == configured {
            return Ok(stored);
        }
        if let Some(active) = &stored.active {
            tracing::warn!(
                router.bundle = configured,
                router.activated = active,
                "router.bundle has changed since a bundle was activated; the file's bundle decides"
            );
        }
        Ok(fresh)
    }

    /// The write that stores it.
    pub(super) fn write(&self) -> Result<Write, crate::catalog::ChangeError> {
        Ok(Write::put(Kind::Setting, ID, self)?)
    }
}

#[cfg(test)]
mod tests {
    use stores::{Change, Options};

    use super::*;

    #[test]
    fn the_state_holds_as_long_as_the_file_names_the_same_bundle() {
        let store = EmbeddedStore::in_memory(Options::default()).unwrap();
        let fresh = State { configured: "default".into(), ..State::default() };
        assert_eq!(State::load(&store, "default").unwrap(), fresh);
        let state = State {
            active: Some("b@2".into()),
            previous: Some("b@1".into()),
            shadow: Some(Shadowing { bundle: "b@3".into(), sample: 0.25 }),
            ..fresh
        };
        store.commit(&Change { writes: vec![state.write().unwrap()], audit: Vec::new() }).unwrap();
        assert_eq!(State::load(&store, "default").unwrap(), state);
        let other = State { configured: "other".into(), ..State::default() };
        assert_eq!(State::load(&store, "other").unwrap(), other);
    }
}
