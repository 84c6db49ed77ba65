use std::collections::BTreeMap;

use serde_json::json;

use super::super::ErrorKind;
use super::*;
use crate::residency::Source;

/// An Ollama where loads take 3 s and memory is back 2 s after an unload was answered. `near` of 1,000 bytes fit on
/// the accelerator, and it keeps `most` models.
fn rig(near: u64, most: usize) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    let mut loaded: BTreeMap<String, Timeline> = BTreeMap::new();
    network.serve("ollama:11434", move |call| {
        if call.line == "GET /api/ps" {
            let here = loaded.iter().filter(|(_, model)| model.now() == true);
            let list: Vec<_> =
                here.map(|(name, _)| json!({"name": name, "size": 1_000, "size_vram": near})).collect();
            return Reply::json(200, &json!({"models": list}));
        }
        assert_eq!((call.line.as_str(), &call.body["stream"]), ("POST /api/generate", &json!(false)));
        // Its list leaves the usual namespace out.
        let name = call.body["model"].as_str().unwrap().to_owned();
        assert!(!name.contains("library/"));
        if name == "none:latest" {
            return Reply::json(404, &json!({"error": "model 'none' not found"}));
        }
        if call.body["keep_alive"] == 0 {
            loaded.entry(name).or_default().then(2, json!(false));
            return Reply::json(200, &json!({"done": true, "done_reason": "unload"}));
        }
        let here = loaded.iter().filter(|(_, model)| model.now() == true).count();
        if most == 0 {
            return Reply::json(503, &json!({"error": "server busy, please try again."}));
        }
        if here >= most {
            for model in loaded.values_mut() {
                model.then(0, json!(false));
            }
        }
        loaded.entry(name).or_default().then(3, json!(true));
        Reply::json(200, &json!({"done": true, "done_reason": "load"})).after(3)
    });
    let spec = json!({"driver": {
        "kind": "ollama", "server": {"url": "http://ollama:11434"},
        "models": {"a": "library/M-A", "b": "m-b:7b", "none": "none"},
    }});
    (driver(spec, &network), network)
}

#[tokio::test(start_paused = true)]
async fn bytes_are_measured_and_free_when_the_list_says_so() {
    let (driver, network) = rig(1_000, 3);
    assert!(driver.caps().measures && driver.caps().exclusive);
    let placed = promote(&driver, "a", Tier::Hbm).await.unwrap().placed;
    assert_eq!(placed.residence, Residence::In(Tier::Hbm));
    assert_eq!(placed.bytes, BTreeMap::from([(Tier::Hbm, (1_000, Source::Measured))]));
    let start = Instant::now();
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!(
        network.demands(),
        [
            concat!(
                r#"POST /api/generate {"keep_alive":-1,"model":"m-a:latest","options":{"num_predict":1},"#,
                r#""prompt":"a","raw":true,"stream":false}"#
            ),
            r#"POST /api/generate {"keep_alive":0,"model":"m-a:latest","stream":false}"#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_model_that_fits_in_part_is_half_done_and_both_parts_are_counted() {
    let (driver, _network) = rig(600, 3);
    let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert!(error.message.contains("600 of 1000 bytes"), "{error}");
    let placed = probe(&driver).await.placed(&id("a"));
    assert_eq!(placed.residence, Residence::In(Tier::Dram));
    let parts = [(Tier::Hbm, (600, Source::Measured)), (Tier::Dram, (400, Source::Measured))];
    assert_eq!(placed.bytes, BTreeMap::from(parts));
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(place(&driver, "a").await.0, Residence::In(Tier::Disk));
}

#[tokio::test(start_paused = true)]
async fn what_the_server_removes_to_make_room_is_named() {
    let (driver, _network) = rig(1_000, 1);
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert_eq!(promote(&driver, "b", Tier::Hbm).await.unwrap().evicted, [id("a")]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_busy_and_an_unknown_model_is_refused() {
    let (driver, _network) = rig(1_000, 0);
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap_err().kind, ErrorKind::Busy);
    let error = promote(&driver, "none", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("not found"), "{error}");
}
