use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use routing::ExpertId;
use serde::{Deserialize, Deserializer, Serialize};
use tiers::driver::{Driver, DriverSpec};
use tiers::owner::{Pool, Setup, Silent, Timing, Watch};
use tiers::residency::{ExpertSpec, Kind, LinkSpec, Policy, PoolSpec, Source, Tier, TierSpec};
use utoipa::ToSchema;

use crate::problem::Problem;

/// What a batch is taken to last until some were measured.
const BATCH_US: u64 = 1_000_000;

/// What stands beside the names of pools in paths of the admin API.
const RESERVED: [&str; 2] = ["leases", "outlook"];

/// Experts that share one accelerator, of which not all fit at a time. Docs: docs/residency.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Its name.
    #[schema(value_type = String)]
    pub id: ExpertId,
    /// Where weights can be, each tier once.
    pub tiers: Vec<TierConfig>,
    /// The ways between tiers.
    pub links: Vec<LinkSpec>,
    /// Whose weights these are. Those that take requests are in `experts` too, under the same names.
    pub experts: Vec<PoolExpert>,
    /// Who moves them. The first that has an expert moves it.
    pub drivers: Vec<DriverSpec>,
    /// How requests are ordered and experts chosen.
    #[serde(default)]
    pub policy: Policy,
    /// How long transitions and probes may take.
    #[serde(default)]
    pub timing: Timing,
}

/// A tier of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierConfig {
    /// Which.
    pub tier: Tier,
    /// All its bytes. A `slot` counts places instead, each adapter taking 1.
    #[schema(value_type = String, example = "80GiB")]
    pub capacity: Size,
    /// Bytes that experts never get: caches of keys and values, activations, what sleeping engines keep.
    #[serde(default)]
    #[schema(value_type = String, example = "12GiB")]
    pub reserved: Size,
    /// Where the capacity comes from; it is shown beside every figure.
    #[serde(default = "declared")]
    pub source: Source,
}

fn declared() -> Source {
    Source::Declared
}

/// An expert of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolExpert {
    /// Its name.
    #[schema(value_type = String)]
    pub id: ExpertId,
    /// The tiers that it can be in, with its bytes there. It answers from the nearest; the farthest always has it.
    #[schema(value_type = BTreeMap<Tier, String>)]
    pub bytes: BTreeMap<Tier, Size>,
    /// The expert of this pool that it is an adapter of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub base: Option<ExpertId>,
    /// How long an answer takes until some were measured, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_ms: Option<u64>,
}

/// A number of bytes: a number, or text with a unit, such as `13.5GB` or `80GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Size(pub u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Number(u64),
            Text(String),
        }
        match Given::deserialize(deserializer) {
            Ok(Given::Number(bytes)) => Ok(Self(bytes)),
            Ok(Given::Text(text)) => Self::parse(&text).ok_or_else(|| {
                let message = format!(
                    "`{text}` is no size; write a number of bytes, or one with a unit: 13.5GB, 80GiB"
                );
                serde::de::Error::custom(message)
            }),
            Err(_) => {
                let message = "must be a number of bytes, or text with a unit: 13.5GB, 80GiB";
                Err(serde::de::Error::custom(message))
            }
        }
    }
}

impl Size {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: f64 = number.parse().ok()?;
        let unit = match unit.trim() {
            "" | "B" => 1.0,
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return None,
        };
        let bytes = (number * unit).round();
        // Beyond this a float does not tell bytes apart.
        (bytes < 9e15).then_some(Self(bytes as u64))
    }
}

impl PoolConfig {
    /// As the pool's owner takes it.
    pub fn spec(&self) -> PoolSpec {
        let tiers = self.tiers.iter().map(|tier| TierSpec {
            tier: tier.tier,
            capacity_bytes: tier.capacity.0,
            reserved_bytes: tier.reserved.0,
            source: tier.source,
        });
        let experts = self.experts.iter().map(|expert| ExpertSpec {
            id: expert.id.clone(),
            kind: expert.base.clone().map_or(Kind::Full, |base| Kind::Adapter { base }),
            bytes: expert.bytes.iter().map(|(tier, size)| (*tier, size.0)).collect(),
            // Drivers warm up before they say that an expert is there.
            warm_us: 0,
            batch_us: expert.answer_ms.map_or(BATCH_US, |ms| ms.saturating_mul(1000)),
        });
        PoolSpec {
            tiers: tiers.collect(),
            links: self.links.clone(),
            experts: experts.collect(),
            policy: self.policy.clone(),
            frees_at_once: false,
        }
    }

    /// The pool. Its drivers are not asked anything yet.
    ///
    /// # Errors
    /// What is wrong, by its place below the pool.
    pub fn pool(&self, now_ms: u64, watch: Arc<dyn Watch>) -> Result<Pool, Problem> {
        let drivers = self.drivers.iter().enumerate().map(|(i, spec)| {
            let driver = Driver::new(spec.clone());
            driver.map_err(|error| Problem::at(format!("drivers[{i}]"), error.to_string()))
        });
        let setup = Setup {
            id: self.id.as_str().into(),
            spec: self.spec(),
            drivers: drivers.collect::<Result<_, _>>()?,
            timing: self.timing,
            watch,
            now_ms,
        };
        Pool::new(setup).map_err(|error| Problem::at("", error.to_string()))
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<_> = self.pool(0, Arc::new(Silent)).err().into_iter().collect();
        let Timing { promote_timeout_s, demote_timeout_s, probe_timeout_s, reconcile_every_s, retry_max_s } =
            self.timing;
        for (name, seconds) in [
            ("promote_timeout_s", promote_timeout_s),
            ("demote_timeout_s", demote_timeout_s),
            ("probe_timeout_s", probe_timeout_s),
            ("reconcile_every_s", reconcile_every_s),
            ("retry_max_s", retry_max_s),
        ] {
            if !(1..=86_400).contains(&seconds) {
                problems.push(Problem::at(format!("timing.{name}"), "must be from 1 to 86400 seconds"));
            }
        }
        problems
    }
}

/// What is wrong with pools, by its place.
pub(super) fn problems(pools: &[PoolConfig]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut experts = BTreeSet::new();
    for (i, pool) in pools.iter().enumerate() {
        let place = format!("pools[{i}]");
        problems.extend(pool.problems().into_iter().map(|problem| problem.below(&place)));
        if RESERVED.contains(&pool.id.as_str()) {
            let message = format!("`{}` means something else in the admin API; give another name", pool.id);
            problems.push(Problem::at(format!("{place}.id"), message));
        }
        if pools[..i].iter().any(|other| other.id == pool.id) {
            problems.push(Problem::at(format!("{place}.id"), format!("pool `{}` is defined twice", pool.id)));
        }
        for (j, expert) in pool.experts.iter().enumerate() {
            if !experts.insert(&expert.id) && !pool.experts[..j].iter().any(|other| other.id == expert.id) {
                let message = format!("expert `{}` is in another pool already", expert.id);
                problems.push(Problem::at(format!("{place}.experts[{j}].id"), message));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let size = |text: &str| Size::parse(text).map(|size| size.0);
        assert_eq!(size("1024"), Some(1024));
        assert_eq!(size("13.5GB"), Some(13_500_000_000));
        assert_eq!(size("80 GiB"), Some(80 << 30));
        for wrong in ["", "GB", "-1GB", "1.2.3GB", "10 gigabytes", "1e300", "99999999TB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
