use std::collections::BTreeMap;

use serde_json::json;

use super::super::ErrorKind;
use super::*;

/// What becomes of a model that is loaded: seconds and statuses.
type Course = &'static [(u64, &'static str)];

const LOADS: Course = &[(0, "loading"), (5, "loaded")];

/// A router with models `m-a` and `m-b`, which take their courses when loaded. `kills` is removed by the next load.
fn rig(courses: [Course; 2], kills: Option<&'static str>) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    let courses = BTreeMap::from([("m-a", courses[0]), ("m-b", courses[1])]);
    let mut models: BTreeMap<&str, Timeline> = BTreeMap::new();
    for name in courses.keys().copied() {
        models.entry(name).or_default().then(0, json!({"value": "unloaded"}));
    }
    network.serve("router:8080", move |call| {
        if call.line == "GET /models" {
            let list: Vec<_> =
                models.iter().map(|(id, model)| json!({"id": id, "status": model.now()})).collect();
            return Reply::json(200, &json!({"data": list}));
        }
        let name = call.body["model"].as_str().unwrap();
        if call.line == "POST /models/unload" {
            // It stops for as long as requests are under way, at most ten seconds.
            models.get_mut(name).unwrap().then(4, json!({"value": "unloaded"}));
            return Reply::json(200, &json!({"success": true}));
        }
        assert_eq!(call.line, "POST /models/load");
        for (after, value) in courses[name] {
            let status = match *value {
                "failed" => json!({"value": "unloaded", "failed": true, "exit_code": 1}),
                value => json!({"value": value}),
            };
            models.get_mut(name).unwrap().then(*after, status);
        }
        if let Some(killed) = kills.filter(|killed| *killed != name) {
            models.get_mut(killed).unwrap().then(0, json!({"value": "unloaded"}));
        }
        Reply::json(200, &json!({"success": true}))
    });
    let spec = json!({"driver": {
        "kind": "llamacpp_router", "server": {"url": "http://router:8080"}, "models": {"a": "m-a", "b": "m-b"},
    }});
    (driver(spec, &network), network)
}

const HBM: Residence = Residence::In(Tier::Hbm);
const DISK: Residence = Residence::In(Tier::Disk);

#[tokio::test(start_paused = true)]
async fn accepted_is_not_loaded() {
    let (driver, network) = rig([LOADS, LOADS], None);
    let start = Instant::now();
    let outcome = promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert_eq!((start.elapsed().as_secs(), outcome.placed.residence), (5, HBM));
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    let start = Instant::now();
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap().placed.residence, DISK);
    assert_eq!(start.elapsed().as_secs(), 4);
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(
        network.demands(),
        [r#"POST /models/load {"model":"m-a"}"#, r#"POST /models/unload {"model":"m-a"}"#]
    );
}

#[tokio::test(start_paused = true)]
async fn a_model_that_runs_out_of_memory_is_refused_with_its_exit_code() {
    let (driver, _network) = rig([&[(0, "loading"), (2, "failed")], LOADS], None);
    for _ in 0..2 {
        let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.message.contains("exit code 1"), "{error}");
        assert_eq!(place(&driver, "a").await, (DISK, Evidence::Server));
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_never_ends_is_half_done_and_can_be_taken_back() {
    let (driver, _network) = rig([&[(0, "loading")], LOADS], None);
    let start = Instant::now();
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(start.elapsed().as_secs(), 30);
    assert_eq!(place(&driver, "a").await, (Residence::Moving, Evidence::Server));
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap().placed.residence, DISK);
}

#[tokio::test(start_paused = true)]
async fn a_busy_model_that_is_killed_to_make_room_is_named() {
    let (driver, _network) = rig([LOADS, LOADS], Some("m-a"));
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    let outcome = promote(&driver, "b", Tier::Hbm).await.unwrap();
    assert_eq!(outcome.evicted, [id("a")]);
    assert_eq!(place(&driver, "a").await.0, DISK);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_killed_while_it_loads_may_be_tried_again() {
    let (driver, _network) = rig([&[(0, "loading"), (2, "unloaded")], LOADS], None);
    let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Busy);
    assert!(error.message.contains("--models-max 0"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_sleeping_model_holds_no_memory() {
    let (driver, _network) = rig([&[(0, "loaded"), (1, "sleeping")], &[(0, "odd")]], None);
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(place(&driver, "a").await.0, DISK);
    assert_eq!(promote(&driver, "b", Tier::Hbm).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "b").await.0, Residence::Unknown);
}
