//! Which of several endpoints gets a request.

mod latency;

pub(crate) use latency::{Latency, LatencyCell};

use serde::{Deserialize, Serialize};

/// How a request finds its endpoint among those that take requests. All ways respect the endpoints' weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balancing {
    /// Power of two choices: of two endpoints picked at random by weight, the one with the smaller product of
    /// recent latency (peak EWMA) and calls in progress.
    #[default]
    P2c,
    /// The endpoint with the fewest calls in progress for its weight.
    LeastOutstanding,
    /// At random, by weight alone.
    Weighted,
    /// Requests that begin alike go to the same endpoint, whose engine then has the beginning in its cache;
    /// an endpoint with a quarter more calls than its share is passed over. What has no beginning to go by
    /// is balanced as with `p2c`.
    PrefixAffinity,
}

/// An endpoint that could be chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// Its place in the caller's list.
    pub(crate) at: usize,
    pub(crate) weight: f64,
    /// Calls in progress.
    pub(crate) outstanding: usize,
    /// Seconds to the first byte, as of now; `None` when not known.
    pub(crate) latency: Option<f64>,
    /// Names it, whatever else comes and goes.
    pub(crate) key: u64,
}

impl Candidate {
    /// Calls for its weight, the next one included.
    fn load(&self) -> f64 {
        (self.outstanding + 1) as f64 / self.weight
    }
}

/// How much better than its share an endpoint may be loaded before affinity gives way.
const BOUND: f64 = 1.25;
/// Costs that differ by less than this factor are noise.
const ALIKE: f64 = 1.1;

/// The choice among the candidates; `None` when there are none. `affinity` is a hash of what the request
/// begins with.
pub(crate) fn choose(
    how: Balancing,
    candidates: &(impl Iterator<Item = Candidate> + Clone),
    affinity: Option<u64>,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    let mut all = candidates.clone();
    let first = all.next()?;
    if all.next().is_none() {
        return Some(first.at);
    }
    let chosen = match (how, affinity) {
        (Balancing::LeastOutstanding, _) => least_outstanding(candidates.clone(), rng),
        (Balancing::Weighted, _) => by_weight(candidates.clone(), None, rng),
        (Balancing::PrefixAffinity, Some(affinity)) => rendezvous(candidates, affinity),
        (Balancing::P2c, _) | (Balancing::PrefixAffinity, None) => {
            let one = by_weight(candidates.clone(), None, rng)?;
            by_weight(candidates.clone(), Some(one.at), rng).map(|other| better(one, other))
        }
    };
    Some(chosen.unwrap_or(first).at)
}

/// The one of two with the smaller expected wait; the first where they are alike, so that endpoints which
/// differ by noise alone share by weight.
///
/// Sources: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; the cost is that
/// of Finagle's and Linkerd's peak EWMA balancers.
fn better(one: Candidate, other: Candidate) -> Candidate {
    let heaviest = one.weight.max(other.weight);
    // An endpoint without history is as fast as the other.
    let known = one.latency.zip(other.latency);
    let cost = |c: &Candidate, latency: Option<f64>| {
        latency.unwrap_or(1.0).max(1e-6) * (1.0 + c.outstanding as f64 * heaviest / c.weight)
    };
    let one_costs = cost(&one, known.map(|k| k.0));
    let other_costs = cost(&other, known.map(|k| k.1));
    if other_costs * ALIKE < one_costs { other } else { one }
}

/// One at random, by weight, but not `except`.
fn by_weight(
    candidates: impl Iterator<Item = Candidate> + Clone,
    except: Option<usize>,
    rng: &mut fastrand::Rng,
) -> Option<Candidate> {
    let eligible = candidates.filter(|c| Some(c.at) != except);
    let total: f64 = eligible.clone().map(|c| c.weight).sum();
    let mut left = rng.f64() * total;
    let mut last = None;
    for candidate in eligible {
        last = Some(candidate);
        left -= candidate.weight;
        if left < 0.0 {
            break;
        }
    }
    last
}

/// The least loaded; among equals one at random.
fn least_outstanding(
    candidates: impl Iterator<Item = Candidate>,
    rng: &mut fastrand::Rng,
) -> Option<Candidate> {
    let mut best: Option<Candidate> = None;
    let mut equals = 0;
    for candidate in candidates {
        match best.map(|b| candidate.load().total_cmp(&b.load())) {
            Some(std::cmp::Ordering::Greater) => continue,
            Some(std::cmp::Ordering::Equal) => equals += 1,
            Some(std::cmp::Ordering::Less) | None => equals = 1,
        }
        // Of n equals each stays with the probability 1/n.
        if equals == 1 || rng.u32(0..equals) == 0 {
            best = Some(candidate);
        }
    }
    best
}

/// Weighted rendezvous hashing with a bounded load: the candidate with the highest score among those with
/// room. One that comes or goes moves only the keys that it wins or had.
///
/// Sources: D. Thaler and C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998;
/// V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018.
fn rendezvous(candidates: &(impl Iterator<Item = Candidate> + Clone), affinity: u64) -> Option<Candidate> {
    let (calls, weights) =
        candidates.clone().fold((1, 0.0), |(calls, weights), c| (calls + c.outstanding, weights + c.weight));
    let room = |c: &Candidate| {
        let share = BOUND * calls as f64 * c.weight / weights;
        ((c.outstanding + 1) as f64) <= share.ceil()
    };
    let score = |c: &Candidate| {
        // In (0, 1), so that the score is positive and finite.
        let uniform = ((mix(affinity ^ c.key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -c.weight / uniform.ln()
    };
    candidates.clone().filter(room).max_by(|a, b| score(a).total_cmp(&score(b)))
}

/// The finaliser of `SplitMix64`: every bit of the input changes half of the output's.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The key of an endpoint's name: FNV-1a, spread.
pub(crate) fn key(name: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    mix(name.bytes().fold(0xcbf2_9ce4_8422_2325, fold))
}

#[cfg(test)]
mod tests;
