//! A second router model that reads some prompts beside the first, to see what it would change.
//!
//! Requests hand over a copy of the prompt and go on; what the queue has no place for is dropped and counted. A
//! task of its own reads, plans and compares. Of a prompt nothing is kept but what the two models made of it.

use std::sync::Arc;

use encoder::Encoder;
use routing::Fleet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::comparison::{Opinion, Setup, Tally};
use crate::catalog::{RouterModel, Space};
use crate::decision::{DecisionId, Planned};
use crate::ids::mix;
use crate::memory::Memory;

/// Prompts that may wait.
const QUEUE: usize = 64;
/// Bytes of prompts that may wait.
const QUEUE_BYTES: usize = 4 << 20;

/// A model that reads beside the first.
pub struct Shadow {
    queue: mpsc::Sender<Item>,
    bytes: Arc<Semaphore>,
    /// A decision is looked at when its mixed id lies below.
    below: u64,
    tally: Arc<Tally>,
}

/// A prompt on its way, with what the first model made of it.
struct Item {
    text: String,
    decision: DecisionId,
    planned: Arc<Planned>,
    memory: Arc<Memory>,
    _bytes: OwnedSemaphorePermit,
}

impl Shadow {
    /// A shadow and what is to be run for it; that ends when the shadow is dropped.
    pub(super) fn new(model: RouterModel, setup: Setup) -> (Self, impl Future<Output = ()> + Send) {
        let sample = setup.sample;
        let tally = Arc::new(Tally::new(model.bundle.clone(), setup));
        let (queue, items) = mpsc::channel(QUEUE);
        // 1.0 becomes the largest value, which an id equals once in 2^64.
        let below = (sample * u64::MAX as f64) as u64;
        let run = read(model, items, tally.clone());
        (Self { queue, bytes: Arc::new(Semaphore::new(QUEUE_BYTES)), below, tally }, run)
    }

    /// Shows it a prompt that has been planned for, and where policies look for similar ones. Never waits.
    pub(crate) fn offer(
        &self,
        text: &str,
        decision: DecisionId,
        planned: &Arc<Planned>,
        memory: &Arc<Memory>,
    ) {
        if planned.request.features.is_none() || mix(decision.0) >= self.below {
            return;
        }
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let place = self.bytes.clone().try_acquire_many_owned(length).ok().zip(self.queue.try_reserve().ok());
        if let Some((bytes, place)) = place {
            let (text, planned, memory) = (text.to_owned(), planned.clone(), memory.clone());
            place.send(Item { text, decision, planned, memory, _bytes: bytes });
        } else {
            self.tally.drop_one();
        }
    }

    pub(super) fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }
}

/// Reads what is offered until nobody can offer any more.
async fn read(mut model: RouterModel, mut items: mpsc::Receiver<Item>, tally: Arc<Tally>) {
    let Some(encoder) = model.encoder.take() else { return };
    let categories: Arc<[Arc<str>]> = model.categories.iter().map(|c| Arc::from(c.name.as_str())).collect();
    while let Some(item) = items.recv().await {
        match opinion(&encoder, model.space.as_ref(), &categories, &item).await {
            Ok(second) => tally.compare(item.decision, first(&item.planned), second),
            Err(error) => tally.fail(&error),
        }
    }
    // Blocks until the session's thread has ended, which it does at once.
    if let Err(error) = tokio::task::spawn_blocking(move || encoder.shutdown()).await {
        tracing::error!(%error, "a second router model failed to stop");
    }
}

/// What the deciding model made of a prompt.
fn first(planned: &Planned) -> Opinion {
    let top = planned.top_categories(1).pop();
    Opinion {
        category: top.as_ref().map_or_else(|| Arc::from(""), |top| top.category.clone()),
        probability: top.map_or(0.0, |top| top.probability),
        expert: planned.plan.first().map(|c| c.expert.clone()),
    }
}

/// What the other one makes of it, with the same route, fleet and seed.
async fn opinion(
    encoder: &Encoder,
    space: Option<&Space>,
    categories: &Arc<[Arc<str>]>,
    item: &Item,
) -> Result<Opinion, String> {
    let planned = &item.planned;
    let policy = &planned.route.policy;
    let read = encoder.features(&item.text, policy.reads()).await.map_err(|error| error.to_string())?;
    let features = read.features;
    // Its own: what is near depends on who embeds.
    let neighbours = item.memory.nearest(space, &features, policy.wants().neighbours).await?;
    let request = routing::Request { features: Some(features), neighbours, ..planned.request.clone() };
    let fleet = Arc::new(rearranged(&planned.fleet, categories));
    Ok(first(&Planned::new(planned.route.clone(), request, fleet, item.decision)))
}

/// The fleet with skills in the order of other categories. Nobody has a skill in one that is new.
fn rearranged(fleet: &Fleet, categories: &Arc<[Arc<str>]>) -> Fleet {
    let mut fleet = fleet.clone();
    if fleet.categories != *categories {
        let from: Vec<Option<usize>> =
            categories.iter().map(|c| fleet.categories.iter().position(|known| known == c)).collect();
        for expert in &mut fleet.experts {
            let skill = |at: &Option<usize>| at.and_then(|at| expert.skills.get(at).copied()).unwrap_or(0.0);
            expert.skills = from.iter().map(skill).collect();
        }
        fleet.categories = categories.clone();
    }
    fleet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skills_follow_their_categories_by_name() {
        let fleet = Fleet {
            categories: ["code".into(), "math".into()].into(),
            experts: vec![routing::ExpertFacts {
                skills: vec![0.9, 0.2],
                ..routing::ExpertFacts::new(routing::ExpertId::new("a").unwrap())
            }],
        };
        let other: Arc<[Arc<str>]> = ["math".into(), "law".into(), "code".into()].into();
        let moved = rearranged(&fleet, &other);
        assert_eq!(moved.experts[0].skills, [0.2, 0.0, 0.9]);
        assert_eq!(moved.categories, other);
        assert_eq!(rearranged(&fleet, &fleet.categories), fleet);
    }
}
