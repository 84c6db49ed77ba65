//! Servers with one expert each, that give their memory back: vLLM asleep, `SGLang` released.

use super::*;

/// A vLLM engine that starts awake.
#[derive(Clone, Default)]
struct Vllm(Arc<Mutex<Engine>>);

#[derive(Default)]
struct Engine {
    asleep: bool,
    /// Answers of the next calls to wake up.
    faults: Vec<Reply>,
    hangs: bool,
    wakes: usize,
}

impl Vllm {
    fn serve(&self, network: &FakeNetwork, authority: &str) {
        let engine = self.0.clone();
        network.serve(authority, move |call| engine.lock().unwrap().answer(call));
    }

    fn set(&self, change: impl FnOnce(&mut Engine)) {
        change(&mut self.0.lock().unwrap());
    }
}

impl Engine {
    fn answer(&mut self, call: &Call) -> Reply {
        if self.hangs {
            return Reply::text(200, "").after(1_000_000);
        }
        if call.line == "GET /is_sleeping" {
            return Reply::json(200, &json!({"is_sleeping": self.asleep}));
        }
        if call.line.starts_with("POST /sleep") {
            self.asleep = true;
        } else if call.line.starts_with("POST /wake_up") {
            self.wakes += 1;
            if let Some(fault) = self.faults.pop() {
                return fault;
            }
            self.asleep = false;
            return Reply::json(200, &json!({"status": "awake", "tags": null}));
        }
        Reply::json(200, &json!({}))
    }
}

/// Engines `a` and `b` with room for one; `b` is awake at first.
async fn engines() -> (World, [Vllm; 2], FakeNetwork) {
    let network = FakeNetwork::default();
    let both = [Vllm::default(), Vllm::default()];
    both[0].set(|engine| engine.asleep = true);
    both[0].serve(&network, "vllm-a:8000");
    both[1].serve(&network, "vllm-b:8000");
    let config = json!({"driver": {"kind": "vllm_sleep", "engines": {
        "a": {"url": "http://vllm-a:8000"}, "b": {"url": "http://vllm-b:8000"},
    }}});
    let world = World::timed(spec(&["a", "b"], 1), vec![driver(config, &network)], short());
    // From here on the driver knows how deep `a` sleeps.
    for name in ["a", "b"] {
        drop(world.acquire(name).await.unwrap());
    }
    assert_eq!(world.hbm(), (10, 0));
    (world, both, network)
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_wakes_up_in_part_keeps_its_bytes_until_it_is_awake() {
    let (world, [a, _], _network) = engines().await;
    let part = || Reply::json(200, &json!({"status": "sleeping", "tags": ["weights"]}));
    let memory = || Reply::text(500, "CUDA out of memory");
    a.set(|engine| engine.faults = vec![part(), part(), memory()]);
    let request = world.request("a");
    seconds(0.8).await;
    assert_eq!((world.phase("a"), world.hbm()), ("unknown".to_owned(), (0, 10)));
    assert_eq!(world.phase("b"), "warm");
    drop(request.await.unwrap().unwrap());
    assert_eq!(world.hbm(), (10, 0));
    drop(world.acquire("b").await.unwrap());
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_never_wakes_up_is_free_after_its_restart() {
    let (world, [a, _], network) = engines().await;
    a.set(|engine| engine.faults = (0..100).map(|_| Reply::text(500, "CUDA out of memory")).collect());
    let wakes = a.0.lock().unwrap().wakes;
    refused(&world, "a", Why::Unavailable).await;
    refused(&world, "b", Why::NoRoom).await;
    assert_eq!(world.hbm(), (0, 10), "half of its blocks are mapped");
    seconds(60.0).await;
    let wakes = a.0.lock().unwrap().wakes - wakes;
    assert!((5..=15).contains(&wakes), "{wakes} in 70 s");
    network.stop("vllm-a:8000");
    seconds(5.0).await;
    assert_eq!(world.hbm(), (0, 10));
    // It comes back awake.
    Vllm::default().serve(&network, "vllm-a:8000");
    seconds(10.0).await;
    assert_eq!((world.phase("a"), world.hbm()), ("hot".to_owned(), (10, 0)));
    drop(world.acquire("b").await.unwrap());
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_takes_only_itself_out_of_service() {
    let (world, [a, b], _network) = engines().await;
    a.set(|engine| engine.hangs = true);
    seconds(17.0).await;
    assert_eq!((world.phase("a"), world.phase("b")), ("unknown".to_owned(), "hot".to_owned()));
    drop(world.acquire("b").await.unwrap());
    refused(&world, "a", Why::Unavailable).await;
    a.set(|engine| engine.hangs = false);
    seconds(6.0).await;
    drop(world.acquire("a").await.unwrap());
    assert!(b.0.lock().unwrap().asleep);
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_its_meter_what_is_ready_still_answers_and_nothing_moves() {
    let network = FakeNetwork::default();
    let both = [Vllm::default(), Vllm::default()];
    both[0].set(|engine| engine.asleep = true);
    both[0].serve(&network, "vllm-a:8000");
    both[1].serve(&network, "vllm-b:8000");
    let config = json!({
        "driver": {"kind": "vllm_sleep", "engines": {
            "a": {"url": "http://vllm-a:8000"}, "b": {"url": "http://vllm-b:8000"},
        }},
        "meter": {"server": {"url": "http://dcgm:9400"}, "metric": "FREE", "unit_bytes": 1_000_000_000},
    });
    let world = World::timed(spec(&["a", "b"], 1), vec![driver(config, &network)], short());
    drop(world.acquire("b").await.unwrap());
    refused(&world, "a", Why::NoRoom).await;
    assert_eq!(world.hbm(), (10, 0));
    let other = both.clone();
    network.serve("dcgm:9400", move |_| {
        let awake = other.iter().filter(|vllm| !vllm.0.lock().unwrap().asleep).count();
        Reply::text(200, &format!("FREE {}\n", 10 - 10 * awake))
    });
    seconds(10.0).await;
    drop(world.acquire("a").await.unwrap());
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}

/// A `SGLang` engine.
#[derive(Default)]
struct Sglang {
    paused: bool,
    released: bool,
    /// Releases that find it busy.
    busy: u32,
    times: Times,
}

impl Sglang {
    fn answer(&mut self, call: &Call) -> Reply {
        match call.line.as_str() {
            "POST /generate" if self.paused => return Reply::text(200, "{}").after(1_000_000),
            "POST /pause_generation" => self.paused = true,
            "POST /continue_generation" => self.paused = false,
            "POST /release_memory_occupation" => {
                self.times.note("release");
                if self.busy > 0 {
                    self.busy -= 1;
                    return Reply::text(400, "the server is not idle");
                }
                assert!(self.paused && !self.released, "the engine's assertion");
                self.released = true;
            }
            "POST /resume_memory_occupation" if !self.released => {
                return Reply::text(500, "the tag was not released");
            }
            "POST /resume_memory_occupation" => self.released = false,
            _ => {}
        }
        Reply::json(200, &json!({"success": true}))
    }
}

/// Engines `a` and `b`, with room for one: `a` is released.
async fn sglang() -> (World, [Arc<Mutex<Sglang>>; 2]) {
    let network = FakeNetwork::default();
    let both = [Arc::new(Mutex::new(Sglang::default())), Arc::new(Mutex::new(Sglang::default()))];
    for (name, engine) in ["a", "b"].iter().zip(&both) {
        let engine = engine.clone();
        network.serve(&format!("{name}:30000"), move |call| engine.lock().unwrap().answer(call));
    }
    let engine = |name: &str| json!({"server": {"url": format!("http://{name}:30000")}, "model_path": "/m"});
    let config = json!({"driver": {
        "kind": "sglang_memory", "engines": {"a": engine("a"), "b": engine("b")}, "weights_cpu_backup": true,
    }});
    let world = World::timed(spec(&["a", "b"], 1), vec![driver(config, &network)], short());
    seconds(1.0).await;
    // Both came up whole: more than there is room for, as the servers say.
    assert_eq!(world.hbm(), (20, 0));
    world.pool.demote(&id("a"), Tier::Dram, Duration::from_secs(5)).await.unwrap();
    assert_eq!(world.hbm(), (10, 0));
    (world, both)
}

#[tokio::test(start_paused = true)]
async fn a_resumption_that_raises_after_a_restart_is_no_loss() {
    let (world, [a, _]) = sglang().await;
    *a.lock().unwrap() = Sglang::default();
    drop(world.acquire("a").await.unwrap());
    assert_eq!(world.log.count("a ends dram -> hbm: half_done"), 1);
    assert_eq!((world.phase("a"), world.hbm()), ("hot".to_owned(), (10, 0)));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_busy_is_not_asked_for_its_memory_all_the_time() {
    let (world, [_, b]) = sglang().await;
    b.lock().unwrap().busy = u32::MAX;
    let began = Instant::now();
    refused(&world, "a", Why::NoRoom).await;
    let asked = b.lock().unwrap().times.of("release");
    assert!((2..=5).contains(&asked.len()), "{} in {:?}", asked.len(), began.elapsed());
    assert_eq!((world.phase("b"), world.hbm()), ("hot".to_owned(), (10, 0)));
    drop(world.acquire("b").await.unwrap());
    b.lock().unwrap().busy = 0;
    seconds(10.0).await;
    drop(world.acquire("a").await.unwrap());
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}
