use std::collections::BTreeMap;

use serde_json::json;

use super::super::ErrorKind;
use super::*;

/// What becomes of a model that is loaded: seconds and statuses.
type Course = &'static [(u64, &'static str)];

const LOADS: Course = &[(0, "loading"), (5, "loaded")];

/// A router with models `m-a` and `m-b`, which take their courses when loaded, and stop in 4 seconds when unloaded.
/// `kills` is removed by the next load. It answers as llama-server does, with the same words.
fn rig(courses: [Course; 2], kills: Option<&'static str>) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    let courses = BTreeMap::from([("m-a", courses[0]), ("m-b", courses[1])]);
    let mut models: BTreeMap<&str, Timeline> = BTreeMap::new();
    for name in courses.keys().copied() {
        models.entry(name).or_default().then(0, json!({"value": "unloaded", "args": []}));
    }
    let mut port = 50_000;
    network.serve("router:8080", move |call| {
        if call.line == "GET /models" {
            let list: Vec<_> =
                models.iter().map(|(id, model)| json!({"id": id, "status": model.now()})).collect();
            return Reply::json(200, &json!({"data": list}));
        }
        let name = call.body["model"].as_str().unwrap();
        let model = models.get_mut(name).unwrap();
        let value = model.now()["value"].clone();
        let runs = value == "loaded" || value == "loading" || value == "sleeping";
        let refused = |message: &str| {
            let error = json!({"code": 400, "message": message, "type": "invalid_request_error"});
            Reply::json(400, &json!({"error": error}))
        };
        match call.line.as_str() {
            "POST /v1/completions?autoload=false" if !runs => refused("model is not loaded"),
            "POST /v1/completions?autoload=false" => {
                if value == "sleeping" {
                    model.then(0, json!({"value": "loaded"}));
                }
                Reply::json(200, &json!({"choices": [{"text": "b"}]}))
            }
            "POST /models/unload" if !runs => refused("model is not running"),
            "POST /models/unload" => {
                // Until it has stopped, which takes as long as requests are under way, nothing shows that it will.
                // One that loads is killed, and has failed.
                let (after, failed) = if value == "loading" { (0, true) } else { (4, false) };
                model.then(after, ended(failed));
                Reply::json(200, &json!({"success": true}))
            }
            "POST /models/load" if runs => refused("model is already running"),
            line => {
                assert_eq!(line, "POST /models/load");
                port += 1;
                for (after, value) in courses[name] {
                    let status = match *value {
                        "failed" => ended(true),
                        "unloaded" => ended(false),
                        value => json!({"value": value, "args": ["--port", port]}),
                    };
                    model.then(*after, status);
                }
                if let Some(killed) = kills.filter(|killed| *killed != name) {
                    models.get_mut(killed).unwrap().then(0, ended(true));
                }
                Reply::json(200, &json!({"success": true}))
            }
        }
    });
    (driver(spec(), &network), network)
}

fn spec() -> Value {
    json!({"driver": {
        "kind": "llamacpp_router", "server": {"url": "http://router:8080"}, "models": {"a": "m-a", "b": "m-b"},
    }})
}

/// The status of a model whose instance has ended.
fn ended(failed: bool) -> Value {
    if failed {
        json!({"value": "unloaded", "failed": true, "exit_code": 1, "args": []})
    } else {
        json!({"value": "unloaded", "args": []})
    }
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
        [
            r#"POST /models/load {"model":"m-a"}"#,
            r#"POST /v1/completions?autoload=false {"max_tokens":1,"model":"m-a","prompt":"a"}"#,
            r#"POST /models/unload {"model":"m-a"}"#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_load_is_refused_with_its_exit_code() {
    // The second file is so wrong that nobody sees it load: also the second failure shows at once.
    let (driver, _network) = rig([&[(0, "loading"), (2, "failed")], &[(0, "failed")]], None);
    for expert in ["a", "b", "a", "b"] {
        let start = Instant::now();
        let error = promote(&driver, expert, Tier::Hbm).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.message.contains("exit code 1"), "{error}");
        assert!(start.elapsed() <= Duration::from_secs(2));
        assert_eq!(place(&driver, expert).await, (DISK, Evidence::Server));
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_that_was_asked_to_stop_is_not_there_though_it_is_listed_as_loaded() {
    let (driver, network) = rig([LOADS, LOADS], None);
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    let step = Step { expert: &id("a"), to: Tier::Disk, deadline };
    assert_eq!(driver.demote(step, 8_000).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await, (Residence::Moving, Evidence::Remembered));
    network.demands();
    // It is loaded again once it has stopped, and is another instance then.
    let start = Instant::now();
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap().placed.residence, HBM);
    assert_eq!(start.elapsed().as_secs(), 8);
    assert_eq!(place(&driver, "a").await, (HBM, Evidence::Server));
    assert_eq!(network.demands().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_another_loaded_again_is_there() {
    let (driver, network) = rig([&[(0, "loaded")], LOADS], None);
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    let step = Step { expert: &id("a"), to: Tier::Disk, deadline };
    driver.demote(step, 8_000).await.unwrap_err();
    sleep(Duration::from_secs(4)).await;
    let another = super::driver(spec(), &network);
    promote(&another, "a", Tier::Hbm).await.unwrap();
    assert_eq!(place(&driver, "a").await, (HBM, Evidence::Server));
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
    let (driver, network) = rig([&[(0, "loaded"), (1, "sleeping")], &[(0, "odd")]], None);
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(place(&driver, "a").await.0, DISK);
    // Its instance runs: it cannot be loaded, and wakes up for a request.
    network.demands();
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap().placed.residence, HBM);
    assert_eq!(network.demands().len(), 1);
    assert_eq!(promote(&driver, "b", Tier::Hbm).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "b").await.0, Residence::Unknown);
}
