use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use routing::ExpertId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use super::{Control, Step};
use crate::residency::{LinkSpec, Source, Tier};
use crate::server::report::{Caps, DriverError, Evidence, Inventory, Outcome, Placed, Residence, Scope};

/// Experts that exist on paper: bytes over links take their time on the runtime's clock, which tests pause. A move
/// goes on when whoever asked for it has left, as it does on real servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimConfig {
    /// The experts with their bytes in each tier that they can be in. All are in the farthest at first.
    pub experts: BTreeMap<ExpertId, BTreeMap<Tier, u64>>,
    /// How long bytes take from a tier to the next; each carries one move at a time.
    pub links: Vec<LinkSpec>,
    /// Milliseconds until the bytes of a copy that was given up are free.
    #[serde(default)]
    pub frees_after_ms: u64,
}

pub(super) struct Sim {
    config: SimConfig,
    state: Mutex<State>,
}

struct State {
    /// Where each expert is, or will be when its move ends.
    places: BTreeMap<ExpertId, Place>,
    /// Until when each link is busy.
    busy: Vec<Option<Instant>>,
}

#[derive(Clone, Copy)]
struct Place {
    tier: Tier,
    since: Option<Instant>,
}

impl Sim {
    pub(super) fn new(config: SimConfig) -> Result<Self, DriverError> {
        let mut places = BTreeMap::new();
        for (id, bytes) in &config.experts {
            let Some((home, _)) = bytes.last_key_value() else {
                return Err(DriverError::unsupported(format!(
                    "experts.{id}: has no tier; give it its bytes"
                )));
            };
            places.insert(id.clone(), Place { tier: *home, since: None });
            for (to, from) in bytes.keys().zip(bytes.keys().skip(1)) {
                if !config.links.iter().any(|link| link.from == *from && link.to == *to) {
                    let what = format!("experts.{id}: goes from {from} to {to}, and links has no such link");
                    return Err(DriverError::unsupported(what));
                }
            }
        }
        let slow = |link: &LinkSpec| !(link.bytes_per_second.is_finite() && link.bytes_per_second > 0.0);
        if let Some(i) = config.links.iter().position(slow) {
            let what = format!("links[{i}].bytes_per_second: must be more than 0");
            return Err(DriverError::unsupported(what));
        }
        let busy = vec![None; config.links.len()];
        Ok(Self { config, state: Mutex::new(State { places, busy }) })
    }

    fn placed(&self, id: &ExpertId, place: Place) -> Placed {
        let moving = place.since.is_some_and(|since| Instant::now() < since);
        let residence = if moving { Residence::Moving } else { Residence::In(place.tier) };
        let copies = self.config.experts.get(id).into_iter().flatten();
        let held = copies.filter(|(tier, _)| **tier >= place.tier);
        let bytes = held.map(|(tier, bytes)| (*tier, (*bytes, Source::Simulated))).collect();
        Placed { residence, evidence: Evidence::Server, bytes }
    }

    /// Begins a move where one is needed; when it will have ended.
    fn begin(&self, id: &ExpertId, to: Tier) -> Result<Place, DriverError> {
        let bytes = self.config.experts.get(id).filter(|bytes| bytes.contains_key(&to));
        let bytes = bytes.ok_or_else(|| DriverError::unsupported(format!("{id} has no bytes in {to}")))?;
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { places, busy } = &mut *state;
        let place = places.get_mut(id).ok_or_else(|| DriverError::unsupported(format!("no expert {id}")))?;
        if place.tier == to {
            return Ok(*place);
        }
        let mut end = place.since.map_or(now, |since| since.max(now));
        if to > place.tier {
            end += Duration::from_millis(self.config.frees_after_ms);
        } else {
            for (near, bytes) in bytes.iter().rev().filter(|(tier, _)| **tier >= to && **tier < place.tier) {
                let links = self.config.links.iter().zip(&mut *busy);
                let from = bytes_from(self.config.experts.get(id), *near);
                if let Some((link, busy)) =
                    links.into_iter().find(|(l, _)| l.to == *near && Some(l.from) == from)
                {
                    let start = busy.map_or(end, |until| until.max(end));
                    let moving = Duration::try_from_secs_f64(*bytes as f64 / link.bytes_per_second);
                    let moving = moving.unwrap_or(Duration::from_secs(u32::MAX.into()));
                    end = start + Duration::from_micros(link.latency_us) + moving;
                    *busy = Some(end);
                }
            }
        }
        *place = Place { tier: to, since: Some(end) };
        Ok(*place)
    }

    async fn go(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        let place = self.begin(step.expert, step.to)?;
        if let Some(end) = place.since {
            sleep_until(end.min(step.deadline)).await;
            if end > step.deadline {
                let what = format!("the deadline passed before {} was in {}", step.expert, step.to);
                return Err(DriverError::half_done(what));
            }
        }
        Ok(Outcome::at(self.placed(step.expert, place)))
    }
}

/// The next tier of an expert beyond `near`.
fn bytes_from(bytes: Option<&BTreeMap<Tier, u64>>, near: Tier) -> Option<Tier> {
    bytes?.keys().copied().find(|tier| *tier > near)
}

impl Control for Sim {
    fn caps(&self) -> Caps {
        let mut tiers: Vec<Tier> =
            self.config.experts.values().flat_map(|bytes| bytes.keys().copied()).collect();
        tiers.sort_unstable();
        tiers.dedup();
        Caps { tiers, scope: Scope::Expert, exclusive: false, measures: false }
    }

    fn has(&self, expert: &ExpertId) -> bool {
        self.config.experts.contains_key(expert)
    }

    async fn probe(&self, _deadline: Instant) -> Result<Inventory, DriverError> {
        let places = self.state.lock().unwrap_or_else(PoisonError::into_inner).places.clone();
        let experts = places.into_iter().map(|(id, place)| {
            let now = self.placed(&id, place);
            (id, now)
        });
        Ok(Inventory { experts: experts.collect(), ..Inventory::default() })
    }

    async fn promote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        self.go(step).await
    }

    async fn demote(&self, step: Step<'_>) -> Result<Outcome, DriverError> {
        self.go(step).await
    }
}
