use std::collections::BTreeMap;

use routing::ExpertId;

use super::report::{DriverError, Evidence, Inventory, Placed, Residence};
use crate::residency::Tier;

/// What a server calls the experts.
pub(crate) struct Names(BTreeMap<ExpertId, String>);

impl Names {
    pub(crate) fn new(names: BTreeMap<ExpertId, String>) -> Self {
        Self(names)
    }

    pub(crate) fn has(&self, expert: &ExpertId) -> bool {
        self.0.contains_key(expert)
    }

    pub(crate) fn of(&self, expert: &ExpertId) -> Result<&str, DriverError> {
        let name = self.0.get(expert).map(String::as_str);
        name.ok_or_else(|| DriverError::unsupported(format!("models: there is no {expert}")))
    }

    /// An inventory of what a server lists. An expert that it does not list is on its disk; a model that holds
    /// memory and is no expert is a stranger.
    pub(crate) fn inventory(&self, mut listed: BTreeMap<String, Placed>) -> Inventory {
        let on_disk = || Placed::told(Tier::Disk);
        let experts =
            self.0.iter().map(|(id, name)| (id.clone(), listed.remove(name).unwrap_or_else(on_disk)));
        let experts = experts.collect();
        let rests = |placed: &Placed| placed.residence == Residence::In(Tier::Disk);
        let strangers = listed.into_iter().filter(|(_, placed)| !rests(placed)).map(|(name, _)| name);
        Inventory { experts, strangers: strangers.collect(), free_bytes: None }
    }
}

impl Inventory {
    pub(crate) fn placed(&self, expert: &ExpertId) -> Placed {
        let unknown = || Placed::new(Residence::Unknown, Evidence::Assumed);
        self.experts.get(expert).cloned().unwrap_or_else(unknown)
    }

    /// Whose accelerator copy is gone since `before`, apart from `expert`'s.
    pub(crate) fn evicted(&self, before: &Self, expert: &ExpertId) -> Vec<ExpertId> {
        let hot =
            |inventory: &Self, id: &ExpertId| inventory.placed(id).residence == Residence::In(Tier::Hbm);
        let others = before.experts.keys().filter(|id| *id != expert);
        others.filter(|id| hot(before, id) && !hot(self, id)).cloned().collect()
    }
}
