use std::collections::BTreeSet;

use serde_json::json;

use super::super::ErrorKind;
use super::*;

/// An engine that keeps `most` adapters, drops the first over that, and fails the first `fails` unloads half way: the
/// adapter is gone, and its name blocked until the unload is repeated.
fn engine(network: &FakeNetwork, most: usize, mut fails: u32) {
    let mut loaded: BTreeSet<String> = BTreeSet::new();
    let mut blocked: BTreeSet<String> = BTreeSet::new();
    network.serve("sgl:30000", move |call| {
        let name = call.body["lora_name"].as_str().unwrap().to_owned();
        let says = |ok: bool, loaded: &BTreeSet<String>| {
            let adapters: serde_json::Map<String, Value> =
                loaded.iter().map(|name| (name.clone(), json!("/"))).collect();
            let error = if ok { Value::Null } else { json!("no") };
            let body = json!({"success": ok, "error_message": error, "loaded_adapters": adapters});
            Reply::json(if ok { 200 } else { 400 }, &body)
        };
        if call.line == "POST /unload_lora_adapter" {
            if !loaded.contains(&name) {
                let was_blocked = blocked.remove(&name);
                return says(was_blocked, &loaded);
            }
            loaded.remove(&name);
            if fails > 0 {
                fails -= 1;
                blocked.insert(name);
                return says(false, &loaded);
            }
            return says(true, &loaded);
        }
        assert_eq!((call.line.as_str(), &call.body["pinned"]), ("POST /load_lora_adapter", &json!(false)));
        if call.body["lora_path"] == "/none" || blocked.contains(&name) || loaded.contains(&name) {
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
    let adapter = |name: &str, path: &str| json!({"name": name, "path": path});
    let spec = json!({"driver": {
        "kind": "sglang_lora", "server": {"url": "http://sgl:30000"}, "max_loaded_loras": 2,
        "adapters": {"a": adapter("l-a", "/a"), "b": adapter("l-b", "/b"), "c": adapter("l-c", "/none")},
    }});
    (driver(spec, &network), network)
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
async fn an_unload_that_failed_half_way_is_repeated_before_the_next_load() {
    let (driver, _network) = rig(2, 1);
    promote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await, (DISK, Evidence::Server));
    assert_eq!(promote(&driver, "a", Tier::Dram).await.unwrap().placed.residence, DRAM);
}

#[tokio::test(start_paused = true)]
async fn a_missing_folder_is_refused() {
    let (driver, _network) = rig(2, 0);
    assert_eq!(promote(&driver, "c", Tier::Dram).await.unwrap_err().kind, ErrorKind::Refused);
}
