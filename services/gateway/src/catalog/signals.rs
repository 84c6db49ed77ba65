//! What was learnt of experts, as the admin API registers it: gates, pilots, scorers.

use std::fmt::Display;

use routing::{ExpertId, Scorer, Signals};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stores::Kind;
use utoipa::ToSchema;

use super::desired::{Desired, Edit, Object, Op, Table, plain};
use super::{Entry, Space};
use crate::problem::Problem;

/// An expert's gate, for policies `gates` and `glider`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Gate)]
#[serde(deny_unknown_fields)]
pub struct GateSpec {
    /// Whose.
    pub expert: ExpertId,
    /// The space that it was learnt in: `space` of the bundle's manifest, or its `model_id`.
    pub encoder: String,
    /// v, as it was trained; as wide as the encoder's states.
    pub vector: Vec<f32>,
}

/// An expert's pilots, for policy `router_retriever`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Pilots)]
#[serde(deny_unknown_fields)]
pub struct PilotsSpec {
    /// Whose.
    pub expert: ExpertId,
    /// The space that they were learnt in: `space` of the bundle's manifest, or its `model_id`.
    pub encoder: String,
    /// Embeddings that stand for the prompts that it is best at, each as wide as the encoder's embeddings.
    pub vectors: Vec<Vec<f32>>,
}

/// An expert's scorer, for policy `cost_quality`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Scorer)]
#[serde(deny_unknown_fields)]
pub struct ScorerSpec {
    /// Whose.
    pub expert: ExpertId,
    /// The space that it was learnt in: `space` of the bundle's manifest, or its `model_id`.
    pub encoder: String,
    /// As wide as the encoder's embeddings. The predicted score is
    /// `clamp(weights . embedding + length ln(1 + tokens) + bias, 0, 1)`.
    pub weights: Vec<f32>,
    /// What a unit of ln(1 + tokens) of the prompt adds, in score points.
    #[serde(default)]
    pub length: f32,
    /// The score of an embedding at the origin, for a prompt without tokens.
    pub bias: f32,
    /// Whether it says what the mapping misses: then it is added to the mapping, and not clamped.
    #[serde(default)]
    pub over_mapping: bool,
}

/// Something that was learnt of an expert in one space.
pub trait Signal: Object<Id = ExpertId> + Serialize {
    /// The space that it was learnt in.
    fn encoder(&self) -> &str;
    /// Its vectors, with the places where they stand.
    fn vectors(&self) -> Vec<(String, &[f32])>;
    /// Adds it to what is known of the expert.
    fn add_to(&self, signals: &mut Signals);

    /// Why it has no effect with the router that is loaded; `None` when it has.
    fn unused(&self, space: Option<&Space>) -> Option<String> {
        let widths = self.vectors().into_iter().map(|(place, vector)| (place, vector.len()));
        Space::excludes(space, self.encoder(), widths)
    }

    /// What is wrong with it, with the router that is loaded.
    fn problems(&self, space: Option<&Space>) -> Vec<Problem> {
        let vectors = self.vectors();
        if vectors.is_empty() {
            return vec![Problem::at("vectors", "must hold at least one vector")];
        }
        let width = space.filter(|space| *space.id == *self.encoder()).map(|space| space.dimensions);
        let problem = |(place, vector): (String, &[f32])| {
            if let Some(width) = width.filter(|width| *width != vector.len()) {
                let message =
                    format!("must be {width} wide, as encoder `{}` is, not {}", self.encoder(), vector.len());
                return Some(Problem::at(place, message));
            }
            if let Some(at) = vector.iter().position(|x| !x.is_finite()) {
                return Some(Problem::at(format!("{place}[{at}]"), "must be a finite number"));
            }
            if vector.is_empty() || vector.len() > WIDEST {
                let message = format!("must be 1 to {WIDEST} wide, not {}", vector.len());
                return Some(Problem::at(place, message));
            }
            None
        };
        vectors.into_iter().filter_map(problem).collect()
    }
}

/// No encoder's vectors are wider.
pub(crate) const WIDEST: usize = 16_384;

impl Space {
    /// Why vectors of an encoder have no effect in the router's space; `None` when they have. They come with the places
    /// where they stand and their widths.
    pub(crate) fn excludes<P: Display>(
        router: Option<&Self>,
        encoder: &str,
        vectors: impl IntoIterator<Item = (P, usize)>,
    ) -> Option<String> {
        match router {
            None => Some("no router model is loaded".to_owned()),
            Some(space) if *space.id != *encoder => {
                Some(format!("it was learnt for encoder `{encoder}`, and `{}` is loaded", space.id))
            }
            Some(space) => {
                let wanted = space.dimensions;
                let (place, width) = vectors.into_iter().find(|(_, width)| *width != wanted)?;
                Some(format!("{place} is {width} wide, and the encoder's vectors are {wanted}"))
            }
        }
    }
}

macro_rules! signal {
    ($type:ty, $kind:ident, $name:literal, $table:ident) => {
        impl Object for $type {
            type Id = ExpertId;
            const KIND: Kind = Kind::$kind;
            const NAME: &'static str = $name;

            fn id(&self) -> &ExpertId {
                &self.expert
            }

            fn stored(&self) -> Value {
                plain(self)
            }

            fn table(desired: &Desired) -> &Table<Self> {
                &desired.$table
            }

            fn table_mut(desired: &mut Desired) -> &mut Table<Self> {
                &mut desired.$table
            }

            fn edit(op: Op<Self>) -> Edit {
                Edit::$kind(op)
            }
        }
    };
}

signal!(GateSpec, Gate, "gate", gates);
signal!(PilotsSpec, Pilot, "pilot", pilots);
signal!(ScorerSpec, Scorer, "scorer", scorers);

impl Signal for GateSpec {
    fn encoder(&self) -> &str {
        &self.encoder
    }

    fn vectors(&self) -> Vec<(String, &[f32])> {
        vec![("vector".to_owned(), &self.vector)]
    }

    fn add_to(&self, signals: &mut Signals) {
        signals.gate = Some(self.vector.as_slice().into());
    }
}

impl Signal for PilotsSpec {
    fn encoder(&self) -> &str {
        &self.encoder
    }

    fn vectors(&self) -> Vec<(String, &[f32])> {
        self.vectors.iter().enumerate().map(|(at, v)| (format!("vectors[{at}]"), v.as_slice())).collect()
    }

    fn add_to(&self, signals: &mut Signals) {
        signals.pilots = self.vectors.iter().map(|pilot| pilot.as_slice().into()).collect();
    }
}

impl Signal for ScorerSpec {
    fn encoder(&self) -> &str {
        &self.encoder
    }

    fn vectors(&self) -> Vec<(String, &[f32])> {
        vec![("weights".to_owned(), &self.weights)]
    }

    fn add_to(&self, signals: &mut Signals) {
        let Self { length, bias, over_mapping, .. } = *self;
        let scorer = Scorer { weights: self.weights.as_slice().into(), length, bias, over_mapping };
        signals.scorer = Some(scorer.into());
    }
}

impl Desired {
    /// What policies may know of the expert in that space, but for its description.
    pub(crate) fn signals_of(&self, expert: &ExpertId, space: Option<&Space>) -> Signals {
        fn add<T: Signal>(entry: Option<&Entry<T>>, space: Option<&Space>, signals: &mut Signals) {
            if let Some(entry) = entry.filter(|entry| entry.value.unused(space).is_none()) {
                entry.value.add_to(signals);
            }
        }
        let mut signals = Signals::default();
        add(self.gates.get(expert), space, &mut signals);
        add(self.pilots.get(expert), space, &mut signals);
        add(self.scorers.get(expert), space, &mut signals);
        signals
    }
}
