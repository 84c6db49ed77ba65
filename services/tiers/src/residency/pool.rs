use std::collections::BTreeSet;

use routing::ExpertId;
use serde::{Deserialize, Serialize};

use super::expert::{ExpertSpec, Kind};
use super::link::LinkSpec;
use super::policy::Policy;
use super::tier::{Tier, TierSpec};

/// Experts that share one accelerator's budget.
///
/// Copies are inclusive: an expert that is loaded keeps its copies in the tiers that it came through, so that
/// removing it from the nearest writes nothing back. Weights are read-only, so that costs memory and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// Its tiers, each once.
    pub tiers: Vec<TierSpec>,
    /// The ways between them.
    pub links: Vec<LinkSpec>,
    /// Its experts; an [`super::ExpertIndex`] is a place in this list.
    pub experts: Vec<ExpertSpec>,
    /// How it is scheduled.
    #[serde(default)]
    pub policy: Policy,
    /// Whether bytes are free as soon as a copy is given up. Otherwise [`super::State::gone`] says when.
    #[serde(default)]
    pub frees_at_once: bool,
}

/// What is wrong with a [`PoolSpec`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// A tier appears twice.
    #[error("tier `{0}` is given twice; give each tier of a pool once")]
    TierTwice(Tier),
    /// All of a tier is reserved.
    #[error("tier `{0}` reserves all of its bytes; lower reserved_bytes or raise capacity_bytes")]
    NothingLeft(Tier),
    /// A link that cannot be.
    #[error("link {from} -> {to}: {problem}")]
    Link {
        /// Its farther end.
        from: Tier,
        /// Its nearer end.
        to: Tier,
        /// What is wrong, and what would be right.
        problem: &'static str,
    },
    /// An expert that cannot be.
    #[error("expert `{id}`: {problem}")]
    Expert {
        /// Which.
        id: ExpertId,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The experts' homes are too small for them.
    #[error("tier `{tier}` has {usable} bytes for experts, and those at home there need {needed}")]
    Home {
        /// Which.
        tier: Tier,
        /// Bytes that experts may take.
        usable: u64,
        /// Bytes that they need.
        needed: u64,
    },
    /// A setting outside its range.
    #[error("policy.{name} must be {range}")]
    Policy {
        /// Which.
        name: &'static str,
        /// What it may be.
        range: &'static str,
    },
}

impl PoolSpec {
    /// Checks everything that can be wrong.
    ///
    /// # Errors
    /// The first thing that is.
    pub fn check(&self) -> Result<(), PoolError> {
        let mut tiers = BTreeSet::new();
        for spec in &self.tiers {
            if !tiers.insert(spec.tier) {
                return Err(PoolError::TierTwice(spec.tier));
            }
            if spec.reserved_bytes >= spec.capacity_bytes {
                return Err(PoolError::NothingLeft(spec.tier));
            }
        }
        self.check_links(&tiers)?;
        let mut ids = BTreeSet::new();
        for expert in &self.experts {
            let fail = |problem: String| PoolError::Expert { id: expert.id.clone(), problem };
            if !ids.insert(&expert.id) {
                return Err(fail("is given twice; give each expert of a pool once".to_owned()));
            }
            self.check_expert(expert).map_err(fail)?;
        }
        self.check_homes()?;
        self.policy.check()
    }

    fn check_links(&self, tiers: &BTreeSet<Tier>) -> Result<(), PoolError> {
        let mut seen = BTreeSet::new();
        for link in &self.links {
            let problem = if link.from <= link.to {
                "`from` must be the farther tier"
            } else if !tiers.contains(&link.from) || !tiers.contains(&link.to) {
                "both ends must be tiers of the pool"
            } else if !(link.bytes_per_second > 0.0 && link.bytes_per_second.is_finite()) {
                "bytes_per_second must be a number above 0"
            } else if link.concurrency == 0 {
                "concurrency must be at least 1"
            } else if !seen.insert((link.from, link.to)) {
                "is given twice; give each link once"
            } else {
                continue;
            };
            return Err(PoolError::Link { from: link.from, to: link.to, problem });
        }
        Ok(())
    }

    fn check_expert(&self, expert: &ExpertSpec) -> Result<(), String> {
        if expert.bytes.is_empty() {
            return Err("has no tier; give its bytes in at least one tier".to_owned());
        }
        for (tier, bytes) in &expert.bytes {
            let Some(spec) = self.tiers.iter().find(|spec| spec.tier == *tier) else {
                return Err(format!("has bytes in tier `{tier}`, which the pool does not have"));
            };
            let usable = spec.capacity_bytes - spec.reserved_bytes;
            if *bytes > usable {
                return Err(format!("needs {bytes} bytes in tier `{tier}`, where experts have {usable}"));
            }
        }
        for (to, from) in expert.bytes.keys().zip(expert.bytes.keys().skip(1)) {
            if !self.links.iter().any(|link| link.from == *from && link.to == *to) {
                return Err(format!("has to get from tier `{from}` to `{to}`, and there is no such link"));
            }
        }
        if let Kind::Adapter { base } = &expert.kind {
            match self.experts.iter().find(|other| other.id == *base) {
                None => return Err(format!("its base `{base}` is not an expert of this pool")),
                Some(ExpertSpec { kind: Kind::Adapter { .. }, .. }) => {
                    return Err(format!("its base `{base}` is an adapter itself"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn check_homes(&self) -> Result<(), PoolError> {
        for spec in &self.tiers {
            let usable = spec.capacity_bytes - spec.reserved_bytes;
            let homes = self.experts.iter().filter_map(|expert| expert.bytes.last_key_value());
            let needed = homes
                .filter(|(tier, _)| **tier == spec.tier)
                .fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
            if needed > usable {
                return Err(PoolError::Home { tier: spec.tier, usable, needed });
            }
        }
        Ok(())
    }
}
