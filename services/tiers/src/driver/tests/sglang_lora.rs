use std::collections::BTreeSet;

use serde_json::json;

use super::super::ErrorKind;
use super::*;

/// An engine that keeps `most` adapters, drops the first over that, and fails the first `fails` unloads half way: the
/// adapter is listed no more, and its name is blocked until the unload is repeated.
fn engine(network: &FakeNetwork, most: usize, mut fails: u32) {
    let mut loaded: BTreeSet<String> = BTreeSet::new();
    let mut blocked: BTreeSet<String> = BTreeSet::new();
    network.serve("sgl:30000", move |call| {
        if call.line == "GET /v1/models" {
            let base = json!({"id": "base", "parent": null});
            let adapters = loaded.iter().map(|name| json!({"id": name, "parent": "base"}));
            let all: Vec<_> = std::iter::once(base).chain(adapters).collect();
            return Reply::json(200, &json!({"data": all}));
        }
        let name = call.body["lora_name"].as_str().unwrap().to_owned();
        // Refusals that do not reach the scheduler list nothing.
        let unlisted = |error: &str| {
            Reply::json(400, &json!({"success": false, "error_message": error, "loaded_adapters": null}))
        };
        let says = |ok: bool, loaded: &BTreeSet<String>| {
            let adapters: serde_json::Map<String, Value> =
                loaded.iter().map(|name| (name.clone(), json!("/"))).collect();
            let error = if ok { Value::Null } else { json!("no") };
            let body = json!({"success": ok, "error_message": error, "loaded_adapters": adapters});
            Reply::json(if ok { 200 } else { 400 }, &body)
        };
        if call.line == "POST /unload_lora_adapter" {
            if !loaded.remove(&name) && !blocked.remove(&name) {
                return unlisted(&format!("LoRA with name {name} does not exist."));
            }
            if fails > 0 {
                fails -= 1;
                blocked.insert(name);
                return says(false, &loaded);
            }
            return says(true, &loaded);
        }
        assert_eq!((call.line.as_str(), &call.body["pinned"]), ("POST /load_lora_adapter", &json!(false)));
        if blocked.contains(&name) {
            return unlisted(&format!("LoRA adapter '{name}' has an incomplete unload."));
        }
        if call.body["lora_path"] == "/none" || loaded.contains(&name) {
            return says(false, &loaded);
        }
        if loaded.len() >= most {
            loaded.pop_first();
        }
        loaded.insert(name);
        says(true, &loaded)
    });
}

/// A driver that takes the engine to keep two adapters.
fn rig(most: usize, fails: u32) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    engine(&network, most, fails);
    (driver(spec(), &network), network)
}

fn spec() -> Value {
    let adapter = |name: &str, path: &str| json!({"name": name, "path": path});
    json!({"driver": {
        "kind": "sglang_lora", "server": {"url": "http://sgl:30000"}, "max_loaded_loras": 2,
        "adapters": {"a": adapter("l-a", "/a"), "b": adapter("l-b", "/b"), "c": adapter("l-c", "/none")},
    }})
}

const DRAM: Residence = Residence::In(Tier::Dram);
const DISK: Residence = Residence::In(Tier::Disk);

#[tokio::test(start_paused = true)]
async fn the_engine_says_what_is_loaded_also_after_a_restart() {
    let (driver, network) = rig(2, 0);
    assert_eq!(place(&driver, "a").await, (DISK, Evidence::Server));
    promote(&driver, "a", Tier::Dram).await.unwrap();
    promote(&driver, "b", Tier::Dram).await.unwrap();
    assert_eq!(place(&driver, "a").await, (DRAM, Evidence::Server));
    let error = promote(&driver, "c", Tier::Dram).await.unwrap_err();
    assert!(error.message.contains("unload one first"), "{error}");
    demote(&driver, "b", Tier::Disk).await.unwrap();
    assert_eq!(place(&driver, "b").await, (DISK, Evidence::Server));
    engine(&network, 2, 0);
    assert_eq!(place(&driver, "a").await, (DISK, Evidence::Server));
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_the_engine_drops_is_named() {
    let (driver, _network) = rig(1, 0);
    promote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(promote(&driver, "b", Tier::Dram).await.unwrap().evicted, [id("a")]);
}

#[tokio::test(start_paused = true)]
async fn an_unload_that_failed_half_way_is_unknown_until_it_is_repeated() {
    let (driver, network) = rig(2, 2);
    promote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await, (Residence::Unknown, Evidence::Remembered));
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(promote(&driver, "a", Tier::Dram).await.unwrap().placed.residence, DRAM);
    // A restarted engine does not know the name.
    engine(&network, 2, 1);
    promote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap_err().kind, ErrorKind::HalfDone);
    engine(&network, 2, 0);
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap().placed.residence, DISK);
}

#[tokio::test(start_paused = true)]
async fn an_unload_that_another_left_half_way_is_repeated_before_the_next_load() {
    let (driver, network) = rig(2, 1);
    promote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap_err().kind, ErrorKind::HalfDone);
    let another = super::driver(spec(), &network);
    assert_eq!(promote(&another, "a", Tier::Dram).await.unwrap().placed.residence, DRAM);
}

#[tokio::test(start_paused = true)]
async fn a_missing_folder_is_refused() {
    let (driver, _network) = rig(2, 0);
    assert_eq!(promote(&driver, "c", Tier::Dram).await.unwrap_err().kind, ErrorKind::Refused);
}
