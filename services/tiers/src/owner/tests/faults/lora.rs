//! Adapters that servers drop, and bases that restart.

use super::*;

/// Adapters of a server, by name, of which it keeps `most`: over that it drops the first.
#[derive(Clone)]
struct Adapters(Arc<Mutex<(Vec<String>, usize)>>);

impl Adapters {
    fn keeping(most: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), most))))
    }

    fn loaded(&self) -> Vec<String> {
        self.0.lock().unwrap().0.clone()
    }

    fn load(&self, name: &str) {
        let (loaded, most) = &mut *self.0.lock().unwrap();
        loaded.push(name.to_owned());
        if loaded.len() > *most {
            loaded.remove(0);
        }
    }

    fn unload(&self, name: &str) -> bool {
        let loaded = &mut self.0.lock().unwrap().0;
        let before = loaded.len();
        loaded.retain(|other| other != name);
        loaded.len() < before
    }

    fn sglang(&self, call: &Call) -> Reply {
        if call.line == "GET /v1/models" {
            return self.vllm(call);
        }
        let name = call.body["lora_name"].as_str().unwrap_or_default();
        let unloads = call.line == "POST /unload_lora_adapter";
        if !unloads {
            self.load(name);
        }
        let ok = !unloads || self.unload(name);
        Reply::json(if ok { 200 } else { 400 }, &json!({"success": ok, "loaded_adapters": self.loaded()}))
    }

    fn vllm(&self, call: &Call) -> Reply {
        let name = call.body["lora_name"].as_str().unwrap_or_default();
        match call.line.as_str() {
            "GET /v1/models" => {
                let list: Vec<_> =
                    self.loaded().iter().map(|name| json!({"id": name, "parent": "base"})).collect();
                return Reply::json(200, &json!({"data": list}));
            }
            "GET /is_sleeping" => return Reply::json(200, &json!({"is_sleeping": false})),
            "POST /v1/load_lora_adapter" => self.load(name),
            "POST /v1/unload_lora_adapter" => {
                self.unload(name);
            }
            _ => {}
        }
        Reply::json(200, &json!({"choices": []}))
    }
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_the_server_drops_is_loaded_again() {
    let (network, adapters) = (FakeNetwork::default(), Adapters::keeping(1));
    let server = adapters.clone();
    network.serve("sgl:30000", move |call| server.sglang(call));
    let adapter = |name: &str| json!({"name": name, "path": "/"});
    let config = json!({"driver": {
        "kind": "sglang_lora", "server": {"url": "http://sgl:30000"}, "max_loaded_loras": 2,
        "adapters": {"a": adapter("a"), "b": adapter("b")},
    }});
    let mut spec = spec(&["a", "b"], 2);
    for (tier, of) in spec.tiers.iter_mut().zip([Tier::Dram, Tier::Disk]) {
        tier.tier = of;
    }
    (spec.links[0].from, spec.links[0].to) = (Tier::Disk, Tier::Dram);
    for expert in &mut spec.experts {
        expert.bytes = BTreeMap::from([(Tier::Dram, 10 * GB), (Tier::Disk, 10 * GB)]);
    }
    let world = World::timed(spec, vec![driver(config, &network)], short());
    for name in ["a", "b", "a"] {
        drop(world.acquire(name).await.unwrap());
        assert_eq!(adapters.loaded(), [name]);
        let status = world.pool.status();
        let dram = status.tiers.iter().find(|tier| tier.tier == Tier::Dram).unwrap();
        assert_eq!((dram.used_bytes, dram.reserved_bytes), (10 * GB, 0));
    }
    world.end().await;
}

/// An adapter `a` of a base that is awake, both on one vLLM engine.
fn engine() -> (World, Adapters, FakeNetwork) {
    let (network, adapters) = (FakeNetwork::default(), Adapters::keeping(9));
    let server = adapters.clone();
    network.serve("vllm:8000", move |call| server.vllm(call));
    let url = json!({"url": "http://vllm:8000"});
    let base = json!({"driver": {"kind": "vllm_sleep", "engines": {"base": url}}});
    let lora = json!({"driver": {
        "kind": "vllm_lora", "server": url, "max_loras": 1, "max_cpu_loras": 2,
        "adapters": {"a": {"name": "a", "path": "/"}},
    }});
    let mut spec = spec(&["base", "a"], 1);
    let tier = |tier: Tier| TierSpec { tier, ..spec.tiers[1].clone() };
    let more = [tier(Tier::Slot), tier(Tier::Disk)];
    spec.tiers.extend(more);
    let link = |from: Tier, to: Tier| LinkSpec { from, to, ..spec.links[0].clone() };
    let more = [link(Tier::Dram, Tier::Slot), link(Tier::Disk, Tier::Dram)];
    spec.links.extend(more);
    spec.experts[1].kind = Kind::Adapter { base: id("base") };
    spec.experts[1].bytes = [Tier::Slot, Tier::Dram, Tier::Disk].map(|tier| (tier, GB)).into();
    let drivers = vec![driver(base, &network), driver(lora, &network)];
    (World::timed(spec, drivers, short()), adapters, network)
}

#[tokio::test(start_paused = true)]
async fn an_adapter_whose_base_was_restarted_is_loaded_again() {
    let (world, adapters, _network) = engine();
    drop(world.acquire("a").await.unwrap());
    assert_eq!((world.phase("a"), world.hbm()), ("hot".to_owned(), (10, 0)));
    adapters.0.lock().unwrap().0.clear();
    seconds(11.0).await;
    assert_eq!(world.phase("a"), "cold");
    drop(world.acquire("a").await.unwrap());
    assert_eq!(adapters.loaded(), ["a"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_adapter_whose_base_is_gone_is_refused_and_holds_nobody_up() {
    let (world, adapters, network) = engine();
    seconds(1.0).await;
    assert_eq!((world.phase("a"), world.phase("base")), ("cold".to_owned(), "hot".to_owned()));
    // The adapters' list is there still, and nobody tells how the base is.
    let server = adapters.clone();
    network.serve("vllm:8000", move |call| match call.line.as_str() {
        "GET /is_sleeping" => Reply::text(500, ""),
        _ => server.vllm(call),
    });
    seconds(11.0).await;
    assert_eq!((world.phase("a"), world.phase("base")), ("cold".to_owned(), "unknown".to_owned()));
    refused(&world, "a", Why::Unavailable).await;
    network.serve("vllm:8000", move |call| adapters.vllm(call));
    drop(world.acquire("a").await.unwrap());
    world.end().await;
}
