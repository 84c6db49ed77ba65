use std::collections::BTreeSet;

use serde_json::json;

use super::super::ErrorKind;
use super::*;

const HBM: Residence = Residence::In(Tier::Hbm);

/// An engine where a release asserts that nothing is under way, a second resumption of a tag raises, and weights come
/// back as garbage. What raises in its scheduler ends the process (`crashes`, `cut`: without an answer). `busy`
/// releases are refused before; `read_fails` reads of the weights fail.
#[derive(Default)]
struct Engine {
    paused: bool,
    released: BTreeSet<String>,
    busy: u32,
    crashes: bool,
    cut: bool,
    read_fails: u32,
}

impl Engine {
    fn answer(&mut self, call: &Call) -> Reply {
        let tags = || -> BTreeSet<String> {
            call.body["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect()
        };
        let done =
            |ok: bool| Reply::json(if ok { 200 } else { 400 }, &json!({"success": ok, "message": "?"}));
        match call.line.as_str() {
            "GET /model_info" => Reply::json(200, &json!({"model_path": "/m"})),
            "POST /generate" if self.paused => Reply::text(200, "{}").after(1_000_000),
            "POST /generate" => Reply::json(200, &json!({"text": "b"})),
            "POST /pause_generation" => {
                self.paused = true;
                done(true)
            }
            "POST /continue_generation" => {
                self.paused = false;
                done(true)
            }
            "POST /release_memory_occupation" if self.crashes => Reply::cut(),
            "POST /release_memory_occupation" if self.busy > 0 => {
                self.busy -= 1;
                Reply::json(400, &json!({"error": {"message": "not now"}}))
            }
            "POST /release_memory_occupation" => {
                assert!(self.paused && self.released.is_empty());
                self.released = tags();
                Reply::text(200, "")
            }
            "POST /resume_memory_occupation" if self.cut => Reply::cut(),
            "POST /resume_memory_occupation" if !tags().is_subset(&self.released) => Reply::cut(),
            "POST /resume_memory_occupation" => {
                self.released = self.released.difference(&tags()).cloned().collect();
                Reply::text(200, "")
            }
            line => {
                assert_eq!(
                    (line, &call.body["model_path"]),
                    ("POST /update_weights_from_disk", &json!("/m"))
                );
                let fails = self.read_fails > 0;
                self.read_fails = self.read_fails.saturating_sub(1);
                done(!fails)
            }
        }
    }
}

fn serve(network: &FakeNetwork, mut engine: Engine) {
    network.serve("sgl:30000", move |call| engine.answer(call));
}

fn rig(engine: Engine, backup: bool) -> (Driver, FakeNetwork) {
    let network = FakeNetwork::default();
    serve(&network, engine);
    let engine = json!({"server": {"url": "http://sgl:30000"}, "model_path": "/m"});
    let spec =
        json!({"driver": {"kind": "sglang_memory", "engines": {"a": engine}, "weights_cpu_backup": backup}});
    (driver(spec, &network), network)
}

fn paths(network: &FakeNetwork) -> Vec<String> {
    network.demands().iter().map(|line| line.split(' ').nth(1).unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn it_is_paused_first_and_each_tag_is_resumed_once() {
    let (driver, network) = rig(Engine::default(), true);
    assert_eq!(place(&driver, "a").await, (HBM, Evidence::Assumed));
    demote(&driver, "a", Tier::Dram).await.unwrap();
    demote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(place(&driver, "a").await, (Residence::In(Tier::Dram), Evidence::Remembered));
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    let expected = [
        "/pause_generation",
        "/release_memory_occupation",
        "/resume_memory_occupation",
        "/continue_generation",
        "/generate",
    ];
    assert_eq!(paths(&network), expected);
}

#[tokio::test(start_paused = true)]
async fn without_a_backup_nobody_is_answered_before_the_weights_were_read() {
    let (driver, network) = rig(Engine { read_fails: 1, ..Engine::default() }, false);
    demote(&driver, "a", Tier::Disk).await.unwrap();
    paths(&network);
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(paths(&network), ["/resume_memory_occupation", "/update_weights_from_disk"]);
    assert_eq!(place(&driver, "a").await, (Residence::Unknown, Evidence::Remembered));
    // What is back is not resumed again.
    promote(&driver, "a", Tier::Hbm).await.unwrap();
    assert_eq!(paths(&network), ["/update_weights_from_disk", "/continue_generation", "/generate"]);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_refuses_goes_on() {
    let (driver, network) = rig(Engine { busy: 1, ..Engine::default() }, true);
    assert_eq!(demote(&driver, "a", Tier::Dram).await.unwrap_err().kind, ErrorKind::Busy);
    assert_eq!(paths(&network).last().unwrap(), "/continue_generation");
    demote(&driver, "a", Tier::Dram).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_ended_on_its_assertion_is_whole_once_it_is_up_again() {
    let (driver, network) = rig(Engine { crashes: true, ..Engine::default() }, true);
    assert_eq!(demote(&driver, "a", Tier::Dram).await.unwrap_err().kind, ErrorKind::HalfDone);
    network.stop("sgl:30000");
    assert_eq!(place(&driver, "a").await, (Residence::Unknown, Evidence::Assumed));
    serve(&network, Engine::default());
    assert_eq!(place(&driver, "a").await, (HBM, Evidence::Server));
}

#[tokio::test(start_paused = true)]
async fn a_resumption_without_an_answer_is_not_repeated() {
    let (driver, network) = rig(Engine { cut: true, ..Engine::default() }, true);
    demote(&driver, "a", Tier::Dram).await.unwrap();
    assert_eq!(promote(&driver, "a", Tier::Hbm).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(place(&driver, "a").await, (Residence::Unknown, Evidence::Remembered));
    paths(&network);
    let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
    assert!(error.message.contains("restart its engine"), "{error}");
    assert_eq!(paths(&network), ["/generate"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_forgot_the_release_shows_after_the_resumption_raised() {
    let (driver, network) = rig(Engine::default(), true);
    demote(&driver, "a", Tier::Dram).await.unwrap();
    serve(&network, Engine::default());
    let error = promote(&driver, "a", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::HalfDone);
    // That ended it; once it is up again, all is there.
    assert_eq!(place(&driver, "a").await, (HBM, Evidence::Server));
}
