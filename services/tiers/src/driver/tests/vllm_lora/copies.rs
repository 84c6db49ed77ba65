//! Adapters that rest as compressed copies.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView};
use tempfile::TempDir;

use super::*;
use crate::residency::Source;
use crate::ternary::folder::compress_file;
use crate::ternary::{Options, Which};

const WEIGHTS: &str = "served/adapter_model.safetensors";

/// A folder with a compressed adapter, `copy`.
fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (1..=64_u8).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, vec![8, 8], &bytes).unwrap();
    let weights = safetensors::serialize([("q.lora_A.weight", view)], None::<HashMap<_, _>>).unwrap();
    fs::write(home.path().join("w.safetensors"), weights).unwrap();
    fs::write(home.path().join("adapter_config.json"), "{}").unwrap();
    let options = Options { density: 0.2, tensors: Which::Lora };
    compress_file(&home.path().join("w.safetensors"), &home.path().join("copy"), options).unwrap();
    fs::remove_file(home.path().join("w.safetensors")).unwrap();
    fs::remove_file(home.path().join("adapter_config.json")).unwrap();
    home
}

/// What stands in a folder.
fn names(home: &TempDir) -> Vec<String> {
    let names = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// An engine that loads whole folders only, and answers a load with `status`.
fn rig(home: &TempDir, status: u16) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    let mut registered: Option<std::path::PathBuf> = None;
    network.serve("vllm:8000", move |call| match call.line.as_str() {
        "GET /v1/models" => {
            let adapter = registered.iter().map(|_| json!({"id": "l-a", "parent": "base"}));
            Reply::json(200, &json!({"data": adapter.collect::<Vec<_>>()}))
        }
        "POST /v1/load_lora_adapter" => {
            let folder = Path::new(call.body["lora_path"].as_str().unwrap()).to_owned();
            assert!(folder.join("adapter_config.json").exists());
            let weights = fs::read(folder.join("adapter_model.safetensors")).unwrap();
            SafeTensors::deserialize(&weights).unwrap();
            if status == 200 {
                registered = Some(folder);
            }
            Reply::text(status, "")
        }
        "POST /v1/unload_lora_adapter" => {
            let folder = registered.take().unwrap();
            assert!(folder.exists(), "the engine may still read it");
            Reply::text(200, "")
        }
        _ => Reply::text(200, ""),
    });
    let (path, copy) = (home.path().join("served"), home.path().join("copy"));
    let spec = json!({"driver": {
        "kind": "vllm_lora", "server": {"url": "http://vllm:8000"}, "max_loras": 1, "max_cpu_loras": 2,
        "adapters": {"a": {"name": "l-a", "path": path, "compressed": copy}},
    }});
    (driver(spec, &network), network)
}

async fn bytes(driver: &Driver) -> Vec<(Tier, u64, Source)> {
    let placed = probe(driver).await.experts.remove(&id("a")).unwrap();
    placed.bytes.into_iter().map(|(tier, (bytes, source))| (tier, bytes, source)).collect()
}

#[tokio::test(start_paused = true)]
async fn it_is_expanded_before_the_engine_loads_it_and_removed_when_it_let_go() {
    let home = home();
    let (driver, _network) = rig(&home, 200);
    let length = |name: &str| fs::metadata(home.path().join(name)).unwrap().len();
    assert!(driver.caps().measures);
    assert_eq!(bytes(&driver).await, [(Tier::Disk, length("copy"), Source::Measured)]);
    promote(&driver, "a", Tier::Slot).await.unwrap();
    assert_eq!(names(&home), ["copy", "served"]);
    let both =
        [(Tier::Dram, length(WEIGHTS), Source::Measured), (Tier::Disk, length("copy"), Source::Measured)];
    assert_eq!(bytes(&driver).await, both);
    demote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(names(&home), ["copy", "served"]);
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(names(&home), ["copy"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_gateway_left_is_made_anew() {
    let home = home();
    fs::create_dir(home.path().join("served.expanding")).unwrap();
    fs::write(home.path().join("served.expanding/adapter_model.safetensors"), "ha").unwrap();
    let (driver, network) = rig(&home, 200);
    promote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(names(&home), ["copy", "served"]);
    // The engine restarts, and its adapters are gone; what was expanded then may be no longer whole.
    fs::write(home.path().join(WEIGHTS), "half").unwrap();
    let (driver, _network) = (rig(&home, 200).0, network);
    promote(&driver, "a", Tier::Dram).await.unwrap();
    SafeTensors::deserialize(&fs::read(home.path().join(WEIGHTS)).unwrap()).unwrap();
    // And once more: a demotion of what is nowhere removes it, too.
    let (driver, _network) = rig(&home, 200);
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(names(&home), ["copy"]);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_is_refused_before_the_engine_hears_of_it() {
    let home = home();
    let mut copy = fs::read(home.path().join("copy")).unwrap();
    *copy.last_mut().unwrap() ^= 1;
    fs::write(home.path().join("copy"), copy).unwrap();
    let (driver, network) = rig(&home, 200);
    let error = promote(&driver, "a", Tier::Dram).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("copy: ") && error.message.contains("damaged"), "{error}");
    assert!(network.demands().is_empty());
    assert_eq!(names(&home), ["copy"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_where_the_engine_refuses_and_all_where_nobody_knows() {
    for (status, kind, left) in [
        (404, ErrorKind::Refused, vec!["copy"]),
        (503, ErrorKind::Busy, vec!["copy"]),
        (500, ErrorKind::HalfDone, vec!["copy", "served"]),
    ] {
        let home = home();
        let (driver, _network) = rig(&home, status);
        let error = promote(&driver, "a", Tier::Dram).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert_eq!(names(&home), left);
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_of_somebody_s_is_not_touched() {
    let home = home();
    fs::create_dir(home.path().join("served")).unwrap();
    fs::write(home.path().join(WEIGHTS), "mine").unwrap();
    let (driver, network) = rig(&home, 200);
    let error = promote(&driver, "a", Tier::Dram).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("move it away"), "{error}");
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(fs::read_to_string(home.path().join(WEIGHTS)).unwrap(), "mine");
    assert!(network.demands().is_empty());
}

#[test]
fn places_that_would_destroy_something_are_refused() {
    let wrong = |adapters: serde_json::Value| {
        let spec = json!({"driver": {
            "kind": "vllm_lora", "server": {"url": "http://v"}, "max_loras": 1, "max_cpu_loras": 1,
            "adapters": adapters,
        }});
        Driver::new(serde_json::from_value(spec).unwrap()).err().unwrap().message
    };
    let adapter = |path: &str, copy: &str| json!({"name": path, "path": path, "compressed": copy});
    assert!(wrong(json!({"a": adapter("b", "/c")})).contains("must be absolute"));
    assert!(wrong(json!({"a": adapter("/b", "/b/c")})).contains("inside of path"));
    let shared = json!({"a": adapter("/b", "/c"), "d": {"name": "d", "path": "/b/d"}});
    assert!(wrong(shared).contains("another adapter's"));
}
