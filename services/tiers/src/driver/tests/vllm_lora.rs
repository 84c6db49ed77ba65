use std::collections::BTreeSet;

use serde_json::json;

mod copies;

use super::super::{DriverSpec, ErrorKind};
use super::*;

/// An engine that has `registered`; the adapter of `c` has no folder.
fn engine(network: &FakeNetwork, registered: &[&str]) {
    let mut registered: BTreeSet<String> = registered.iter().map(|name| (*name).to_owned()).collect();
    network.serve("vllm:8000", move |call| {
        let name = call.body["lora_name"].as_str().unwrap_or_default().to_owned();
        match call.line.as_str() {
            "GET /v1/models" => {
                let base = json!({"id": "base", "parent": null});
                let adapters = registered.iter().map(|name| json!({"id": name, "parent": "base"}));
                Reply::json(200, &json!({"data": std::iter::once(base).chain(adapters).collect::<Vec<_>>()}))
            }
            "POST /v1/load_lora_adapter" if call.body["lora_path"] == "/none" => {
                Reply::text(404, "no such path")
            }
            "POST /v1/load_lora_adapter" if !registered.insert(name.clone()) => {
                Reply::text(400, "The lora adapter has already been loaded.")
            }
            "POST /v1/unload_lora_adapter" if !registered.remove(&name) => Reply::text(404, "not found"),
            "POST /v1/completions" => {
                assert!(registered.contains(call.body["model"].as_str().unwrap()));
                Reply::json(200, &json!({"choices": []})).after(2)
            }
            _ => Reply::text(200, "Success"),
        }
    });
}

fn rig(registered: &[&str]) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    engine(&network, registered);
    let adapter = |name: &str, path: &str| json!({"name": name, "path": path});
    let spec = json!({"driver": {
        "kind": "vllm_lora", "server": {"url": "http://vllm:8000"}, "max_loras": 1, "max_cpu_loras": 2,
        "adapters": {"a": adapter("l-a", "/a"), "b": adapter("l-b", "/b"), "c": adapter("l-c", "/none")},
    }});
    (driver(spec, &network), network)
}

const SLOT: Residence = Residence::In(Tier::Slot);
const DRAM: Residence = Residence::In(Tier::Dram);
const DISK: Residence = Residence::In(Tier::Disk);

#[tokio::test(start_paused = true)]
async fn one_token_brings_an_adapter_to_its_slot() {
    let (driver, network) = rig(&[]);
    assert_eq!(place(&driver, "a").await, (DISK, Evidence::Server));
    promote(&driver, "a", Tier::Slot).await.unwrap();
    assert_eq!(place(&driver, "a").await, (SLOT, Evidence::Remembered));
    promote(&driver, "b", Tier::Dram).await.unwrap();
    assert_eq!(place(&driver, "b").await, (DRAM, Evidence::Assumed));
    demote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(place(&driver, "a").await.0, DRAM);
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(
        network.demands(),
        [
            r#"POST /v1/load_lora_adapter {"load_inplace":false,"lora_name":"l-a","lora_path":"/a"}"#,
            r#"POST /v1/completions {"max_tokens":1,"model":"l-a","prompt":"a"}"#,
            r#"POST /v1/load_lora_adapter {"load_inplace":false,"lora_name":"l-b","lora_path":"/b"}"#,
            r#"POST /v1/unload_lora_adapter {"lora_name":"l-a"}"#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn more_than_the_engine_keeps_is_refused_before_it_drops_one_silently() {
    let (driver, network) = rig(&["stranger"]);
    promote(&driver, "a", Tier::Slot).await.unwrap();
    network.demands();
    assert_eq!(probe(&driver).await.strangers, ["stranger"]);
    let error = promote(&driver, "b", Tier::Dram).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("unload one first"), "{error}");
    let error = promote(&driver, "b", Tier::Slot).await.unwrap_err();
    assert!(error.message.contains("all 1 slots"), "{error}");
    assert!(network.demands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_missing_folder_is_refused() {
    let (driver, _network) = rig(&[]);
    let error = promote(&driver, "c", Tier::Dram).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("no such path"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_forgets_every_adapter() {
    let (driver, network) = rig(&[]);
    promote(&driver, "a", Tier::Slot).await.unwrap();
    engine(&network, &[]);
    assert_eq!(place(&driver, "a").await, (DISK, Evidence::Server));
    assert_eq!(demote(&driver, "a", Tier::Disk).await.unwrap().placed.residence, DISK);
    promote(&driver, "b", Tier::Slot).await.unwrap();
}

#[test]
fn the_hosts_memory_holds_the_slots_too() {
    let spec = json!({"driver": {
        "kind": "vllm_lora", "server": {"url": "http://v"}, "max_loras": 4, "max_cpu_loras": 2, "adapters": {},
    }});
    let spec: DriverSpec = serde_json::from_value(spec).unwrap();
    assert!(
        Driver::new(spec).err().unwrap().message.contains("max_cpu_loras 2 must be at least max_loras 4")
    );
}
