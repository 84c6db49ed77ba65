//! The commands against a real listener with the admin API behind.

use clap::Parser;
use serde_json::Value;

use super::*;
use crate::admin::tests::fixture::TOKEN;
use crate::cli::admin_client::tests::Running;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

impl Running {
    async fn run(&self, line: &str) -> Result<Said, Failure> {
        self.run_as(TOKEN, line).await
    }

    async fn run_as(&self, token: &str, line: &str) -> Result<Said, Failure> {
        let words = line.split_whitespace().map(|w| w.replace('~', " "));
        let fixed = ["experts", "--url", &self.url, "--token", token].map(str::to_owned);
        let args = Line::try_parse_from(fixed.into_iter().chain(words))
            .map_err(|e| Failure::Usage(e.to_string()))?;
        let client = AdminClient::new(&args.args.server)?;
        let env = |name: &str| (name == "KEY").then(|| "sk-1234".to_owned());
        execute(&client, &args.args.command, &env).await
    }

    async fn text(&self, line: &str) -> String {
        self.run(line).await.unwrap_or_else(|e| panic!("{line}: {e}")).text
    }

    async fn failure(&self, line: &str) -> String {
        match self.run(line).await {
            Ok(said) => panic!("{line}: {}", said.text),
            Err(failure) => failure.to_string(),
        }
    }
}

#[tokio::test]
async fn an_expert_lives_through_its_life() {
    let gateway = Running::start().await;
    let add = "add --id big/coder --endpoint http://127.0.0.1:9/v1 --api-key-env KEY --skill code=0.9 --can tools,vision";
    assert_eq!(gateway.text(&format!("{add} --dry-run")).await, "big/coder could be added");
    assert_eq!(gateway.text(add).await, "big/coder added");
    assert!(gateway.failure(add).await.contains("big/coder: expert `big/coder` is already there"));

    let shown = gateway.text("get big/coder").await;
    assert!(
        shown.contains("id: big/coder") && shown.contains("\"***\"") || shown.contains("'***'"),
        "{shown}"
    );
    assert!(!shown.contains("sk-1234"));
    let list = gateway.text("list").await;
    assert!(list.contains("big/coder  llm       admin  ready  code 0.90"), "{list}");

    assert_eq!(
        gateway.text("update big/coder --description far~away --skill math=0.5").await,
        "big/coder updated"
    );
    let now = gateway.run("get big/coder").await.unwrap_or_else(|e| panic!("{e}")).json;
    assert_eq!((&now["description"], &now["skills"]["code"]), (&json!("far away"), &json!(0.9)));
    assert!(
        gateway.failure("update big/coder --if-match stale --description x").await.contains("has changed")
    );
    assert!(gateway.failure("update big/coder").await.contains("nothing to change"));
    let etag = now["etag"].as_str().unwrap();
    gateway.text(&format!("update big/coder --if-match {etag} --context-tokens 8192")).await;

    assert_eq!(gateway.text("drain big/coder").await, "big/coder takes nothing new");
    assert!(gateway.text("list").await.contains("draining"));
    assert_eq!(gateway.text("undrain big/coder").await, "big/coder takes requests again");
    assert!(gateway.failure("probe big/coder").await.contains("big/coder does not answer"));
    assert!(gateway.text("probe general").await.starts_with("general answers, in "));
    assert_eq!(gateway.text("remove big/coder").await, "big/coder removed");
    assert!(gateway.failure("get big/coder").await.contains("there is no expert `big/coder`"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_files_experts_are_added_until_one_is_refused() {
    let gateway = Running::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("experts.yaml");
    let text = "experts:\n- {id: a, backend: {kind: constant, text: x}}\n- {id: b, backend: {kind: constnt, text: x}}\n";
    std::fs::write(&file, text).unwrap();
    let told = gateway.failure(&format!("add -f {}", file.display())).await;
    assert!(
        told.starts_with("b: backend.kind: unknown variant") && told.ends_with("(a added before)"),
        "{told}"
    );
    std::fs::write(&file, "{\"id\": \"a\", \"backend\": {\"kind\": \"constant\", \"text\": \"y\"}}").unwrap();
    assert_eq!(gateway.text(&format!("update a -f {}", file.display())).await, "a updated");
    let now: Value = gateway.api.get("/experts/a").await.body;
    assert_eq!(now["backend"]["text"], "y");
    assert!(gateway.failure("add -f /nowhere/x.yaml").await.contains("/nowhere/x.yaml: "));
    assert!(gateway.failure("add --id x -f y").await.contains("cannot be used with"));
    gateway.stop().await;
}

#[tokio::test]
async fn a_wrong_token_and_a_wrong_address_are_told() {
    let gateway = Running::start().await;
    let Err(Failure::Usage(message)) = gateway.run_as("wrong", "list").await else {
        panic!("must be bad usage")
    };
    assert_eq!(message, "this is not an admin token");
    let mut nowhere = gateway;
    nowhere.url = "http://127.0.0.1:9".into();
    assert!(nowhere.failure("list").await.contains("cannot reach the admin API at http://127.0.0.1:9"));
    nowhere.stop().await;
}
