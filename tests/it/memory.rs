//! The memory of past prompts over a running gateway with the real router: uploads, the policy `knn`, records, restarts.

use std::process::Command;

use e2e::{Answer, Client, Gateway, binary};
use mock_expert::Mock;
use serde_json::{Value, json};

use crate::support::{ask, llm, mock};

const CODE: &str = "Write a Python function that reverses a linked list.";
const LAW: &str = "Is a verbal contract for the sale of land binding under English law?";

fn config(url: &str) -> String {
    let experts: String = ["coder", "general", "lawyer"].iter().map(|id| llm(id, url, "")).collect();
    format!(
        "experts:\n{experts}routes:\n  - {{id: past, policy: {{kind: knn, k: 2, tau: 0.2}}, default: general}}\n\
         \x20 - {{id: sure, policy: {{kind: knn, k: 1, robust: {{expert: general, below: 0.5}}}}}}\nmemory: {{max_prompts: 8}}\n"
    )
}

struct Bed {
    gateway: Gateway,
    client: Client,
    mock: Mock,
    folder: tempfile::TempDir,
}

impl Bed {
    async fn start() -> Self {
        let (mock, folder) = (mock().await, tempfile::tempdir().unwrap());
        let gateway = Gateway::start_in(folder.path(), &config(&mock.url())).unwrap();
        Self { gateway, client: Client::default(), mock, folder }
    }

    /// Kills the gateway and starts it again over the same store.
    fn restart(self) -> Self {
        let Self { mut gateway, client, mock, folder } = self;
        gateway.kill().unwrap();
        drop(gateway);
        let gateway = Gateway::start_in(folder.path(), &config(&mock.url())).unwrap();
        Self { gateway, client, mock, folder }
    }

    async fn admin(&self, method: &str, path: &str, body: &str) -> Answer {
        let bearer = self.gateway.bearer();
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
        self.client.send(method, &self.gateway.admin_v1(path), &headers, body.to_owned()).await.unwrap()
    }

    async fn add(&self, lines: &[Value]) -> Answer {
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        self.admin("POST", "memory", &text.join("\n")).await
    }

    async fn chat(&self, route: &str, text: &str) -> Answer {
        let answer = self.client.post(&self.gateway.v1("chat/completions"), &ask(route, text)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer
    }

    async fn record(&self, answer: &Answer) -> Value {
        let path = format!("decisions/{}", answer.header("x-guildhall-decision"));
        self.admin("GET", &path, "").await.json()
    }

    async fn replay(&self, answer: &Answer) -> Value {
        let path = format!("decisions/{}/replay", answer.header("x-guildhall-decision"));
        self.admin("POST", &path, "").await.json()
    }
}

fn past() -> [Value; 3] {
    [
        json!({"id": "code-1", "text": "a Python function that sorts a linked list", "outcomes": {"coder": 0.9, "lawyer": 0.1}}),
        json!({"id": "law-1", "text": "whether a contract for the sale of land is binding in law", "outcomes": {"coder": 0.2, "lawyer": 0.8}}),
        json!({"id": "law-2", "text": "is a will without witnesses valid under English law?", "outcomes": {"coder": 0.1, "lawyer": 0.9}}),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_of_similar_prompts_decide_outlast_a_crash_and_are_on_record() {
    let bed = Bed::start().await;
    let before = bed.chat("past", CODE).await;
    assert_eq!(before.header("x-guildhall-path"), "fallback", "nothing is remembered");
    assert_eq!(before.header("x-guildhall-policy"), "knn");
    let added = bed.add(&past()).await;
    assert_eq!(added.status, 200, "{}", added.text());
    assert_eq!(added.json(), json!({"added": 3, "replaced": 0, "prompts": 3, "unknown_experts": []}));

    let code = bed.chat("past", CODE).await;
    assert_eq!(code.header("x-guildhall-expert"), "coder");
    assert_eq!(bed.chat("past", LAW).await.header("x-guildhall-expert"), "lawyer");
    let record = bed.record(&code).await;
    let near = &record["planned"]["neighbours"];
    assert_eq!((near.as_array().unwrap().len(), &near[0]["id"]), (2, &json!("code-1")), "{record}");
    assert!(near[0]["similarity"].as_f64().unwrap() > near[1]["similarity"].as_f64().unwrap());
    assert_eq!(record["planned"]["candidates"][0]["reason"], "neighbours");

    // A record holds what was near then: whatever becomes of the memory, the plan is the same.
    assert_eq!(bed.admin("DELETE", "memory", "").await.json(), json!({"removed": 3}));
    assert_eq!(bed.chat("past", CODE).await.header("x-guildhall-path"), "fallback");
    let replay = bed.replay(&code).await;
    assert_eq!((&replay["same"], &replay["replayed"]), (&json!(true), &replay["recorded"]), "{replay}");
    assert_eq!(replay["replayed"]["candidates"][0]["expert"], "coder");

    assert_eq!(bed.add(&past()).await.status, 200);
    let bed = bed.restart();
    assert_eq!(bed.chat("past", LAW).await.header("x-guildhall-expert"), "lawyer");
    let metrics = bed.client.get(&format!("{}/metrics", bed.gateway.admin)).await.unwrap().text();
    assert!(metrics.contains("guildhall_decisions_total{policy=\"knn\",basis=\"confident\"}"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_and_its_embedding_are_the_same_prompt_and_nothing_of_the_text_is_kept() {
    let bed = Bed::start().await;
    assert_eq!(bed.add(&past()[..1]).await.status, 200);
    let kept = bed.admin("GET", "memory/code-1", "").await.json();
    assert_eq!(
        (&kept["encoder"], kept["embedding"].as_array().unwrap().len()),
        (&json!("guildhall-minilm-l6"), 384)
    );
    let same = json!({"id": "code-2", "embedding": kept["embedding"], "outcomes": {"coder": 0.9}});
    let other = json!({"id": "other", "embedding": [1.0, 2.0], "encoder": "another-encoder", "outcomes": {"lawyer": 1.0}});
    let added = bed.add(&[same, other]).await;
    assert_eq!(added.status, 200, "{}", added.text());
    let near = bed.record(&bed.chat("past", CODE).await).await["planned"]["neighbours"].clone();
    assert_eq!(near.as_array().unwrap().len(), 2, "what another encoder embedded is not looked at: {near}");
    let similar = |at: usize| near[at]["similarity"].as_f64().unwrap();
    assert!((similar(0) - similar(1)).abs() < 1e-5, "{near}");
    let listed = bed.admin("GET", "memory", "").await;
    assert_eq!(listed.json()["spaces"], json!({"guildhall-minilm-l6": 2, "another-encoder": 1}));
    let why = listed.json()["items"][2]["unused_because"].to_string();
    assert!(why.contains("another-encoder") && why.contains("guildhall-minilm-l6"), "{why}");
    assert!(!listed.text().contains("linked list"));
    for file in std::fs::read_dir(bed.folder.path()).unwrap() {
        let content = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!content.windows(14).any(|window| window == b"sorts a linked"), "the text is on disk");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_unlike_all_others_goes_to_the_robust_expert() {
    let bed = Bed::start().await;
    let bad = json!({"id": "bad", "text": CODE, "outcomes": {"coder": 0.2, "lawyer": 0.1}});
    assert_eq!(bed.add(&[bad]).await.status, 200);
    let answer = bed.chat("sure", CODE).await;
    assert_eq!(answer.header("x-guildhall-expert"), "general", "the best known outcome is below 0.5");
    let record = bed.record(&answer).await;
    assert_eq!(record["planned"]["basis"], "uncertain", "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_fills_the_memory() {
    let bed = Bed::start().await;
    let file = bed.folder.path().join("past.jsonl");
    let lines: Vec<String> = past().iter().map(ToString::to_string).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let run = |args: &[&str]| {
        let output = Command::new(binary("guildhall").unwrap())
            .arg("memory")
            .args(args)
            .env("GUILDHALL_ADMIN_URL", &bed.gateway.admin)
            .env("GUILDHALL_ADMIN_TOKEN", bed.gateway.token())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let file = file.to_str().unwrap();
    let (code, said, wrong) = run(&["add", file]);
    assert_eq!((code, said.as_str()), (Some(0), "3 added, 0 replaced; 3 in all\n"), "{wrong}");
    assert_eq!(bed.chat("past", CODE).await.header("x-guildhall-expert"), "coder");
    assert!(run(&["list"]).1.contains("code-1"));
    std::fs::write(file, "{\"text\": \"x\", \"outcomes\": {\"coder\": 7}}").unwrap();
    let (code, _, wrong) = run(&["add", file]);
    assert_eq!(code, Some(2), "{wrong}");
    assert!(wrong.contains("line 1: outcomes.coder: "), "{wrong}");
    assert_eq!(run(&["remove", "code-1"]).1, "code-1 removed\n");
    assert_eq!(run(&["remove", "--all"]).1, "2 removed\n");
}
