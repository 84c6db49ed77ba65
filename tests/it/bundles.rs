//! Router models uploaded, watched, switched and taken back, over real sockets.

mod broken;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use e2e::{Answer, Client, Gateway, binary, repository};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{ask, llm, metric, mock, until};

/// The version of the bundle that ships.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let manifest = std::fs::read_to_string(repository().join("router-models/default/bundle.yaml")).unwrap();
    let line = manifest.lines().find_map(|line| line.strip_prefix("version: ")).unwrap();
    line.trim_matches('"').to_owned()
});

/// Its id.
pub(super) static SHIPPED: LazyLock<String> = LazyLock::new(|| format!("default@{}", *VERSION));

/// The shipped bundle's files under another version, with changes in the manifest.
fn bundle(version: &str, change: impl Fn(String) -> String) -> Vec<(String, Vec<u8>)> {
    let from = repository().join("router-models/default");
    let read = |name: &str| std::fs::read(from.join(name)).unwrap();
    let manifest = String::from_utf8(read("bundle.yaml")).unwrap();
    let stated = format!("version: \"{}\"", *VERSION);
    let versioned = manifest.replacen(&stated, &format!("version: \"{version}\""), 1);
    assert!(versioned.contains(version), "the manifest states its version in another way now");
    let mut files = vec![("bundle.yaml".into(), change(versioned).into_bytes())];
    files.extend(
        ["model.onnx", "tokenizer.json", "first.safetensors"].map(|name| (name.to_owned(), read(name))),
    );
    files
}

/// The same with its category `coding` under another name.
fn renamed(version: &str) -> Vec<(String, Vec<u8>)> {
    bundle(version, |manifest| {
        manifest
            .replace("- name: coding\n", "- name: programming\n")
            .replace("category: coding\n", "category: programming\n")
    })
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("bundle/{name}"), content.as_slice()).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Two experts that the router tells apart, and one that takes the rest.
fn config(url: &str, skill: &str) -> String {
    let experts = [
        llm("coder", url, &format!("skills: {{{skill}}}")),
        llm("counter", url, "skills: {math: 1.0}"),
        llm("spare", url, ""),
    ];
    format!(
        "experts:\n{}routes:\n  - {{id: auto, policy: {{kind: coe}}, default: spare}}\n",
        experts.concat()
    )
}

struct Admin<'a> {
    client: Client,
    gateway: &'a Gateway,
}

impl<'a> Admin<'a> {
    fn of(gateway: &'a Gateway) -> Self {
        Self { client: Client::default(), gateway }
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<hyper::body::Bytes>) -> Answer {
        let bearer = self.gateway.bearer();
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.client.send(method, &self.gateway.admin_v1(path), &headers, body).await.unwrap()
    }

    /// Sends what must succeed.
    async fn done(&self, method: &str, path: &str, body: impl Into<hyper::body::Bytes>) -> Value {
        let answer = self.send(method, path, body).await;
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text());
        answer.json()
    }

    /// What the list says of the bundles: id, whether it is active, previous, a shadow.
    async fn roles(&self) -> Vec<(String, bool, bool, bool)> {
        let list = self.done("GET", "bundles", "").await;
        let row = |b: &Value| {
            let id = b["id"].as_str().unwrap().to_owned();
            (id, b["active"] == true, b["previous"] == true, b["shadow"].is_number())
        };
        list["items"].as_array().unwrap().iter().map(row).collect()
    }
}

fn row(id: &str, active: bool, previous: bool, shadow: bool) -> (String, bool, bool, bool) {
    (id.to_owned(), active, previous, shadow)
}

/// What lies in the folder of uploaded bundles.
fn kept(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("store.bundles")).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Clients that ask what two experts are for, half of it new to the cache.
struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn begin(gateway: &Gateway) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |n| tokio::spawn(ask_on(gateway.v1("chat/completions"), n, stop.clone(), sent.clone()));
        let clients = (0..4).map(client).collect();
        Self { stop, sent, clients }
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    async fn end_without_loss(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut bad = Vec::new();
        for client in self.clients {
            bad.extend(client.await.unwrap());
        }
        let sent = self.sent.load(Ordering::Relaxed);
        assert!(bad.is_empty(), "{} of {sent} went wrong: {:?}", bad.len(), bad.first());
    }
}

/// Asks on and on; the result is what went wrong.
async fn ask_on(url: String, n: usize, stop: Arc<AtomicBool>, sent: Arc<AtomicUsize>) -> Vec<String> {
    let client = Client::default();
    let mut bad = Vec::new();
    let mut i = 0;
    while !stop.load(Ordering::Relaxed) {
        i += 1;
        let (prompt, expert) = match i % 4 {
            0 => ("Write a Python function that reverses a linked list.".to_owned(), "coder"),
            1 => ("What is the derivative of x^2 * sin(x)?".to_owned(), "counter"),
            2 => (format!("Write a Python function that adds {n} and {i}."), "coder"),
            _ => (format!("What is the derivative of {n}x^2 + {i}x?"), "counter"),
        };
        let mut body = ask("auto", &prompt);
        body["stream"] = (i % 2 == 0).into();
        match client.post(&url, &body).await {
            Ok(answer)
                if answer.status == 200
                    && answer.header("x-guildhall-path") == "upstream"
                    && answer.header("x-guildhall-expert") == expert => {}
            Ok(answer) => bad.push(format!("{prompt}: {} {:?}", answer.status, answer.headers)),
            Err(error) => bad.push(format!("{error:#}")),
        }
        sent.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bad
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_uploaded_shadowed_activated_and_taken_back_under_load_and_no_request_is_lost() {
    let mock = mock().await;
    let gateway = Gateway::start(&config(&mock.url(), "coding: 1.0")).unwrap();
    let admin = Admin::of(&gateway);
    let load = Load::begin(&gateway);

    let uploaded = admin.done("POST", "bundles", archive(&bundle("2.0.0", |m| m))).await;
    assert_eq!(
        (uploaded["id"].as_str(), uploaded["origin"].as_str()),
        (Some("default@2.0.0"), Some("admin"))
    );
    assert_eq!(kept(gateway.folder()), ["default@2.0.0"]);
    let checked = admin.done("POST", "bundles/default@2.0.0/validate", "").await;
    assert_eq!(checked["id"], "default@2.0.0");

    admin.done("POST", "bundles/default@2.0.0/shadow", r#"{"sample": 1.0}"#).await;
    assert_eq!(
        admin.roles().await,
        [row(&SHIPPED, true, false, false), row("default@2.0.0", false, false, true)]
    );
    until("ten prompts read by both", async || {
        admin.done("GET", "bundles/default@2.0.0/comparison", "").await["compared"].as_u64().unwrap() >= 10
    })
    .await;
    let comparison = admin.done("GET", "bundles/default@2.0.0/comparison", "").await;
    assert_eq!(comparison["category_agreement"], 1.0, "it is the same model: {comparison}");
    assert_eq!(comparison["expert_agreement"], 1.0);

    for (operation, active) in [
        ("bundles/default@2.0.0/activate", "2.0.0"),
        ("bundles/rollback", VERSION.as_str()),
        ("bundles/rollback", "2.0.0"),
    ] {
        let before = load.sent();
        admin.done("POST", operation, "").await;
        let health = admin.client.get(&format!("{}/health", gateway.admin)).await.unwrap().json();
        assert_eq!(health["router"]["version"], active);
        until("requests after the switch", async || load.sent() >= before + 20).await;
    }
    assert_eq!(
        admin.roles().await,
        [row(&SHIPPED, false, true, false), row("default@2.0.0", true, false, false)]
    );
    load.end_without_loss().await;
    assert!(metric(&admin.client, &gateway, "guildhall_router_bundle{bundle=\"default@2.0.0\"}").await > 0.5);

    let refused = admin.send("DELETE", "bundles/default@2.0.0", "").await;
    assert_eq!(refused.status, 409, "{}", refused.text());
    let refused = admin.send("DELETE", &format!("bundles/{}", *SHIPPED), "").await;
    assert_eq!(refused.status, 409, "it is not ours to remove: {}", refused.text());
    admin.done("POST", "bundles/rollback", "").await;
    admin.done("DELETE", "bundles/default@2.0.0", "").await;
    assert!(kept(gateway.folder()).is_empty());
    assert_eq!(admin.roles().await, [row(&SHIPPED, true, false, false)]);
    let audit = admin.done("GET", "audit", "").await;
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|i| i["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        [
            "bundle.remove",
            "bundle.rollback",
            "bundle.rollback",
            "bundle.rollback",
            "bundle.activate",
            "bundle.shadow",
            "bundle.upload"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_with_other_categories_shows_what_it_would_change_and_changes_nothing() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(&mock.url(), "coding: 1.0");
    let mut gateway = Gateway::start_in(folder.path(), &config).unwrap();
    let admin = Admin::of(&gateway);
    admin.done("POST", "bundles", archive(&renamed("2.0.0"))).await;
    let early = admin.send("GET", "bundles/default@2.0.0/comparison", "").await;
    assert_eq!(early.status, 409, "{}", early.text());
    for sample in ["0", "1.5", "-1"] {
        let body = format!("{{\"sample\": {sample}}}");
        let refused = admin.send("POST", "bundles/default@2.0.0/shadow", body).await;
        assert_eq!((refused.status, refused.json()["error"]["param"].as_str()), (422, Some("sample")));
    }
    let own = admin.send("POST", &format!("bundles/{}/shadow", *SHIPPED), "").await;
    assert_eq!(own.status, 409, "{}", own.text());
    admin.done("POST", "bundles/default@2.0.0/shadow", "").await;
    gateway.kill().unwrap();
    drop(gateway);
    let gateway = Gateway::start_in(folder.path(), &config).unwrap();
    let admin = Admin::of(&gateway);
    until("the shadow again", async || admin.roles().await[1] == row("default@2.0.0", false, false, true))
        .await;

    let client = Client::default();
    let mut decisions = Vec::new();
    for prompt in ["Write a Python function that reverses a linked list.", "What is the derivative of x^2?"] {
        let answer = client.post(&gateway.v1("chat/completions"), &ask("auto", prompt)).await.unwrap();
        assert_eq!((answer.status, answer.header("x-guildhall-path")), (200, "upstream"));
        decisions.push(answer.header("x-guildhall-decision").to_owned());
    }
    until("both prompts compared", async || {
        admin.done("GET", "bundles/default@2.0.0/comparison", "").await["compared"] == 2
    })
    .await;
    let found = admin.done("GET", "bundles/default@2.0.0/comparison", "").await;
    assert_eq!(
        (&found["same_category"], &found["same_expert"], &found["running"]),
        (&json!(1), &json!(1), &json!(true))
    );
    assert_eq!(found["categories"]["coding"], json!({"compared": 1, "same": 0}));
    let disagreement = &found["disagreements"][0];
    assert_eq!(disagreement["decision"], decisions[0].as_str());
    assert_eq!(disagreement["decided"]["category"], "coding");
    assert_eq!(disagreement["shadow"]["category"], "programming");
    assert_eq!(disagreement["decided"]["expert"], "coder");
    assert_ne!(disagreement["shadow"]["expert"], "coder", "nobody is skilled in what is new");
    let decision = admin.done("GET", &format!("decisions/{}", decisions[0]), "").await;
    assert_eq!(decision["reading"]["bundle"], SHIPPED.as_str());
    let compared = "guildhall_shadow_compared_total{category=\"different\",expert=\"different\"}";
    assert!((metric(&client, &gateway, compared).await - 1.0).abs() < 0.1);

    // The experts of the file are skilled in what the other model does not know.
    for dry_run in ["", "?dry_run=true"] {
        let refused = admin.send("POST", &format!("bundles/default@2.0.0/activate{dry_run}"), "").await;
        assert_eq!(refused.status, 422, "{}", refused.text());
        let error = refused.json()["error"].clone();
        assert_eq!(error["param"], "experts.coder.skills.coding");
        assert!(error["message"].as_str().unwrap().contains("no category `coding`"), "{error}");
    }
    admin.done("DELETE", "bundles/default@2.0.0/shadow", "").await;
    assert_eq!(admin.roles().await[1], row("default@2.0.0", false, false, false));
    let ended = admin.done("GET", "bundles/default@2.0.0/comparison", "").await;
    assert_eq!((&ended["compared"], &ended["running"]), (&json!(2), &json!(false)));
}

#[test]
fn the_command_line_uploads_a_directory_and_switches_to_it() {
    let gateway = Gateway::start(
        "experts:\n  - {id: a, backend: {kind: constant, text: x}}\nroutes:\n  - {id: auto, policy: {kind: coe}, default: a}\n",
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in bundle("2.0.0", |m| m) {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let run = |arguments: &[&str]| {
        let output = Command::new(binary("guildhall").unwrap())
            .arg("bundles")
            .args(arguments)
            .env("GUILDHALL_ADMIN_URL", &gateway.admin)
            .env("GUILDHALL_ADMIN_TOKEN", gateway.token())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let done = |arguments: &[&str], says: &str| {
        let (code, said) = run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {said}");
        assert!(said.contains(says), "{arguments:?}: {said}");
    };
    let directory = folder.path().to_str().unwrap();
    done(&["upload", directory, "--dry-run"], "default@2.0.0 could be uploaded");
    done(&["upload", directory], "default@2.0.0 uploaded");
    let (code, said) = run(&["upload", directory]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is already there"), "{said}");
    done(&["validate", "default@2.0.0"], "can be used");
    done(&["shadow", "default@2.0.0", "--sample", "0.5"], "bundles compare default@2.0.0");
    done(&["list"], "shadow 50%");
    done(&["compare", "default@2.0.0"], "compared: 0");
    done(&["shadow", "default@2.0.0", "--end"], "ended");
    done(&["activate", "default@2.0.0"], "activated");
    done(&["list"], "previous");
    done(&["rollback"], &format!("{} activated", *SHIPPED));
    done(&["remove", "default@2.0.0"], "removed");
    let (code, said) = run(&["activate", "default@2.0.0"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no bundle"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn categories_follow_the_model_and_the_activated_one_outlasts_restarts_until_it_breaks() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(&mock.url(), "");
    let mut gateway = Gateway::start_in(folder.path(), &config).unwrap();
    let admin = Admin::of(&gateway);
    admin.done("POST", "bundles", archive(&renamed("2.0.0"))).await;
    admin.done("POST", "bundles/default@2.0.0/activate", "").await;
    let read = async |gateway: &Gateway| {
        let body = ask("auto", "Write a Python function that reverses a linked list.");
        let answer = Client::default().post(&gateway.v1("chat/completions"), &body).await.unwrap();
        answer.header("x-guildhall-category").to_owned()
    };
    assert_eq!(read(&gateway).await, "programming");
    let categories = admin.done("GET", "categories", "").await.to_string();
    assert!(categories.contains("\"programming\"") && !categories.contains("\"coding\""), "{categories}");
    let skilled =
        json!({"id": "late", "backend": {"kind": "constant", "text": "x"}, "skills": {"programming": 1.0}});
    admin.done("POST", "experts", skilled.to_string()).await;
    // The expert needs what the model before does not know.
    let refused = admin.send("POST", "bundles/rollback", "").await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert_eq!(read(&gateway).await, "programming");
    admin.done("DELETE", "experts/late", "").await;
    assert_eq!(gateway.terminate().unwrap(), Some(0));
    drop(gateway);

    let mut gateway = Gateway::start_in(folder.path(), &config).unwrap();
    assert!(gateway.said().contains("bundle default 2.0.0"), "{}", gateway.said());
    assert_eq!(read(&gateway).await, "programming");
    gateway.kill().unwrap();
    drop(gateway);

    // A damaged model must not keep the gateway down.
    std::fs::write(folder.path().join("store.bundles/default@2.0.0/model.onnx"), "cut off").unwrap();
    let mut gateway = Gateway::start_in(folder.path(), &config).unwrap();
    assert_eq!(read(&gateway).await, "coding");
    assert!(gateway.errors().contains("THE ACTIVATED ROUTER MODEL DOES NOT START"), "{}", gateway.errors());
    let admin = Admin::of(&gateway);
    let list = admin.done("GET", "bundles", "").await;
    let problem = list["items"][1]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("7 bytes, the manifest says"), "{list}");
    // What decides instead is confirmed, and the damaged one can go.
    admin.done("POST", &format!("bundles/{}/activate", *SHIPPED), "").await;
    admin.done("DELETE", "bundles/default@2.0.0", "").await;
    assert_eq!(gateway.terminate().unwrap(), Some(0));
    drop(gateway);
    let gateway = Gateway::start_in(folder.path(), &config).unwrap();
    assert!(!gateway.errors().contains("DOES NOT START"), "{}", gateway.errors());
    assert_eq!(read(&gateway).await, "coding");
}
