use serde_json::json;

use super::super::{DriverSpec, ErrorKind};
use super::*;

fn paper() -> Driver {
    let spec = json!({"driver": {
        "kind": "sim",
        "experts": {"a": {"hbm": 10_000, "dram": 10_000, "disk": 5_000}, "b": {"hbm": 10_000, "dram": 10_000}},
        "links": [
            {"from": "disk", "to": "dram", "bytes_per_second": 1_000, "latency_us": 0, "concurrency": 1},
            {"from": "dram", "to": "hbm", "bytes_per_second": 5_000, "latency_us": 500_000, "concurrency": 1},
        ],
        "frees_after_ms": 1_500,
    }});
    driver(spec, &FakeNetwork::default())
}

#[tokio::test(start_paused = true)]
async fn bytes_take_their_time_and_say_that_they_are_simulated() {
    let driver = paper();
    let start = Instant::now();
    let placed = promote(&driver, "a", Tier::Hbm).await.unwrap().placed;
    // 10 s from the disk, then 2 s and the latency.
    assert_eq!(start.elapsed(), Duration::from_millis(12_500));
    assert_eq!(placed.residence, Residence::In(Tier::Hbm));
    assert_eq!(placed.bytes[&Tier::Hbm], (10_000, crate::residency::Source::Simulated));
    let start = Instant::now();
    demote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(1_500));
    assert_eq!(place(&driver, "a").await.0, Residence::In(Tier::Dram));
}

#[tokio::test(start_paused = true)]
async fn a_link_carries_one_move_at_a_time() {
    let driver = paper();
    promote(&driver, "a", Tier::Dram).await.unwrap();
    let start = Instant::now();
    let (first, second) = tokio::join!(promote(&driver, "a", Tier::Hbm), promote(&driver, "b", Tier::Hbm));
    first.unwrap();
    second.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_move_goes_on_when_whoever_asked_has_left() {
    let driver = paper();
    let deadline = Instant::now() + Duration::from_secs(3);
    let error = driver.promote(Step { expert: &id("a"), to: Tier::Dram, deadline }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await.0, Residence::Moving);
    sleep(Duration::from_secs(7)).await;
    assert_eq!(place(&driver, "a").await.0, Residence::In(Tier::Dram));
}

#[test]
fn an_expert_needs_a_way_between_its_tiers() {
    let spec = json!({"driver": {"kind": "sim", "experts": {"a": {"hbm": 1, "disk": 1}}, "links": []}});
    let spec: DriverSpec = serde_json::from_value(spec).unwrap();
    let error = Driver::new(spec).err().unwrap();
    assert!(error.message.contains("from disk to hbm"), "{error}");
}
