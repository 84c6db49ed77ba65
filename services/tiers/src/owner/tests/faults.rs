//! Each way in which real servers fail, with the drivers that talk to them.

mod engines;
mod lora;
mod models;
mod random;

use serde_json::{Value, json};

use super::*;
use crate::driver::tests::{Call, FakeNetwork, Reply, driver};
use crate::owner::Why;

/// Short times, so that what never ends ends soon.
pub(super) fn short() -> Timing {
    Timing {
        promote_timeout_s: 20,
        demote_timeout_s: 20,
        probe_timeout_s: 5,
        reconcile_every_s: 10,
        retry_max_s: 8,
    }
}

/// As [`spec`](super::spec), from the disk.
pub(super) fn on_disk(experts: &[&str], places: u64) -> PoolSpec {
    let mut spec = spec(experts, places);
    spec.tiers[1].tier = Tier::Disk;
    spec.links[0].from = Tier::Disk;
    for expert in &mut spec.experts {
        expert.bytes = BTreeMap::from([(Tier::Hbm, 10 * GB), (Tier::Disk, 10 * GB)]);
    }
    spec
}

/// When what was asked for, in milliseconds.
#[derive(Clone, Default)]
pub(super) struct Times(Arc<Mutex<Vec<(String, Instant)>>>);

impl Times {
    pub(super) fn note(&self, what: &str) {
        self.0.lock().unwrap().push((what.to_owned(), Instant::now()));
    }

    pub(super) fn of(&self, what: &str) -> Vec<Instant> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|(name, _)| name == what).map(|(_, at)| *at).collect()
    }
}

/// A request is refused about when its bound is up, and told when to come again.
pub(super) async fn refused(world: &World, expert: &str, why: Why) {
    let began = Instant::now();
    let denied = world.acquire(expert).await.unwrap_err();
    assert_eq!(denied.why, why);
    assert!(denied.retry_after > Duration::ZERO);
    assert!(began.elapsed() <= Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(world.pool.status().waiting, 0);
}
