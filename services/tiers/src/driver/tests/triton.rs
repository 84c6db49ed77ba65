use serde_json::json;

use super::super::ErrorKind;
use super::*;

/// A server with version 1 of `m a`, whose unload waits 4 s for requests. `explicit`: its mode.
fn rig(explicit: bool) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    let mut model = Timeline::default();
    network.serve("triton:8000", move |call| {
        if call.line == "POST /v2/repository/index" {
            assert_eq!(call.body, json!({"ready": false}));
            let mut entry = json!({"name": "m a", "version": "1"});
            if !model.now().is_null() {
                entry["state"] = model.now();
            }
            let old = json!({"name": "m a", "version": "0", "state": "UNAVAILABLE", "reason": "unloaded"});
            return Reply::json(
                200,
                &json!([old, entry, {"name": "other", "version": "1", "state": "READY"}]),
            );
        }
        if !explicit {
            let error = "explicit model load / unload is not allowed if polling is enabled";
            return Reply::json(503, &json!({"error": error}));
        }
        if call.line == "POST /v2/repository/models/m%20a/load" {
            model.then(0, json!("LOADING"));
            model.then(6, json!("READY"));
            return Reply::text(200, "").after(6);
        }
        assert_eq!(call.line, "POST /v2/repository/models/m%20a/unload");
        assert_eq!(call.body, json!({"parameters": {"unload_dependents": true}}));
        model.then(0, json!("UNLOADING"));
        model.then(4, json!("UNAVAILABLE"));
        Reply::text(200, "")
    });
    let spec = json!({"driver": {
        "kind": "triton", "server": {"url": "http://triton:8000"}, "models": {"a": "m a"},
        "unload_dependents": true,
    }});
    (driver(spec, &network), network)
}

#[tokio::test(start_paused = true)]
async fn an_unload_ends_when_the_index_says_so() {
    let (driver, _network) = rig(true);
    assert_eq!(place(&driver, "a").await, (Residence::In(Tier::Disk), Evidence::Server));
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    let inventory = probe(&driver).await;
    assert_eq!(inventory.placed(&id("a")).residence, Residence::In(Tier::Hbm));
    assert_eq!(inventory.strangers, ["other"]);
    let start = Instant::now();
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_load_past_its_deadline_shows_in_the_next_probe() {
    let (driver, _network) = rig(true);
    let deadline = Instant::now() + Duration::from_secs(2);
    let error = driver.promote(Step { expert: &id("a"), to: Tier::Hbm, deadline }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await.0, Residence::Moving);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(place(&driver, "a").await.0, Residence::In(Tier::Hbm));
}

#[tokio::test(start_paused = true)]
async fn the_wrong_mode_says_how_to_start_the_server() {
    let (driver, _network) = rig(false);
    let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("--model-control-mode=explicit"), "{error}");
}
