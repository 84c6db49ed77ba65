//! Who will be asked for next, and loading them while nobody needs the channel.
//!
//! [`super::decide()`] loads what someone waits for. Where it has nothing to do and a channel is idle, [`prefetch`] may
//! load what is likely to be asked for. Three sources say what that is; each is judged by what became of its loads,
//! and falls silent for a while when too many were for nothing.

mod conversations;
mod settings;
mod transitions;
mod trust;

use std::collections::BTreeMap;

use super::action::{Action, Cause, Reason};
use super::decide::spare_room;
use super::expert::{ExpertIndex, Phase};
use super::queue::Queue;
use super::state::State;
use super::victims::Room;
use conversations::Conversations;
pub use settings::{Prediction, PredictionSource, Prefetched};
use transitions::Transitions;
use trust::Trust;

/// How many times the worth of what goes that of what comes must be.
const HYSTERESIS: f64 = 1.2;

/// What is less likely than this to be the next to be asked for is not loaded, even where there is room.
const LEAST_CHANCE: f64 = 0.01;

/// How many of the likeliest are tried, where there is no room for the first.
const TRIES: usize = 4;

/// For how many times its load a predicted copy that nobody has asked for yet is safe from other predictions.
const TRIAL_LOADS: u64 = 2;

/// A predicted load that nobody has asked for yet.
#[derive(Clone, Copy, Debug)]
struct Pending {
    source: PredictionSource,
    since_us: u64,
}

/// What is remembered of requests to predict the next, and how well that went. Its memory is bounded: some hundred
/// bytes for each expert, and the last few thousand conversations.
///
/// The owner of the [`State`] tells it of each request ([`Predictor::requested`]) and of each action that was applied
/// ([`Predictor::applied`]).
#[derive(Clone, Debug)]
pub struct Predictor {
    conversations: Conversations,
    transitions: Transitions,
    pending: BTreeMap<ExpertIndex, Pending>,
    trust: [Trust; 3],
    counts: [Prefetched; 3],
}

impl Predictor {
    /// Nothing is known yet of so many experts.
    pub fn new(experts: usize) -> Self {
        Self {
            conversations: Conversations::new(),
            transitions: Transitions::new(experts),
            pending: BTreeMap::new(),
            trust: Default::default(),
            counts: Default::default(),
        }
    }

    /// Notes a request for an expert, in the conversation `session` where that is known. Call it for each, beside
    /// [`State::requested`]; an expert that the pool does not have is ignored.
    pub fn requested(&mut self, now_us: u64, state: &State, expert: ExpertIndex, session: Option<u64>) {
        let Some(phase) = state.phase(expert) else { return };
        self.expire(now_us, state);
        if let Some(pending) = self.pending.remove(&expert) {
            let outcome = match phase {
                Phase::Hot | Phase::Draining => Outcome::Used,
                Phase::Failed { .. } | Phase::Unknown => Outcome::Wasted,
                _ => Outcome::Late,
            };
            self.judge(now_us, state, pending.source, outcome);
        }
        let before = self.conversations.requested(now_us, expert, session);
        self.transitions.requested(expert, before);
    }

    /// Notes an action that [`State::apply`] took.
    pub fn applied(&mut self, now_us: u64, state: &State, action: &Action) {
        match action {
            Action::Promote { expert, cause, .. } => {
                // A second load of what was to be there: the first one came to nothing.
                self.give_up(now_us, state, *expert);
                if let Cause::Predicted { source } = cause {
                    self.trust[source.at()].began(now_us);
                    self.pending.insert(*expert, Pending { source: *source, since_us: now_us });
                }
            }
            Action::Demote { expert, .. } => self.give_up(now_us, state, *expert),
            _ => {}
        }
        self.expire(now_us, state);
    }

    /// What became of a source's loads until now.
    pub fn prefetched(&self, source: PredictionSource) -> Prefetched {
        self.counts[source.at()]
    }

    /// Whether a source's predictions may load experts now, as far as its record goes.
    pub fn trusts(&self, source: PredictionSource, now_us: u64) -> bool {
        let underway = self.pending.values().filter(|pending| pending.source == source).count();
        self.trust[source.at()].may(now_us, underway)
    }

    fn give_up(&mut self, now_us: u64, state: &State, expert: ExpertIndex) {
        if let Some(pending) = self.pending.remove(&expert) {
            self.judge(now_us, state, pending.source, Outcome::Wasted);
        }
    }

    fn expire(&mut self, now_us: u64, state: &State) {
        let ttl_us = state.policy().prediction.ttl_us;
        let old = |pending: &Pending| now_us.saturating_sub(pending.since_us) > ttl_us;
        while let Some((expert, _)) = self.pending.iter().find(|(_, pending)| old(pending)) {
            let expert = *expert;
            self.give_up(now_us, state, expert);
        }
    }

    fn judge(&mut self, now_us: u64, state: &State, source: PredictionSource, outcome: Outcome) {
        let counts = &mut self.counts[source.at()];
        match outcome {
            Outcome::Used => counts.used += 1,
            Outcome::Late => counts.late += 1,
            Outcome::Wasted => counts.wasted += 1,
        }
        let wasted = outcome == Outcome::Wasted;
        self.trust[source.at()].judge(now_us, wasted, state.policy().prediction.waste_max);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Used,
    Late,
    Wasted,
}

/// How likely the next request is for each expert, by those sources that name few.
struct Chances<'a> {
    state: &'a State,
    session: BTreeMap<ExpertIndex, f64>,
    markov: BTreeMap<ExpertIndex, f64>,
}

impl<'a> Chances<'a> {
    fn of(now_us: u64, state: &'a State, predictor: &Predictor) -> Self {
        let prediction = &state.policy().prediction;
        let recent = if prediction.session || prediction.markov {
            predictor.conversations.recent(now_us)
        } else {
            BTreeMap::new()
        };
        let markov = if prediction.markov {
            predictor.transitions.chances(&recent, predictor.conversations.returning())
        } else {
            BTreeMap::new()
        };
        let again = predictor.conversations.returning() * predictor.conversations.faithful();
        let session = recent.into_iter().map(|(expert, share)| (expert, share * again)).collect();
        Self { state, session, markov }
    }

    /// The most that any source expects.
    fn most(&self, expert: ExpertIndex) -> f64 {
        let named = [&self.session, &self.markov].map(|map| map.get(&expert).copied().unwrap_or(0.0));
        named.into_iter().fold(self.state.popularity.share(expert), f64::max)
    }

    /// The likeliest experts that could be loaded, by source.
    fn likeliest(&self, allowed: &[PredictionSource]) -> Vec<(f64, ExpertIndex, PredictionSource)> {
        let mut best: Vec<(f64, ExpertIndex, PredictionSource)> = Vec::with_capacity(TRIES + 1);
        let mut offer = |chance: f64, expert, source| {
            if chance < LEAST_CHANCE || best.iter().any(|(other, e, _)| *e == expert && *other >= chance) {
                return;
            }
            best.retain(|(_, other, _)| *other != expert);
            let place = best.partition_point(|(other, ..)| *other >= chance);
            if place < TRIES {
                best.insert(place, (chance, expert, source));
                best.truncate(TRIES);
            }
        };
        let named = [(PredictionSource::Session, &self.session), (PredictionSource::Markov, &self.markov)];
        for (source, chances) in named.into_iter().filter(|(source, _)| allowed.contains(source)) {
            for (expert, chance) in chances {
                offer(*chance, *expert, source);
            }
        }
        if allowed.contains(&PredictionSource::Popularity) {
            for expert in (0..self.state.len() as u32).map(ExpertIndex) {
                offer(self.state.popularity.share(expert), expert, PredictionSource::Popularity);
            }
        }
        best
    }
}

/// Decides what to load although nobody asks for it: at most one load, with what has to go for it. Ask only when
/// [`super::decide()`] has nothing to do, apply all of it in order, and ask both again.
///
/// Nothing is loaded while a request waits for an expert that is neither ready nor on its way, while any transfer is
/// under way on the links that it takes, while recency rules, or from more than half-used allowances of
/// [`super::Policy::loads_per_minute`]. So a request is held up by at most the rest of one such load, which its bound
/// covers as long as that is longer than one load and one batch. What goes is what [`super::decide()`] would have let
/// go, and together it must be worth less by a factor of 1.2 than what comes.
///
/// The same input gives the same decision.
pub fn prefetch(now_us: u64, state: &State, queue: &Queue, predictor: &Predictor) -> Vec<Action> {
    let prediction = &state.policy().prediction;
    let trusted = |source: &PredictionSource| prediction.allows(*source) && predictor.trusts(*source, now_us);
    let allowed: Vec<PredictionSource> = PredictionSource::ALL.into_iter().filter(trusted).collect();
    if allowed.is_empty() || !state.policy().prefetch || state.draining > 0 || !state.may_spare_load(now_us) {
        return Vec::new();
    }
    let served = |expert: &ExpertIndex| {
        matches!(state.phase(*expert), Some(Phase::Hot | Phase::Loading | Phase::Warming))
    };
    if !queue.active().iter().all(served) {
        return Vec::new();
    }
    let chances = Chances::of(now_us, state, predictor);
    for (chance, expert, source) in chances.likeliest(&allowed) {
        let Some(entry) = state.experts.get(expert.at()) else { continue };
        let base_ready = entry.base.is_none_or(|base| state.is_hot(base));
        if !entry.can_begin(now_us) || !base_ready || state.recency(entry.serves).is_some() {
            continue;
        }
        let (from, to) = (entry.nearest(), entry.serves);
        let journey = state.journey(entry, from, to);
        if !state.is_idle(&journey) {
            continue;
        }
        let (mut actions, at_once) = match spare_room(now_us, state, queue, entry) {
            Room::Made(removals) => (removals, true),
            Room::Later(removals) => (removals, false),
            Room::None => continue,
        };
        let loss: f64 = actions.iter().map(|removal| loss(now_us, state, predictor, &chances, removal)).sum();
        if chance * journey.us < HYSTERESIS * loss {
            continue;
        }
        if at_once {
            let (cause, reason) = (Cause::Predicted { source }, Reason::Expected { chance });
            actions.push(Action::Promote { expert, from, to, cause, tenant: None, reason });
        }
        return actions;
    }
    Vec::new()
}

/// What a removal is expected to cost, in microseconds of the next request's wait.
fn loss(now_us: u64, state: &State, predictor: &Predictor, chances: &Chances<'_>, removal: &Action) -> f64 {
    let Action::Demote { expert, from, .. } = removal else { return f64::INFINITY };
    let reload = state.reload_us(*expert, *from);
    let on_trial = predictor.pending.get(expert).is_some_and(|pending| {
        now_us < pending.since_us.saturating_add((reload as u64).saturating_mul(TRIAL_LOADS))
    });
    if on_trial { f64::INFINITY } else { chances.most(*expert) * reload }
}
