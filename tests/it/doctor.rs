//! `guildhall doctor`: what it finds, what it advises, and its exit codes.

use std::path::Path;
use std::process::{Command, Output};

use e2e::{Gateway, binary, onnxruntime, repository};
use mock_expert::{Mock, Settings};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{fixed, llm};

/// Runs the command in a folder with this configuration, whose listeners and store are free.
async fn doctor(folder: &Path, config: &str, options: &[&str]) -> Output {
    let listeners = "data: {listen: '127.0.0.1:0'}\nadmin: {listen: '127.0.0.1:0'}\n";
    let own = if config.contains("listen:") { "" } else { listeners };
    let file = folder.join("guildhall.yaml");
    std::fs::write(&file, format!("{own}{config}")).unwrap();
    let patience = if options.contains(&"--timeout") { &[][..] } else { &["--timeout", "2"] };
    run(folder, &[&["--config", "guildhall.yaml"], patience, options].concat()).await
}

async fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("guildhall").unwrap());
    command
        .arg("doctor")
        .args(arguments)
        .current_dir(folder)
        .env_remove("GUILDHALL_ADMIN_TOKEN")
        .env_remove("GUILDHALL_CONFIG");
    if let Ok(library) = onnxruntime() {
        command.env("ORT_DYLIB_PATH", library);
    }
    // Mocks run on this runtime meanwhile.
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    value
}

/// The checks of a section that have this name.
fn checks<'a>(report: &'a Value, section: &str, name: &str) -> Vec<&'a Value> {
    let all = report["checks"].as_array().unwrap().iter();
    all.filter(|c| c["section"] == section && c["name"] == name).collect()
}

/// Status, detail and remedy of the only such check.
fn one<'a>(report: &'a Value, section: &str, name: &str) -> (&'a str, &'a str, &'a str) {
    let found = checks(report, section, name);
    assert_eq!(found.len(), 1, "{section} {name} in {report:#}");
    let text = |key: &str| found[0][key].as_str().unwrap_or_default();
    (text("status"), text("detail"), text("remedy"))
}

async fn serving(models: &[&str]) -> Mock {
    let models = models.iter().map(|m| (*m).to_owned()).collect();
    Mock::start(Settings { models, ..Settings::default() }).await.unwrap()
}

/// What differs from run to run and from machine to machine, taken out.
fn settled(text: &str, mock: &Mock) -> String {
    let mut section = String::new();
    let mut out = Vec::new();
    for line in text.lines() {
        if !line.starts_with(' ') {
            line.clone_into(&mut section);
        }
        let varies = matches!(section.as_str(), "Machine" | "Router model" | "Store");
        let line = line.replace(&mock.address().to_string(), "127.0.0.1:PORT");
        match line.strip_suffix(" ms").and_then(|line| line.rsplit_once(' ')) {
            Some((before, _)) => out.push(format!("{before} N ms")),
            None if varies && line.trim_start().starts_with("->") => {}
            // Status and name take 2 + 7 + 2 + 15 columns.
            None if varies && line.starts_with("  ") => {
                out.push(format!("  ...      {}", line[11..26].trim_end()));
            }
            None if line.contains(" checks: ") => out.push("N checks: ...".to_owned()),
            None => out.push(line),
        }
    }
    out.join("\n").replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[tokio::test]
async fn a_healthy_setup_passes_and_reads_well() {
    let folder = tempfile::tempdir().unwrap();
    let mock = serving(&["coder", "writer"]).await;
    let config = format!(
        "router: {{bundle: '{}'}}\nexperts:\n{}{}routes:\n  - {{id: auto, policy: {{kind: coe}}, default: writer}}\n",
        repository().join("router-models/default").display(),
        llm("coder", &mock.url(), "skills: {coding: 0.9, data_sql: 0.9}"),
        llm("writer", &mock.url(), "skills: {creative_writing: 0.9}"),
    );
    let output = doctor(folder.path(), &config, &[]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    insta::assert_snapshot!(settled(&text, &mock), @r"
    guildhall VERSION doctor, guildhall.yaml

    Configuration
      ok       file            guildhall.yaml is valid: 2 experts, 1 route
      ok       secrets         none in the file itself
      ok       time-outs       agree with each other

    Machine
      ...      open files
      ...      memory
      ...      cores
      ...      clock
      ...      loopback
      ...      backlog

    Router model
      ...      library
      ...      bundle
      ...      model
      ...      provider

    Store
      ...      folder
      ...      file
      ...      disk

    Listeners
      ok       data.listen     127.0.0.1:0: a free port is picked at the start
      ok       admin.listen    127.0.0.1:0: a free port is picked at the start

    Access
      ok       callers         127.0.0.1:0 is for this machine alone

    Experts
      ok       coder           http://127.0.0.1:PORT/v1 has coder, N ms
      ok       writer          http://127.0.0.1:PORT/v1 has writer, N ms

    Routes
      ok       auto            coe over coder, writer, default writer
      ok       unused experts  none: every expert is in reach of a route
      warning  skills          16 of 19 categories have no skilled expert: assistant_actions, chitchat, extraction_classification, finance_business and 12 more
                               -> give an expert these skills; until then the route's default or robust expert answers

    Running gateway
      ok       readiness       not looked for: admin.listen names no port

    N checks: ...
    ");

    let output = doctor(folder.path(), &config, &["--json"]).await;
    let report = report(&output);
    assert_eq!((output.status.code(), &report["ok"]), (Some(0), &Value::Bool(true)));
    for (section, name) in [
        ("configuration", "file"),
        ("router", "library"),
        ("router", "bundle"),
        ("router", "model"),
        ("store", "folder"),
        ("experts", "coder"),
        ("routes", "auto"),
        ("gateway", "readiness"),
    ] {
        assert_eq!(one(&report, section, name).0, "ok", "{section} {name}: {report:#}");
    }
    // Looking left nothing behind.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn the_built_in_demo_passes_offline() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["--json", "--offline"]).await;
    // Its ports may be in use on this machine, which is none of this test's business.
    let report = report(&output);
    assert_eq!(one(&report, "configuration", "file").0, "ok");
    assert_eq!(one(&report, "experts", "without a server").1.split(':').next(), Some("4 experts"));
}

/// An upstream that answers everything with this status.
async fn answering(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn each_way_in_which_an_expert_fails_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let mock = serving(&["qwen2.5-coder"]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = |listener: &TcpListener| format!("http://{}/v1", listener.local_addr().unwrap());
    let (silent_url, gone_url) = (url(&silent), url(&gone));
    drop(gone);
    let key = "sk-never-shown-0123456789";
    let keyed = format!(
        "  - {{id: keyed, backend: {{kind: llm, endpoints: [{{url: '{}'}}], api_key: {key}}}}}\n",
        answering("401 Unauthorized").await
    );
    let config = format!(
        "experts:\n{keyed}{}{}{}{}{}{}{}",
        llm("qwen2.5-codr", &mock.url(), ""),
        llm("gone", &gone_url, ""),
        llm("silent", &silent_url, ""),
        llm("listless", &answering("404 Not Found").await, ""),
        llm("broken", &answering("503 Service Unavailable").await, ""),
        llm("nameless", "http://no-such-host.invalid/v1", ""),
        fixed(&["gone"])
    );
    let output = doctor(folder.path(), &config, &["--json"]).await;
    let report = report(&output);
    assert_eq!((output.status.code(), &report["ok"]), (Some(1), &Value::Bool(false)));
    for (name, status, detail, remedy) in [
        ("keyed", "failure", "401 Unauthorized", "valid key"),
        ("qwen2.5-codr", "failure", "no model `qwen2.5-codr`", "`qwen2.5-coder`"),
        ("gone", "failure", "the connection failed", "start the server"),
        ("silent", "failure", "did not begin to answer in time", "--timeout"),
        ("listless", "warning", "lists no models", "url ends with"),
        ("broken", "failure", "503", "server's log"),
        ("nameless", "failure", "host name was not found", "correct the host"),
    ] {
        let found = one(&report, "experts", name);
        assert_eq!(found.0, status, "{name}: {found:?}");
        assert!(found.1.contains(detail) && found.2.contains(remedy), "{name}: {found:?}");
    }
    assert_eq!(one(&report, "routes", "auto").0, "failure");
    assert_eq!(one(&report, "routes", "unused experts").0, "warning");
    assert_eq!(one(&report, "router", "needed").0, "ok");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(key));

    let output = doctor(folder.path(), &config, &["--json", "--offline"]).await;
    let report = self::report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert!(one(&report, "experts", "endpoints").1.contains("not looked at (--offline)"));
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for (config, detail) in [
        ("experts: [", "not valid YAML"),
        ("routes: [{id: auto, policy: {kind: static, order: [{expert: nobody}]}}]", "no expert `nobody`"),
        ("telemetry: {formt: text}", "did you mean `format`?"),
    ] {
        let output = doctor(folder.path(), config, &["--json"]).await;
        let report = report(&output);
        assert_eq!((output.status.code(), &report["ok"]), (Some(2), &Value::Bool(false)), "{config}");
        let (status, found, remedy) = one(&report, "configuration", "file");
        assert!(status == "failure" && format!("{found}; {remedy}").contains(detail), "{report:#}");
        assert!(!remedy.is_empty());
        assert!(!checks(&report, "machine", "cores").is_empty());
    }
    let output = run(folder.path(), &["--config", "absent.yaml", "--json"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(one(&report(&output), "configuration", "file").2.contains("guildhall init"));
    assert_eq!(run(folder.path(), &["--timeout", "never"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn a_damaged_bundle_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    for entry in std::fs::read_dir(repository().join("router-models/default")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, bundle.join(path.file_name().unwrap())).unwrap();
        }
    }
    let damaged = bundle.join("tokenizer.json");
    let mut bytes = std::fs::read(&damaged).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let config = "router: {bundle: ./bundle, load: always}\n";
    let output = doctor(folder.path(), config, &["--json"]).await;
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    let (status, detail, remedy) = one(&report, "router", "bundle");
    assert!(status == "failure" && detail.contains("tokenizer.json: sha256 is"), "{report:#}");
    assert!(remedy.contains("copy it again"), "{report:#}");
    assert!(checks(&report, "router", "model").is_empty());
}

#[tokio::test]
async fn a_taken_port_is_a_failure_unless_a_gateway_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = stranger.local_addr().unwrap();
    let config = format!("data: {{listen: '{address}'}}\nadmin: {{listen: '127.0.0.1:0'}}\n");
    let output = doctor(folder.path(), &config, &["--json", "--timeout", "0.2"]).await;
    let found = report(&output);
    assert_eq!(output.status.code(), Some(1), "{found:#}");
    let (status, detail, remedy) = one(&found, "listeners", "data.listen");
    assert!(status == "failure" && detail.contains("no guildhall"), "{found:#}");
    assert!(remedy.contains("set data.listen to another port"), "{found:#}");

    let objects =
        format!("experts:\n  - {{id: a, backend: {{kind: constant, text: hi}}}}\n{}", fixed(&["a"]));
    let gateway = Gateway::start(&objects).unwrap();
    let address = |url: &str| url.trim_start_matches("http://").to_owned();
    let config = format!(
        "data: {{listen: '{}'}}\nadmin: {{listen: '{}', token: {}}}\nstore: {{path: '{}'}}\n{objects}",
        address(&gateway.url),
        address(&gateway.admin),
        gateway.token(),
        gateway.folder().join("store.redb").display(),
    );
    let output = doctor(folder.path(), &config, &["--json"]).await;
    let found = report(&output);
    assert_eq!(output.status.code(), Some(0), "{found:#}");
    for listener in ["data.listen", "admin.listen"] {
        let (status, detail, _) = one(&found, "listeners", listener);
        assert!(status == "ok" && detail.contains("is served by guildhall"), "{found:#}");
    }
    assert!(one(&found, "store", "file").1.contains("in use by the running gateway"), "{found:#}");
    assert_eq!(one(&found, "gateway", "readiness").0, "ok");
    assert_eq!(one(&found, "gateway", "errors").1, "0 of 0 requests since its start ended with a 5xx status");
    assert_eq!(one(&found, "access", "callers").0, "ok");
    // It was started with port 0, with the router bundle's path and leave to call this machine.
    let (status, detail, _) = one(&found, "gateway", "configuration");
    assert_eq!((status, detail), ("warning", "changes of admin, data, router, upstream wait for a restart"));
}

#[tokio::test]
async fn a_gateway_with_tls_and_keys_is_known_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| repository().join("services/experts/tests/tls").join(name).display().to_string();
    let tls = |key: &str| format!("tls: {{cert_file: '{}', key_file: '{}'}}", file("server.pem"), file(key));
    let objects =
        format!("experts:\n  - {{id: a, backend: {{kind: constant, text: hi}}}}\n{}", fixed(&["a"]));
    let key = format!("keys: [{{id: ci, secrets: [{{hash: 'sha256:{}'}}]}}]\n", "0".repeat(64));
    let served = format!("data: {{listen: '127.0.0.1:0', {}}}\n{objects}{key}", tls("server.key"));
    let gateway = Gateway::start(&served).unwrap();
    let listen = gateway.url.trim_start_matches("https://");
    let store = folder.path().join("store.redb");
    let config = |key_file: &str| {
        format!(
            "data: {{listen: '{listen}', {}}}\nadmin: {{listen: '127.0.0.1:0'}}\nstore: {{path: '{}'}}\n{objects}{key}",
            tls(key_file),
            store.display(),
        )
    };
    let found = report(&doctor(folder.path(), &config("server.key"), &["--json"]).await);
    let (status, detail, _) = one(&found, "listeners", "data.listen");
    assert!(status == "ok" && detail.ends_with("is served by a guildhall"), "{found:#}");
    let (status, detail, _) = one(&found, "listeners", "data.tls");
    assert!(status == "ok" && detail.ends_with("certificate until 2126-10-29"), "{found:#}");
    assert!(one(&found, "access", "callers").1.ends_with("needs an API key"), "{found:#}");
    let output = doctor(folder.path(), &config("client.key"), &["--json"]).await;
    let found = report(&output);
    let (status, detail, _) = one(&found, "listeners", "data.tls");
    assert!(status == "failure" && detail.contains("cannot be used with the key"), "{found:#}");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn what_vouches_for_callers_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = answering("503 Service Unavailable").await;
    let config = format!(
        "data: {{listen: '0.0.0.0:0'}}\nadmin: {{listen: '127.0.0.1:0'}}\n\
         auth: {{jwt: [{{issuer: '{issuer}', audience: [us], jwks_url: '{issuer}/keys'}}]}}\n"
    );
    let found = report(&doctor(folder.path(), &config, &["--json"]).await);
    let (status, detail, remedy) = one(&found, "access", &issuer);
    assert!(status == "failure" && detail.contains("503") && remedy.contains("jwks_url"), "{found:#}");
    let found = report(&doctor(folder.path(), &config, &["--json", "--offline"]).await);
    assert_eq!(one(&found, "access", &issuer).0, "ok");
    let config = "data: {listen: '0.0.0.0:0'}\nadmin: {listen: '127.0.0.1:0'}\n";
    let found = report(&doctor(folder.path(), config, &["--json"]).await);
    let (status, detail, remedy) = one(&found, "access", "callers");
    assert!(status == "warning" && detail.contains("nobody is let in"), "{found:#}");
    assert!(remedy.contains("guildhall keys create"), "{found:#}");
}
