use std::collections::BTreeMap;

use serde_json::json;

use super::super::ErrorKind;
use super::*;

/// A proxy with one model at a time. A load takes 5 s, a stop 3 s, and both are answered then; a request for a model that is stopping never ends.
fn rig() -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    let mut models: BTreeMap<String, Timeline> = BTreeMap::new();
    network.serve("swap:8080", move |call| {
        if call.line == "GET /running" {
            let here = models.iter().filter(|(_, model)| model.now() != "stopped");
            let list: Vec<_> =
                here.map(|(name, model)| json!({"model": name, "state": model.now()})).collect();
            return Reply::json(200, &json!({"running": list}));
        }
        if let Some(name) = call.line.strip_prefix("POST /api/models/unload/") {
            let model = models.get_mut(name).unwrap();
            model.then(0, json!("stopping"));
            model.then(3, json!("stopped"));
            return Reply::text(200, "OK").after(3);
        }
        let path = call.line.strip_prefix("GET /upstream/").unwrap();
        let (name, rest) = path.split_once('/').unwrap();
        assert_eq!(rest, "health");
        if name == "broken" {
            return Reply::text(502, "upstream command exited prematurely");
        }
        if models.get(name).is_some_and(|model| model.now() == "stopping") {
            return Reply::text(200, "").after(1_000_000);
        }
        for model in models.values_mut() {
            model.then(0, json!("stopped"));
        }
        let model = models.entry(name.to_owned()).or_default();
        model.then(0, json!("starting"));
        model.then(5, json!("ready"));
        Reply::text(200, "ok").after(5)
    });
    let spec = json!({"driver": {
        "kind": "llama_swap", "server": {"url": "http://swap:8080"},
        "models": {"a": "m-a", "b": "m-b", "broken": "broken"},
    }});
    (driver(spec, &network), network)
}

#[tokio::test(start_paused = true)]
async fn a_load_swaps_another_model_out_and_names_it() {
    let (driver, network) = rig();
    assert!(driver.caps().exclusive);
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert_eq!(promote(&driver, "b", Tier::Hbm).await.unwrap().evicted, [id("a")]);
    assert_eq!(place(&driver, "a").await, (Residence::In(Tier::Disk), Evidence::Server));
    assert_eq!(network.demands(), ["GET /upstream/m-a/health", "GET /upstream/m-b/health"]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_stops_is_waited_for_before_it_is_asked_for_again() {
    let (driver, _network) = rig();
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    let error = driver.demote(Step { expert: &id("a"), to: Tier::Disk, deadline }, 0).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await.0, Residence::Moving);
    let start = Instant::now();
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 7);
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap().placed.residence, Residence::In(Tier::Disk));
}

#[tokio::test(start_paused = true)]
async fn a_model_that_does_not_start_is_refused_with_what_the_proxy_says() {
    let (driver, _network) = rig();
    let error = promote(&driver, "broken", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("exited prematurely"), "{error}");
}
