//! Servers that have several models: Triton, llama-server in router mode, Ollama, llama-swap.

use super::*;

/// A Triton server. `plan` says how long what takes, and what goes wrong.
#[derive(Clone, Default)]
struct Triton(Arc<Mutex<Plan>>);

/// A state, and which it becomes when.
type Course = (&'static str, Option<(Instant, &'static str)>);

#[derive(Default)]
struct Plan {
    states: BTreeMap<String, Course>,
    load_s: f64,
    unload_s: u64,
    /// Seconds until the bytes of an unloaded model are free.
    late_s: u64,
    held: BTreeMap<String, Option<Instant>>,
    /// What the index says instead.
    index: Option<Value>,
    /// It answers nothing.
    hangs: bool,
    times: Times,
}

impl Plan {
    fn state(&mut self, name: &str) -> &'static str {
        let (state, next) = self.states.entry(name.to_owned()).or_insert(("UNAVAILABLE", None));
        if let Some((_, then)) = next.take_if(|(at, _)| *at <= Instant::now()) {
            *state = then;
        }
        state
    }

    /// Models that hold bytes now.
    fn holding(&self) -> u64 {
        self.held.values().filter(|until| until.is_none_or(|until| until > Instant::now())).count() as u64
    }

    fn answer(&mut self, call: &Call) -> Reply {
        if self.hangs {
            return Reply::text(200, "").after(1_000_000);
        }
        if call.line == "GET /metrics" {
            return Reply::text(200, &format!("FREE {}\n", 10 - 10 * self.holding()));
        }
        if call.line == "POST /v2/repository/index" {
            let names: Vec<_> = self.states.keys().cloned().collect();
            let list = names.iter().map(|name| json!({"name": name, "state": self.state(name)})).collect();
            return Reply::json(200, self.index.as_ref().unwrap_or(&Value::Array(list)));
        }
        let mut parts = call.line.split('/').skip(4);
        let (name, verb) = (parts.next().unwrap(), parts.next().unwrap());
        self.times.note(verb);
        self.state(name);
        let state = self.states.get_mut(name).unwrap();
        if verb == "load" {
            *state = ("LOADING", Some((Instant::now() + Duration::from_secs_f64(self.load_s), "READY")));
            self.held.insert(name.to_owned(), None);
            assert!(self.holding() <= 1, "two models in one place");
            let mut reply = Reply::text(200, "");
            reply.after = Duration::from_secs_f64(self.load_s);
            return reply;
        }
        let gone = Instant::now() + Duration::from_secs(self.unload_s);
        *state = ("UNLOADING", Some((gone, "UNAVAILABLE")));
        self.held.insert(name.to_owned(), Some(gone + Duration::from_secs(self.late_s)));
        Reply::text(200, "")
    }
}

fn triton(meter: bool) -> (World, Triton, FakeNetwork) {
    let (network, plan) = (FakeNetwork::default(), Triton::default());
    plan.0.lock().unwrap().load_s = 1.0;
    serve_triton(&network, &plan);
    let mut config = json!({"driver": {
        "kind": "triton", "server": {"url": "http://triton:8000"}, "models": {"a": "a", "b": "b"},
    }});
    if meter {
        config["meter"] =
            json!({"server": {"url": "http://triton:8000"}, "metric": "FREE", "unit_bytes": 1_000_000_000});
    }
    let world = World::timed(on_disk(&["a", "b"], 1), vec![driver(config, &network)], short());
    (world, plan, network)
}

fn serve_triton(network: &FakeNetwork, plan: &Triton) {
    let plan = plan.clone();
    network.serve("triton:8000", move |call| plan.0.lock().unwrap().answer(call));
}

impl Triton {
    fn set(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.0.lock().unwrap());
    }

    fn times(&self, verb: &str) -> Vec<Instant> {
        self.0.lock().unwrap().times.of(verb)
    }
}

#[tokio::test(start_paused = true)]
async fn no_load_begins_before_the_meter_shows_the_bytes() {
    let (world, triton, _network) = triton(true);
    triton.set(|plan| plan.late_s = 5);
    drop(world.acquire("a").await.unwrap());
    drop(world.acquire("b").await.unwrap());
    let gap = triton.times("load")[1] - triton.times("unload")[0];
    assert!(gap >= Duration::from_secs(5), "{gap:?}");
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_load_begins_while_requests_still_use_what_is_unloaded() {
    let (world, triton, _network) = triton(false);
    triton.set(|plan| plan.unload_s = 4);
    drop(world.acquire("a").await.unwrap());
    drop(world.acquire("b").await.unwrap());
    let gap = triton.times("load")[1] - triton.times("unload")[0];
    assert!(gap >= Duration::from_secs(4), "{gap:?}");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_ends_after_its_deadline_is_found() {
    let (world, triton, _network) = triton(false);
    triton.set(|plan| plan.load_s = 20.5);
    let request = world.request("a");
    seconds(20.2).await;
    assert_eq!((world.phase("a"), world.hbm()), ("unknown".to_owned(), (0, 10)));
    assert_eq!(request.await.unwrap().unwrap_err().why, Why::Unavailable);
    drop(world.acquire("a").await.unwrap());
    assert_eq!((world.hbm(), triton.times("load").len()), ((10, 0), 1));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_never_ends_is_taken_back() {
    let (world, triton, _network) = triton(false);
    triton.set(|plan| plan.load_s = 1e6);
    let request = world.request("a");
    seconds(19.0).await;
    assert_eq!(world.hbm(), (0, 10));
    assert_eq!(request.await.unwrap().unwrap_err().why, Why::Unavailable);
    triton.set(|plan| plan.load_s = 1.0);
    seconds(5.0).await;
    assert_eq!((triton.times("unload").len(), world.hbm()), (1, (0, 0)));
    drop(world.acquire("b").await.unwrap());
    drop(world.acquire("a").await.unwrap());
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_none_is_no_news_of_where_experts_are() {
    let (world, triton, _network) = triton(false);
    drop(world.acquire("a").await.unwrap());
    triton.set(|plan| plan.index = Some(json!({"models": "?"})));
    seconds(11.0).await;
    assert_eq!((world.phase("a"), world.hbm()), ("unknown".to_owned(), (10, 0)));
    refused(&world, "a", Why::Unavailable).await;
    refused(&world, "b", Why::Unavailable).await;
    assert!(world.log.count("triton does not tell: unsupported") > 1);
    triton.set(|plan| plan.index = None);
    drop(world.acquire("a").await.unwrap());
    assert_eq!((world.hbm(), triton.times("load").len()), ((10, 0), 1));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_and_does_again() {
    let (world, triton, _network) = triton(false);
    drop(world.acquire("a").await.unwrap());
    triton.set(|plan| plan.hangs = true);
    seconds(16.0).await;
    assert!(world.log.count("triton does not tell") > 0);
    refused(&world, "a", Why::Unavailable).await;
    triton.set(|plan| plan.hangs = false);
    seconds(6.0).await;
    drop(world.acquire("b").await.unwrap());
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_gone_and_comes_back_empty() {
    let (world, triton, network) = triton(false);
    drop(world.acquire("a").await.unwrap());
    network.stop("triton:8000");
    seconds(11.0).await;
    refused(&world, "b", Why::Unavailable).await;
    assert_eq!(world.hbm(), (10, 0), "who knows");
    triton.set(|plan| {
        plan.states.clear();
        plan.held.clear();
    });
    serve_triton(&network, &triton);
    seconds(2.0).await;
    assert_eq!((world.phase("a"), world.hbm()), ("cold".to_owned(), (0, 0)));
    drop(world.acquire("b").await.unwrap());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_may_find_hot_what_was_cold_and_the_other_way_round() {
    let (world, triton, _network) = triton(false);
    drop(world.acquire("a").await.unwrap());
    triton.set(|plan| {
        plan.states = BTreeMap::from([("b".to_owned(), ("READY", None))]);
        plan.held = BTreeMap::from([("b".to_owned(), None)]);
    });
    seconds(11.0).await;
    assert_eq!((world.phase("a"), world.phase("b")), ("cold".to_owned(), "hot".to_owned()));
    assert_eq!(world.hbm(), (10, 0));
    drop(world.acquire("b").await.unwrap());
    assert_eq!(triton.times("load").len(), 1);
    drop(world.acquire("a").await.unwrap());
    assert_eq!(world.hbm(), (10, 0));
    world.end().await;
}

/// A llama-server in router mode; each load takes the next course of `courses`: seconds and statuses.
fn router(courses: Vec<Vec<(u64, Value)>>) -> World {
    let network = FakeNetwork::default();
    let mut models: BTreeMap<String, Vec<(Instant, Value)>> = BTreeMap::new();
    let mut courses = courses.into_iter();
    let loads = || vec![(0, json!({"value": "loading"})), (1, json!({"value": "loaded"}))];
    network.serve("router:8080", move |call| {
        if call.line == "GET /models" {
            let status = |name: &str| {
                let past = models.get(name).into_iter().flatten().rev().find(|(at, _)| *at <= Instant::now());
                past.map_or(json!({"value": "unloaded"}), |(_, status)| status.clone())
            };
            let list: Vec<_> =
                ["a", "b"].iter().map(|name| json!({"id": name, "status": status(name)})).collect();
            return Reply::json(200, &json!({"data": list}));
        }
        let Some(name) = call.body["model"].as_str() else { return Reply::text(404, "") };
        let course = match call.line.as_str() {
            "POST /models/unload" => vec![(0, json!({"value": "unloaded"}))],
            "POST /models/load" => courses.next().unwrap_or_else(loads),
            _ => return Reply::json(200, &json!({})),
        };
        let course =
            course.into_iter().map(|(after, status)| (Instant::now() + Duration::from_secs(after), status));
        models.entry(name.to_owned()).or_default().extend(course);
        Reply::json(200, &json!({"success": true}))
    });
    let config = json!({"driver": {
        "kind": "llamacpp_router", "server": {"url": "http://router:8080"}, "models": {"a": "a", "b": "b"},
    }});
    World::timed(on_disk(&["a", "b"], 1), vec![driver(config, &network)], short())
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_killed_while_it_loads_is_loaded_again() {
    let killed = vec![(0, json!({"value": "loading"})), (1, json!({"value": "unloaded"}))];
    let world = router(vec![killed.clone(), killed]);
    drop(world.acquire("a").await.unwrap());
    assert_eq!((world.log.count("a ends disk -> hbm: busy"), world.hbm()), (2, (10, 0)));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_process_fails_is_refused_and_holds_nothing() {
    let failed = json!({"value": "unloaded", "failed": true, "exit_code": 1});
    let failed = vec![(0, json!({"value": "loading"})), (1, failed)];
    let world = router(vec![failed; 20]);
    refused(&world, "a", Why::Unavailable).await;
    assert_eq!((world.phase("a"), world.hbm()), ("failed".to_owned(), (0, 0)));
    assert!(world.log.count("refused") <= 2, "it is not asked for again at once");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_model_that_the_server_kills_by_itself_is_loaded_again() {
    let killed = vec![
        (0, json!({"value": "loading"})),
        (1, json!({"value": "loaded"})),
        (5, json!({"value": "unloaded"})),
    ];
    let world = router(vec![killed]);
    let held = world.acquire("a").await.unwrap();
    seconds(15.0).await;
    assert_eq!((world.phase("a"), world.hbm()), ("cold".to_owned(), (0, 0)));
    drop(world.acquire("a").await.unwrap());
    drop(held);
    assert_eq!((world.hbm(), world.pool.status().running), ((10, 0), 0));
    world.end().await;
}

/// An Ollama that keeps one model, whatever there is room for.
#[tokio::test(start_paused = true)]
async fn what_ollama_removes_by_its_count_is_known_at_once() {
    let network = FakeNetwork::default();
    let mut loaded: Option<String> = Some("stranger:latest".to_owned());
    network.serve("ollama:11434", move |call| {
        if call.line == "GET /api/ps" {
            let size = 8 * GB;
            let list: Vec<_> =
                loaded.iter().map(|name| json!({"name": name, "size": size, "size_vram": size})).collect();
            return Reply::json(200, &json!({"models": list}));
        }
        let name = call.body["model"].as_str().map(str::to_owned);
        loaded = if call.body["keep_alive"] == 0 { None } else { name };
        Reply::json(200, &json!({"done": true}))
    });
    let config = json!({"driver": {
        "kind": "ollama", "server": {"url": "http://ollama:11434"}, "models": {"a": "a", "b": "b"},
    }});
    let world = World::timed(on_disk(&["a", "b"], 2), vec![driver(config, &network)], short());
    for _ in 0..2 {
        for name in ["a", "b"] {
            drop(world.acquire(name).await.unwrap());
            let status = world.pool.status();
            let hbm = status.tiers.iter().find(|tier| tier.tier == Tier::Hbm).unwrap();
            assert_eq!((hbm.used_bytes, hbm.reserved_bytes), (8 * GB, 0), "the measured bytes of one model");
        }
    }
    assert_eq!(world.log.count("is elsewhere"), 3);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_llama_swap_swaps_out_is_known_at_once() {
    let network = FakeNetwork::default();
    let mut ready: Option<String> = None;
    network.serve("swap:8080", move |call| {
        if call.line == "GET /running" {
            let list: Vec<_> = ready.iter().map(|name| json!({"model": name, "state": "ready"})).collect();
            return Reply::json(200, &json!({"running": list}));
        }
        if let Some(path) = call.line.strip_prefix("GET /upstream/") {
            ready = path.split('/').next().map(str::to_owned);
        } else {
            ready = None;
        }
        Reply::text(200, "ok")
    });
    let config = json!({"driver": {
        "kind": "llama_swap", "server": {"url": "http://swap:8080"}, "models": {"a": "a", "b": "b"},
    }});
    let world = World::timed(on_disk(&["a", "b"], 2), vec![driver(config, &network)], short());
    for name in ["a", "b", "a"] {
        drop(world.acquire(name).await.unwrap());
        assert_eq!(world.hbm(), (10, 0));
    }
    assert_eq!(world.log.count("is elsewhere"), 2);
    world.end().await;
}
