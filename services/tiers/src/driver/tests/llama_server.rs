//! The same driver with a real llama-server, where there is one: what the scripted one was made after.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::super::ErrorKind;
use super::*;

const HBM: Residence = Residence::In(Tier::Hbm);
const DISK: Residence = Residence::In(Tier::Disk);

/// What is not there after that never comes.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running router with models `m-a`, `m-b` and the broken `m-bad`.
struct Router {
    process: Child,
    models: TempDir,
    driver: Driver,
}

impl Drop for Router {
    fn drop(&mut self) {
        // Its models' processes end when it has.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program that `GUILDHALL_LLAMA_SERVER` or `PATH` names.
fn program() -> Option<PathBuf> {
    let named = env::var_os("GUILDHALL_LLAMA_SERVER").map(PathBuf::from);
    if let Some(named) = &named {
        assert!(named.is_file(), "GUILDHALL_LLAMA_SERVER: there is no file {}", named.display());
    }
    let paths = env::var_os("PATH").unwrap_or_default();
    let on_path =
        || env::split_paths(&paths).map(|path| path.join("llama-server")).find(|path| path.is_file());
    named.or_else(on_path)
}

impl Router {
    async fn start(more: &[&str]) -> Option<Self> {
        let Some(program) = program() else {
            println!("skipped: set GUILDHALL_LLAMA_SERVER to a llama-server, or put one on PATH");
            return None;
        };
        if !Path::new("/proc/self/cmdline").exists() {
            println!("skipped: models' processes are found in /proc");
            return None;
        }
        let models = tempfile::tempdir().unwrap();
        let model = gguf::model();
        fs::write(models.path().join("m-a.gguf"), &model).unwrap();
        fs::write(models.path().join("m-b.gguf"), &model).unwrap();
        fs::write(models.path().join("m-bad.gguf"), &model[..model.len() / 2]).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--offline", "--parallel", "1"])
            .args(["--models-max", "0", "--no-models-autoload", "--models-dir"])
            .arg(models.path())
            .args(more)
            // Other models of whoever runs this are none of its business.
            .env("LLAMA_CACHE", models.path().join("cache"))
            .env("HF_HOME", models.path().join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let spec = json!({"driver": {
            "kind": "llamacpp_router", "server": {"url": format!("http://127.0.0.1:{port}")},
            "models": {"a": "m-a", "b": "m-b", "bad": "m-bad", "none": "m-none"},
        }});
        let driver = Driver::new(serde_json::from_value(spec).unwrap()).unwrap();
        let mut router = Self { process, models, driver };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = router.driver.probe(soon()).await {
            assert!(router.process.try_wait().unwrap().is_none(), "llama-server ended");
            assert!(Instant::now() < deadline, "{error}");
            sleep(Duration::from_millis(50)).await;
        }
        Some(router)
    }

    /// Sends a signal to the process of a model, as soon as there is one.
    async fn signal(&self, model: &str, signal: &str) {
        let file = self.models.path().join(model).with_extension("gguf");
        let deadline = Instant::now() + PATIENCE;
        let pid = loop {
            if let Some(pid) = process_with(&file) {
                break pid;
            }
            assert!(Instant::now() < deadline, "{model} has no process");
            sleep(Duration::from_millis(1)).await;
        };
        let kill = format!("kill -{signal} {}", pid.to_string_lossy());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    async fn until(&self, expert: &str, residence: Residence) {
        let deadline = Instant::now() + PATIENCE;
        while place(&self.driver, expert).await.0 != residence {
            assert!(Instant::now() < deadline, "{expert} is not {residence:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn demote_in(&self, expert: &str, seconds: u64) -> Result<Outcome, DriverError> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        self.driver.demote(Step { expert: &id(expert), to: Tier::Disk, deadline }, 0).await
    }
}

/// The process that has a file among its arguments.
fn process_with(file: &Path) -> Option<OsString> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let file = file.to_str().unwrap().as_bytes();
    let has = |arguments: Vec<u8>| arguments.split(|byte| *byte == 0).any(|argument| argument == file);
    let mut ours = processes.filter(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(has));
    ours.next().map(|entry| entry.file_name())
}

#[tokio::test]
async fn models_come_answer_and_go() {
    let Some(router) = Router::start(&[]).await else { return };
    let driver = &router.driver;
    assert_eq!(probe(driver).await.strangers, [""; 0]);
    for expert in ["a", "b", "a"] {
        let outcome = promote(driver, expert, Tier::Hbm).await.unwrap();
        assert_eq!((outcome.placed.residence, outcome.evicted), (HBM, vec![]));
    }
    assert_eq!(place(driver, "a").await, (HBM, Evidence::Server));
    for expert in ["b", "b", "a"] {
        assert_eq!(demote(driver, expert, Tier::Disk).await.unwrap().placed.residence, DISK);
    }
    assert_eq!(place(driver, "a").await, (DISK, Evidence::Server));
}

#[tokio::test]
async fn what_cannot_be_loaded_is_refused_each_time() {
    let Some(router) = Router::start(&[]).await else { return };
    for _ in 0..2 {
        let error = promote(&router.driver, "bad", Tier::Hbm).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.message.contains("exit code 1"), "{error}");
        assert_eq!(place(&router.driver, "bad").await, (DISK, Evidence::Server));
    }
    let error = promote(&router.driver, "none", Tier::Hbm).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("has no model"), "{error}");
}

#[tokio::test]
async fn a_model_whose_process_was_killed_is_away_and_comes_back() {
    let Some(router) = Router::start(&[]).await else { return };
    promote(&router.driver, "a", Tier::Hbm).await.unwrap();
    router.signal("m-a", "KILL").await;
    router.until("a", DISK).await;
    promote(&router.driver, "a", Tier::Hbm).await.unwrap();
}

#[tokio::test]
async fn a_model_that_hangs_while_it_loads_can_be_taken_back() {
    let Some(router) = Router::start(&[]).await else { return };
    let expert = id("a");
    // It may have loaded before it is stopped.
    for _ in 0..20 {
        let deadline = Instant::now() + Duration::from_secs(3);
        let step = Step { expert: &expert, to: Tier::Hbm, deadline };
        let (loaded, ()) = tokio::join!(router.driver.promote(step), router.signal("m-a", "STOP"));
        assert_eq!(loaded.unwrap_err().kind, ErrorKind::HalfDone);
        if place(&router.driver, "a").await == (Residence::Moving, Evidence::Server) {
            assert_eq!(demote(&router.driver, "a", Tier::Disk).await.unwrap().placed.residence, DISK);
            promote(&router.driver, "a", Tier::Hbm).await.unwrap();
            return;
        }
        router.signal("m-a", "CONT").await;
        demote(&router.driver, "a", Tier::Disk).await.unwrap();
    }
    panic!("it was never stopped while it loaded");
}

#[tokio::test]
async fn a_model_that_hangs_while_it_stops_is_not_taken_for_loaded() {
    let Some(router) = Router::start(&[]).await else { return };
    promote(&router.driver, "a", Tier::Hbm).await.unwrap();
    router.signal("m-a", "STOP").await;
    assert_eq!(router.demote_in("a", 1).await.unwrap_err().kind, ErrorKind::HalfDone);
    assert_eq!(place(&router.driver, "a").await, (Residence::Moving, Evidence::Remembered));
    router.signal("m-a", "CONT").await;
    assert_eq!(promote(&router.driver, "a", Tier::Hbm).await.unwrap().placed.residence, HBM);
    assert_eq!(place(&router.driver, "a").await, (HBM, Evidence::Server));
}

#[tokio::test]
async fn a_model_that_sleeps_is_woken_up() {
    let Some(router) = Router::start(&["--sleep-idle-seconds", "1"]).await else { return };
    promote(&router.driver, "a", Tier::Hbm).await.unwrap();
    router.until("a", DISK).await;
    assert_eq!(promote(&router.driver, "a", Tier::Hbm).await.unwrap().placed.residence, HBM);
}
