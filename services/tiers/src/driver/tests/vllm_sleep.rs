use serde_json::json;

use super::super::ErrorKind;
use super::*;

const HBM: Residence = Residence::In(Tier::Hbm);
const DRAM: Residence = Residence::In(Tier::Dram);
const DISK: Residence = Residence::In(Tier::Disk);

/// An engine that has answered all its requests 3 seconds after it was asked to sleep, and sleeps then. `mute`: it
/// computes no token.
#[derive(Default)]
struct Engine {
    asleep: Option<u8>,
    slept_at: Option<Instant>,
    weights: bool,
    mute: bool,
    /// Answers of the next calls to wake up, before they work.
    wake_faults: Vec<Reply>,
}

impl Engine {
    fn answer(&mut self, call: &Call) -> Reply {
        let line = call.line.as_str();
        if line == "GET /is_sleeping" {
            // Paused is asleep for it, whatever is in its memory.
            return Reply::json(200, &json!({"is_sleeping": self.asleep.is_some()}));
        }
        if line == "GET /v1/models" {
            let adapter = json!({"id": "adapter", "parent": "base"});
            return Reply::json(200, &json!({"data": [adapter, {"id": "base", "parent": null}]}));
        }
        if line == "POST /v1/completions" {
            assert_eq!((&call.body["model"], &call.body["max_tokens"]), (&json!("base"), &json!(1)));
            assert!(self.asleep.is_none(), "it would wait until it is woken up");
            return if self.mute {
                Reply::text(500, "no kernel image is available")
            } else {
                Reply::json(200, &json!({"choices": [{"text": "b"}]}))
            };
        }
        if let Some(level) = line.strip_prefix("POST /sleep?level=") {
            let level = level[..1].parse().unwrap();
            // The first level is kept.
            if self.asleep.is_none() {
                self.asleep = Some(level);
                self.slept_at = Some(Instant::now() + Duration::from_secs(3));
                self.weights = level == 1;
            }
            let rest =
                self.slept_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            let answer = Reply::json(200, &json!({"status": "sleeping", "level": level}));
            return answer.after(rest.as_secs());
        }
        if line.starts_with("POST /wake_up") {
            if let Some(fault) = self.wake_faults.pop() {
                return fault;
            }
            return match line.strip_prefix("POST /wake_up") {
                Some("?tags=weights") => {
                    Reply::json(200, &json!({"status": "sleeping", "tags": ["weights"]}))
                }
                Some(tags) if self.weights => {
                    assert!(tags.is_empty() || tags == "?tags=kv_cache", "{tags}");
                    self.asleep = None;
                    Reply::json(200, &json!({"status": "awake", "tags": null}))
                }
                _ => Reply::text(500, "there are no weights"),
            };
        }
        assert_eq!((line, &call.body), ("POST /collective_rpc", &json!({"method": "reload_weights"})));
        self.weights = true;
        Reply::json(200, &json!({"results": [null]}))
    }
}

fn engine(network: &FakeNetwork, mut engine: Engine) {
    network.serve("vllm-a:8000", move |call| engine.answer(call));
}

fn spec() -> Value {
    json!({"driver": {"kind": "vllm_sleep", "engines": {"a": {"url": "http://vllm-a:8000"}}}})
}

fn rig(script: Engine) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    engine(&network, script);
    (driver(spec(), &network), network)
}

#[tokio::test(start_paused = true)]
async fn a_light_sleeper_keeps_its_weights_in_the_hosts_memory() {
    let (driver, network) = rig(Engine::default());
    assert_eq!(place(&driver, "a").await, (HBM, Evidence::Server));
    let start = Instant::now();
    assert_eq!(demote(&driver, "a", Tier::Dram).await.unwrap().placed.residence, DRAM);
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    assert_eq!(place(&driver, "a").await, (DRAM, Evidence::Remembered));
    assert_eq!(demote(&driver, "a", Tier::Dram).await.unwrap().placed.residence, DRAM);
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap().placed.residence, HBM);
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap().placed.residence, HBM);
    assert_eq!(
        network.demands(),
        [
            "POST /sleep?level=1&mode=wait",
            "POST /wake_up",
            r#"POST /v1/completions {"max_tokens":1,"model":"base","prompt":"a"}"#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_deep_sleeper_reads_its_weights_again() {
    let (driver, network) = rig(Engine::default());
    demote(&driver, "a", Tier::Disk).await.unwrap();
    assert_eq!(place(&driver, "a").await, (DISK, Evidence::Remembered));
    assert_eq!(promote(&driver, "a", Tier::Dram).await.unwrap_err().kind, ErrorKind::Refused);
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert_eq!(
        network.demands(),
        [
            "POST /sleep?level=2&mode=wait",
            "POST /wake_up?tags=weights",
            r#"POST /collective_rpc {"method":"reload_weights"}"#,
            "POST /wake_up?tags=kv_cache",
            r#"POST /v1/completions {"max_tokens":1,"model":"base","prompt":"a"}"#,
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_still_answers_is_not_asleep_though_it_says_so() {
    let (driver, network) = rig(Engine::default());
    let deadline = Instant::now() + Duration::from_secs(1);
    let step = Step { expert: &id("a"), to: Tier::Disk, deadline };
    assert_eq!(driver.demote(step, 8_000).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await, (Residence::Moving, Evidence::Remembered));
    // Whatever is asked of it next, it falls asleep first, at the level that was asked for.
    assert_eq!(demote(&driver, "a", Tier::Dram).await.unwrap().placed.residence, DISK);
    let sleep = "POST /sleep?level=2&mode=wait";
    assert_eq!(network.demands(), [sleep, sleep]);
    assert_eq!(place(&driver, "a").await, (DISK, Evidence::Remembered));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_awake_and_computes_nothing_is_half_done() {
    let (driver, network) = rig(Engine { mute: true, ..Engine::default() });
    demote(&driver, "a", Tier::Dram).await.unwrap();
    let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert!(error.message.contains("no kernel image"), "{error}");
    // Where nobody asks for it, it is awake.
    let mut spec = spec();
    spec["driver"]["warm_up"] = json!(false);
    engine(&network, Engine { mute: true, ..Engine::default() });
    let driver = super::driver(spec, &network);
    demote(&driver, "a", Tier::Dram).await.unwrap();
    promote(&driver, "a", Tier::Hbm).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_light_sleeper_cannot_sleep_deeper() {
    let (driver, network) = rig(Engine::default());
    demote(&driver, "a", Tier::Dram).await.unwrap();
    network.demands();
    let error = demote(&driver, "a", Tier::Disk).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("wake it up first"), "{error}");
    assert!(network.demands().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_does_not_know_the_level_reads_the_weights_again() {
    let asleep = || Engine { asleep: Some(2), slept_at: Some(Instant::now()), ..Engine::default() };
    let (driver, network) = rig(asleep());
    assert_eq!(place(&driver, "a").await, (DRAM, Evidence::Assumed));
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert!(network.demands().iter().any(|line| line.contains("reload_weights")));
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_that_fails_half_way_leaves_bytes_that_nobody_knows() {
    let fault = Reply::text(500, "CUDA out of memory");
    let (driver, _network) = rig(Engine { wake_faults: vec![fault], ..Engine::default() });
    demote(&driver, "a", Tier::Dram).await.unwrap();
    let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert!(error.message.contains("CUDA out of memory"), "{error}");
    // It still says that it sleeps, and half of its blocks are mapped.
    assert_eq!(place(&driver, "a").await, (Residence::Unknown, Evidence::Remembered));
    let error = demote(&driver, "a", Tier::Dram).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert!(error.message.contains("restart its engine"), "{error}");
    // Waking up again is the way out.
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert_eq!(place(&driver, "a").await, (HBM, Evidence::Server));
}

#[tokio::test(start_paused = true)]
async fn a_wake_up_in_part_is_not_awake() {
    let part = || Reply::json(200, &json!({"status": "sleeping", "tags": ["weights"]}));
    let (driver, _network) = rig(Engine { wake_faults: vec![part(), part()], ..Engine::default() });
    demote(&driver, "a", Tier::Dram).await.unwrap();
    let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await.0, Residence::Unknown);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_is_half_done_and_the_probe_tells() {
    let (driver, network) = rig(Engine { wake_faults: vec![Reply::cut()], ..Engine::default() });
    demote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap_err().kind, ErrorKind::HalfDone);
    // The engine crashed, and its restart forgets that it slept: all its weights are on the accelerator.
    network.stop("vllm-a:8000");
    assert_eq!(place(&driver, "a").await, (Residence::Unknown, Evidence::Assumed));
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap_err().kind, ErrorKind::Gone);
    engine(&network, Engine::default());
    assert_eq!(place(&driver, "a").await, (HBM, Evidence::Server));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wake_up_is_unknown_until_it_is_repeated() {
    let slow = Reply::json(200, &json!({"status": "awake", "tags": null})).after(60);
    let (driver, _network) = rig(Engine { wake_faults: vec![slow], ..Engine::default() });
    demote(&driver, "a", Tier::Dram).await.unwrap();
    let cancelled = tokio::time::timeout(Duration::from_secs(1), promote(&driver, "a", Tier::Hbm)).await;
    assert!(cancelled.is_err());
    assert_eq!(place(&driver, "a").await.0, Residence::Unknown);
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert_eq!(place(&driver, "a").await.0, HBM);
}

#[tokio::test(start_paused = true)]
async fn bytes_are_free_when_the_meter_shows_them() {
    let network = FakeNetwork::default();
    let start = Instant::now();
    engine(&network, Engine::default());
    // Free memory comes back at 10 s, with a residue of 1 of 8 units.
    network.serve("dcgm:9400", move |_| {
        let free = if start.elapsed() < Duration::from_secs(10) { 1 } else { 8 };
        Reply::text(200, &format!("# TYPE FREE gauge\nFREE{{gpu=\"1\"}} 99\nFREE{{gpu=\"0\"}} {free}\n"))
    });
    let mut spec = spec();
    spec["meter"] = json!({
        "server": {"url": "http://dcgm:9400"}, "metric": "FREE", "labels": "gpu=\"0\"", "unit_bytes": 1_000,
    });
    let driver = driver(spec, &network);
    let outcome = demote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(10));
    assert_eq!(outcome.free_bytes, Some((1_000, 8_000)));
    // It frees nothing the next time, as in some engines with several modalities.
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    let error = demote(&driver, "a", Tier::Dram).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    assert!(error.message.contains("8000 before, 8000 now"), "{error}");
    assert_eq!(probe(&driver).await.free_bytes, Some(8_000));
}
