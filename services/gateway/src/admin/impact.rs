//! What a change of the mapping or of what was learnt of experts means: the recent decisions, planned again.

use std::collections::HashMap;
use std::sync::Arc;

use routing::{ExpertFacts, ExpertId, Fleet, Signals};
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use crate::catalog::{Desired, Space, View};
use crate::decision::{Decision, Planned};
use crate::error::ApiError;

/// Recent decisions that are planned again.
const REPLAYED: usize = 1_000;
/// Changed decisions that are told.
const EXAMPLES: usize = 10;

/// What recent decisions would be now. Each that the router read is planned again from its record, with what the
/// experts were before the change and with what they are after it; all else (availability, load, needs) stays as it was
/// recorded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DecisionChanges)]
pub(super) struct Impact {
    /// Decisions that were planned again: the most recent ones that the router read.
    replayed: usize,
    /// Those of them that another expert would lead.
    changed: usize,
    /// Some of these, newest first.
    examples: Vec<Changed>,
}

/// A decision that another expert would lead.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChangedDecision)]
struct Changed {
    /// Its id.
    decision: String,
    /// Who leads without the change; null for nobody.
    #[schema(required)]
    before: Option<ExpertId>,
    /// Who leads with it; null for nobody.
    #[schema(required)]
    after: Option<ExpertId>,
}

impl Impact {
    /// Plans recent decisions with both states. `view` is from before the change.
    pub(super) async fn of(admin: &Admin, view: Arc<View>, after: Arc<Desired>) -> Result<Self, ApiError> {
        let read = |d: &Decision| d.planned.as_ref().is_some_and(|p| p.request.features.is_some());
        let decisions = admin.app.pipeline.decisions.recent(REPLAYED, read);
        // A thousand plans over large fleets take longer than a thread that serves sockets may be held.
        let work = tokio::task::spawn_blocking(move || Self::compute(&view, &after, &decisions));
        work.await.map_err(ApiError::internal)
    }

    fn compute(view: &View, after: &Desired, decisions: &[Arc<Decision>]) -> Self {
        let space = view.router.space.as_ref();
        let (mut was, mut is) = (Fleets::new(&view.desired, space), Fleets::new(after, space));
        let mut impact = Self { replayed: 0, changed: 0, examples: Vec::new() };
        for decision in decisions {
            let Some(planned) = &decision.planned else { continue };
            let route = view.routes.get(&planned.route.spec.id).unwrap_or(&planned.route);
            let lead = |fleet: Arc<Fleet>| {
                let plan = route.policy.plan(&planned.request, &fleet, decision.id.0);
                plan.first().map(|candidate| candidate.expert.clone())
            };
            let (before, after) = (lead(was.of(planned)), lead(is.of(planned)));
            impact.replayed += 1;
            if before != after {
                impact.changed += 1;
                if impact.examples.len() < EXAMPLES {
                    impact.examples.push(Changed { decision: decision.id.to_string(), before, after });
                }
            }
        }
        impact
    }
}

/// Recorded fleets with another mapping and other signals. Decisions share fleets, and so do these.
struct Fleets<'a> {
    desired: &'a Desired,
    space: Option<&'a Space>,
    made: HashMap<*const Fleet, Arc<Fleet>>,
    signals: HashMap<ExpertId, Signals>,
}

impl<'a> Fleets<'a> {
    fn new(desired: &'a Desired, space: Option<&'a Space>) -> Self {
        let signals = desired.experts.keys().map(|id| (id.clone(), desired.signals_of(id, space))).collect();
        Self { desired, space, made: HashMap::new(), signals }
    }

    fn of(&mut self, planned: &Planned) -> Arc<Fleet> {
        let recorded = &planned.fleet;
        if let Some(made) = self.made.get(&Arc::as_ptr(recorded)) {
            return made.clone();
        }
        let mut fleet = Fleet::clone(recorded);
        for facts in &mut fleet.experts {
            self.revise(facts, &recorded.categories);
        }
        let fleet = Arc::new(fleet);
        self.made.insert(Arc::as_ptr(recorded), fleet.clone());
        fleet
    }

    /// An expert that is gone since stays as it was.
    fn revise(&self, facts: &mut ExpertFacts, categories: &[Arc<str>]) {
        let Some(entry) = self.desired.experts.get(&facts.id) else { return };
        facts.skills = entry.value.facts(categories, facts.availability).skills;
        let Some(signals) = self.signals.get(&facts.id).filter(|_| self.space.is_some()) else { return };
        let description = facts.signals.description.clone();
        facts.signals = Arc::new(Signals { description, ..signals.clone() });
    }
}
