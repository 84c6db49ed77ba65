//! The pools: whether their drivers tell where weights are, and whether requests reach their experts.

use std::collections::BTreeSet;
use std::time::Duration;

use experts::ExpertSpec;
use futures_util::{StreamExt, stream};
use tiers::driver::{Driver, DriverError, DriverSpec, ErrorKind, Inventory, Residence};
use tokio::time::{Instant, timeout_at};

use super::report::{Check, Section, counted, some_of};
use crate::config::PoolConfig;

/// Drivers that are asked at one time.
const AT_ONCE: usize = 16;
/// Names told at most.
const MOST: usize = 5;

/// Says which experts of pools no request reaches, as far as the file tells.
pub(super) fn registered(pools: &[PoolConfig], experts: &[ExpertSpec]) -> Vec<Check> {
    let known: BTreeSet<_> = experts.iter().map(|expert| &expert.id).collect();
    let unreached = pools.iter().filter_map(|pool| {
        // A base is there for its adapters, and need not take requests itself.
        let bases: BTreeSet<_> = pool.experts.iter().filter_map(|expert| expert.base.as_ref()).collect();
        let ids = pool.experts.iter().map(|expert| &expert.id);
        let missing: Vec<_> =
            ids.filter(|id| !known.contains(id) && !bases.contains(id)).map(ToString::to_string).collect();
        let detail = format!("not among the experts of this file: {}", some_of(missing.iter().map(String::as_str), MOST));
        let remedy = "register them under the same names, in the file or by `guildhall experts add`; no request \
                      reaches them before";
        (!missing.is_empty()).then(|| Section::Pools.warning(pool.id.as_str(), detail, remedy))
    });
    unreached.collect()
}

/// Asks every driver what is where.
pub(super) async fn checks(pools: &[PoolConfig], limit: Duration) -> Vec<Check> {
    let drivers = pools.iter().flat_map(|pool| pool.drivers.iter().map(move |spec| (pool, spec)));
    let looks = drivers.map(|(pool, spec)| Box::pin(look(pool, spec, limit)));
    let looked: Vec<Option<Check>> = stream::iter(looks).buffered(AT_ONCE).collect().await;
    looked.into_iter().flatten().collect()
}

/// Nothing for a driver that cannot be set up: the configuration's checks tell of that.
async fn look(pool: &PoolConfig, spec: &DriverSpec, limit: Duration) -> Option<Check> {
    let driver = Driver::new(spec.clone()).ok()?;
    let deadline = Instant::now() + limit;
    let late = |_| Err(DriverError { kind: ErrorKind::Gone, message: "it did not answer in time".into() });
    let told = timeout_at(deadline, driver.probe(deadline)).await.unwrap_or_else(late);
    Some(judge(pool.id.as_str(), driver.name(), told))
}

fn judge(pool: &str, kind: &str, told: Result<Inventory, DriverError>) -> Check {
    let inventory = match told {
        Ok(inventory) => inventory,
        Err(error) => {
            let detail = format!("{kind} cannot tell where its experts are: {error}");
            let remedy = "start its server, or correct the driver's settings; the pool's experts take no requests \
                          until it answers";
            return Section::Pools.failure(pool, detail, remedy);
        }
    };
    let unknown = inventory.experts.iter().filter(|(_, placed)| placed.residence == Residence::Unknown);
    let unknown: Vec<_> = unknown.map(|(id, _)| id.to_string()).collect();
    if !unknown.is_empty() {
        let detail = format!(
            "{kind} cannot tell where these are: {}",
            some_of(unknown.iter().map(String::as_str), MOST)
        );
        return Section::Pools.failure(pool, detail, "see whether their servers run and answer");
    }
    let mut detail = format!("{kind} answers for {}", counted(inventory.experts.len(), "expert"));
    if !inventory.strangers.is_empty() {
        detail = format!(
            "{detail}; its server also holds {}",
            some_of(inventory.strangers.iter().map(String::as_str), MOST)
        );
    }
    Section::Pools.ok(pool, detail)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use routing::ExpertId;
    use tiers::driver::{Evidence, Placed};
    use tiers::residency::Tier;

    use super::super::report::Status;
    use super::*;

    fn inventory(residence: Residence, strangers: &[&str]) -> Inventory {
        let placed = Placed { residence, evidence: Evidence::Server, bytes: BTreeMap::new() };
        Inventory {
            experts: BTreeMap::from([(ExpertId::new("a").unwrap(), placed)]),
            strangers: strangers.iter().map(ToString::to_string).collect(),
            free_bytes: None,
        }
    }

    #[test]
    fn a_driver_is_judged_by_what_it_tells() {
        let told = judge("gpu0", "ollama", Ok(inventory(Residence::In(Tier::Disk), &["phi4"])));
        assert_eq!((told.status, told.name.as_str()), (Status::Ok, "gpu0"));
        assert_eq!(told.detail, "ollama answers for 1 expert; its server also holds phi4");
        let unknown = judge("gpu0", "ollama", Ok(inventory(Residence::Unknown, &[])));
        assert_eq!(unknown.status, Status::Failure);
        assert!(unknown.detail.ends_with("these are: a"), "{}", unknown.detail);
        let error = DriverError { kind: ErrorKind::Gone, message: "connection refused".into() };
        let gone = judge("gpu0", "ollama", Err(error));
        assert_eq!(gone.status, Status::Failure);
        assert!(gone.detail.contains("connection refused") && gone.remedy.is_some(), "{}", gone.detail);
    }

    #[test]
    fn experts_that_nobody_registered_are_named_and_bases_are_not() {
        let pool: PoolConfig = serde_json::from_value(serde_json::json!({
            "id": "gpu0", "tiers": [], "links": [], "drivers": [],
            "experts": [
                {"id": "base", "bytes": {"hbm": 1}}, {"id": "adapter", "bytes": {"slot": 1}, "base": "base"},
                {"id": "known", "bytes": {"hbm": 1}},
            ],
        }))
        .unwrap();
        let known: ExpertSpec = serde_json::from_value(serde_json::json!({
            "id": "known", "backend": {"kind": "constant", "text": "hello"},
        }))
        .unwrap();
        let [check] = &registered(&[pool], &[known])[..] else { panic!("one check") };
        assert_eq!(check.status, Status::Warning);
        assert!(check.detail.ends_with("of this file: adapter"), "{}", check.detail);
    }
}
