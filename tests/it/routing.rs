//! The real router in front of mock experts.

use std::collections::BTreeMap;
use std::io::Read;

use e2e::{Client, Gateway, repository};
use mock_expert::Mock;
use serde_json::{Value, json};

use crate::support::{ask, llm, mock};

/// The categories of the shipped bundle.
fn categories() -> Vec<String> {
    let text = std::fs::read_to_string(repository().join("router-models/default/bundle.yaml")).unwrap();
    let section = text.split("\ncategories:").nth(1).expect("the manifest lists categories");
    let names = section.lines().skip(1).take_while(|l| l.starts_with([' ', '-']));
    names.filter_map(|l| Some(l.split_once("name:")?.1.trim().trim_matches(['"', '\'']).to_owned())).collect()
}

/// One mock expert for each category, and a route that maps by category alone.
async fn gateway() -> (Gateway, Mock, Vec<String>) {
    let mock = mock().await;
    let names = categories();
    assert!(names.len() >= 2, "no categories were found");
    let experts: String = names
        .iter()
        .map(|c| {
            llm(
                &format!("e-{c}"),
                &mock.url(),
                &format!("skills: {{{c}: 1.0}}, capabilities: {{tools: true}}"),
            )
        })
        .collect();
    let config = format!(
        "experts:\n{experts}routes:\n  - {{id: auto, policy: {{kind: coe}}, default: e-{}}}\n",
        names[0]
    );
    (Gateway::start(&config).unwrap(), mock, names)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_reach_the_expert_of_their_category_and_the_headers_say_why() {
    let (gateway, _mock, _) = gateway().await;
    let client = Client::default();
    for (prompt, category) in [
        ("Write a Python function that reverses a linked list.", "coding"),
        ("What is the derivative of x^2 * sin(x)?", "math"),
        ("Translate this sentence into French: The cat sleeps on the sofa.", "translation"),
        ("Write a SQL query that returns the ten customers with the most orders.", "data_sql"),
    ] {
        let answer = client.post(&gateway.v1("chat/completions"), &ask("auto", prompt)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-guildhall-category"), category, "{prompt}");
        assert_eq!(answer.header("x-guildhall-expert"), format!("e-{category}"));
        assert!(answer.header("x-guildhall-confidence").parse::<f32>().unwrap() > 0.3);
    }
    let debug = [("x-guildhall-debug", "true"), ("content-type", "application/json")];
    let body = ask("auto", "Write a Python function that reverses a linked list.").to_string();
    let answer = client.send("POST", &gateway.v1("chat/completions"), &debug, body).await.unwrap();
    assert!(answer.header("x-guildhall-candidates").starts_with("e-coding="), "{:?}", answer.headers);
    assert!(answer.header("x-guildhall-router").contains("cache=hit"), "{:?}", answer.headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_loop_stays_with_its_expert() {
    let (gateway, _mock, _) = gateway().await;
    let client = Client::default();
    let tools = json!([{"type": "function", "function": {"name": "run_query", "parameters": {"type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]}}}]);
    let question = json!({"role": "user", "content": "Write a SQL query that counts the orders of each customer, and run it."});
    let first = json!({"model": "auto", "tools": tools, "messages": [question]});
    let answer = client.post(&gateway.v1("chat/completions"), &first).await.unwrap();
    assert_eq!(answer.header("x-guildhall-expert"), "e-data_sql");
    let call = answer.json()["choices"][0]["message"].clone();
    assert_eq!(call["tool_calls"][0]["function"]["name"], "run_query", "{}", answer.text());
    let id = call["tool_calls"][0]["id"].clone();
    let second = json!({"model": "auto", "tools": tools, "messages": [
        question, call, {"role": "user", "content": "Now tell me a joke about penguins, please, a long one"},
        {"role": "tool", "tool_call_id": id, "content": "42 rows"},
    ]});
    let headers = [("x-guildhall-debug", "true"), ("content-type", "application/json")];
    let answer =
        client.send("POST", &gateway.v1("chat/completions"), &headers, second.to_string()).await.unwrap();
    assert_eq!(answer.header("x-guildhall-expert"), "e-data_sql", "{:?}", answer.headers);
    assert_eq!(answer.header("x-guildhall-basis"), "session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_s_own_model_serves_embeddings() {
    let (gateway, _mock, _) = gateway().await;
    let client = Client::default();
    let models = client.get(&gateway.v1("models")).await.unwrap().json();
    let own = models["data"].as_array().unwrap().iter().find(|m| m["owned_by"] == "guildhall-encoder");
    let model = own.unwrap()["id"].clone();
    let body =
        json!({"model": model, "input": ["a cat sleeps", "a kitten is asleep", "quarterly tax filing"]});
    let answer = client.post(&gateway.v1("embeddings"), &body).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let vectors: Vec<Vec<f64>> = answer.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    assert!((dot(&vectors[0], &vectors[0]) - 1.0).abs() < 1e-3);
    assert!(dot(&vectors[0], &vectors[1]) > dot(&vectors[0], &vectors[2]) + 0.3);
    assert!(answer.json()["usage"]["prompt_tokens"].as_u64().unwrap() >= 10);
}

/// Every prompt of the test split through the HTTP endpoint: at least 90 % reach their label's expert.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nine_of_ten_test_prompts_reach_the_expert_of_their_label() {
    let Some(data) = e2e::data() else {
        println!("SKIPPED: GUILDHALL_DATA is not set; it names the folder that holds prompts/test.jsonl.gz");
        return;
    };
    let (gateway, _mock, names) = gateway().await;
    let file = std::fs::File::open(data.join("prompts/test.jsonl.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let rows: Vec<(String, String)> = text
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            (row["text"].as_str().unwrap().to_owned(), row["category"].as_str().unwrap().to_owned())
        })
        .collect();
    let clients = 4;
    let mut tasks = Vec::new();
    for n in 0..clients {
        let url = gateway.v1("chat/completions");
        let share: Vec<(String, String)> = rows.iter().skip(n).step_by(clients).cloned().collect();
        tasks.push(tokio::spawn(async move {
            let client = Client::default();
            let mut seen = Vec::with_capacity(share.len());
            for (text, category) in share {
                let answer = client.post(&url, &ask("auto", &text)).await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                seen.push((
                    category,
                    answer.header("x-guildhall-expert").trim_start_matches("e-").to_owned(),
                ));
            }
            seen
        }));
    }
    let mut table: BTreeMap<String, (usize, usize, usize)> =
        names.into_iter().map(|n| (n, (0, 0, 0))).collect();
    let mut right = 0;
    for task in tasks {
        for (label, reached) in task.await.unwrap() {
            table.entry(label.clone()).or_default().0 += 1;
            table.entry(reached.clone()).or_default().2 += 1;
            if label == reached {
                right += 1;
                table.entry(label).or_default().1 += 1;
            }
        }
    }
    println!("{:<28} {:>6} {:>8} {:>10}", "category", "rows", "recall", "precision");
    for (name, (rows, hits, reached)) in &table {
        let share = |n: usize| if n == 0 { 0.0 } else { *hits as f64 / n as f64 };
        println!("{name:<28} {rows:>6} {:>8.3} {:>10.3}", share(*rows), share(*reached));
    }
    let accuracy = f64::from(right) / rows.len() as f64;
    println!(
        "{} prompts through /v1/chat/completions: {accuracy:.4} reached the expert of their label",
        rows.len()
    );
    assert!(accuracy >= 0.90, "{accuracy}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_router_lets_the_default_expert_answer_and_says_so() {
    let mock = mock().await;
    let experts =
        [llm("coder", &mock.url(), "skills: {coding: 1.0}"), llm("spare", &mock.url(), "")].concat();
    // A forward pass over the whole window takes tens of milliseconds on a processor.
    let config = format!(
        "router: {{bundle: '{}', deadline_ms: 1, cascade: {{enabled: false}}}}\nexperts:\n{experts}routes:\n  - {{id: auto, policy: {{kind: coe}}, default: spare}}\n  - {{id: strict, policy: {{kind: coe}}}}\n",
        repository().join("router-models/default").display()
    );
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let prompt = "Write a Python function that reverses a linked list. ".repeat(40);
    let answer = client.post(&gateway.v1("chat/completions"), &ask("auto", &prompt)).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        (answer.header("x-guildhall-expert"), answer.header("x-guildhall-path")),
        ("spare", "fallback")
    );
    let refused = client.post(&gateway.v1("chat/completions"), &ask("strict", &prompt)).await.unwrap();
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("router_not_ready")));
    assert_eq!(refused.header("retry-after"), "1");
    let metrics = client.get(&format!("{}/metrics", gateway.admin)).await.unwrap().text();
    assert!(metrics.contains("guildhall_router_failures_total 2"), "{metrics}");
}

/// Without ONNX Runtime the first stage routes alone, everywhere visibly; there are no embeddings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_stage_routes_without_the_encoder() {
    let mock = mock().await;
    let experts = [
        llm("coder", &mock.url(), "skills: {coding: 1.0}"),
        llm("linguist", &mock.url(), "skills: {translation: 1.0}"),
    ];
    let config = format!(
        "router: {{bundle: '{}', encoder: {{provider: none}}}}\nexperts:\n{}routes:\n  - {{id: auto, policy: {{kind: coe}}, default: coder}}\n",
        repository().join("router-models/default").display(),
        experts.concat()
    );
    let gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let debug = [("x-guildhall-debug", "true"), ("content-type", "application/json")];
    for (prompt, expert) in [
        ("Write a Python function that reverses a linked list.", "coder"),
        ("Translate this sentence into German: the weather is fine today.", "linguist"),
    ] {
        let body = ask("auto", prompt).to_string();
        let answer = client.send("POST", &gateway.v1("chat/completions"), &debug, body).await.unwrap();
        assert_eq!(answer.header("x-guildhall-expert"), expert, "{:?}", answer.headers);
        assert!(answer.header("x-guildhall-router").starts_with("first;"), "{:?}", answer.headers);
    }
    let health = client.get(&format!("{}/health", gateway.admin)).await.unwrap().json();
    assert_eq!(health["router"]["first_stage"], "alone", "{health}");
    assert_eq!(health["router"]["execution_provider"], "none", "{health}");
    let metrics = client.get(&format!("{}/metrics", gateway.admin)).await.unwrap().text();
    assert!(metrics.contains("guildhall_encoder_first_stage_alone 1"), "{metrics}");
    assert!(metrics.contains(r#"guildhall_encoder_decisions_total{stage="first"} 2"#), "{metrics}");
    let models = client.get(&gateway.v1("models")).await.unwrap().json();
    let owners: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|m| &m["owned_by"]).collect();
    assert!(!owners.contains(&&json!("guildhall-encoder")), "{models}");
}
