use serde::{Deserialize, Serialize};

/// Where a prediction comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PredictionSource {
    /// The expert that answered a conversation last is asked again.
    Session,
    /// What was popular stays so.
    Popularity,
    /// Experts follow each other as they did: within conversations, and where those are new, in the order of all
    /// requests.
    Markov,
}

impl PredictionSource {
    /// All.
    pub const ALL: [Self; 3] = [Self::Session, Self::Popularity, Self::Markov];

    pub(super) fn at(self) -> usize {
        self as usize
    }
}

/// Which predictions may load experts. All are off by default: `docs/tiers.md` has the measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prediction {
    /// Whether to listen to [`PredictionSource::Session`].
    pub session: bool,
    /// Whether to listen to [`PredictionSource::Popularity`].
    pub popularity: bool,
    /// Whether to listen to [`PredictionSource::Markov`].
    pub markov: bool,
    /// After how long without a request a predicted load counts as wasted, in microseconds.
    pub ttl_us: u64,
    /// The share of a source's recent loads that may be wasted before it is switched off, 0 to 1. When it is tried
    /// again, it has to stay 0.2 below.
    pub waste_max: f64,
}

impl Default for Prediction {
    fn default() -> Self {
        Self { session: false, popularity: false, markov: false, ttl_us: 60_000_000, waste_max: 0.8 }
    }
}

impl Prediction {
    /// With one source, or none, and the default limits.
    pub fn only(source: Option<PredictionSource>) -> Self {
        let is = |other| source == Some(other);
        Self {
            session: is(PredictionSource::Session),
            popularity: is(PredictionSource::Popularity),
            markov: is(PredictionSource::Markov),
            ..Self::default()
        }
    }

    /// With all sources and the default limits.
    pub fn all() -> Self {
        Self { session: true, popularity: true, markov: true, ..Self::default() }
    }

    /// Whether to listen to a source.
    pub fn allows(&self, source: PredictionSource) -> bool {
        match source {
            PredictionSource::Session => self.session,
            PredictionSource::Popularity => self.popularity,
            PredictionSource::Markov => self.markov,
        }
    }
}

/// What became of a source's loads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Prefetched {
    /// Asked for while they were ready.
    pub used: u64,
    /// Asked for while they were still being loaded.
    pub late: u64,
    /// Removed, given up or forgotten before anybody asked.
    pub wasted: u64,
}

impl std::iter::Sum for Prefetched {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            used: a.used + b.used,
            late: a.late + b.late,
            wasted: a.wasted + b.wasted,
        })
    }
}
