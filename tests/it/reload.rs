//! Changes of the configuration file while the gateway runs.

use std::time::Duration;

use e2e::{Client, Gateway};
use serde_json::Value;

use crate::support::{ask, fixed};

fn constant(id: &str, text: &str) -> String {
    format!("  - {{id: {id}, backend: {{kind: constant, text: '{text}'}}}}\n")
}

async fn said(client: &Client, gateway: &Gateway, model: &str) -> Value {
    let answer = client.post(&gateway.v1("chat/completions"), &ask(model, "hi")).await.unwrap();
    answer.json()["choices"][0]["message"]["content"].clone()
}

/// The admin API's word on the file, once `done` holds of it.
async fn state(client: &Client, gateway: &Gateway, done: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..1_000 {
        let bearer = gateway.bearer();
        let headers = [("authorization", bearer.as_str())];
        let answer = client.send("GET", &gateway.admin_v1("config"), &headers, "").await.unwrap();
        let reload = answer.json()["reload"].clone();
        if done(&reload) {
            return reload;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the change was not noticed:\n{}", gateway.errors());
}

#[tokio::test]
async fn a_changed_file_is_taken_over_and_a_broken_one_is_not() {
    let first = format!("experts:\n{}{}", constant("one", "first"), fixed(&["one"]));
    let gateway = Gateway::start(&first).unwrap();
    let client = Client::default();
    assert_eq!(said(&client, &gateway, "auto").await, "first");

    let second =
        format!("experts:\n{}{}{}", constant("one", "second"), constant("two", "new"), fixed(&["one"]));
    gateway.rewrite(&second).unwrap();
    state(&client, &gateway, |reload| reload["applied"] == 1).await;
    assert_eq!(said(&client, &gateway, "auto").await, "second");
    assert_eq!(said(&client, &gateway, "two").await, "new");

    // Not YAML, and YAML that names an expert that is not there.
    for broken in ["experts: [".to_owned(), format!("experts:\n{}{}", constant("one", "x"), fixed(&["on"]))] {
        gateway.rewrite(&broken).unwrap();
        gateway.signal("HUP").unwrap();
        state(&client, &gateway, |reload| reload["problem"].is_string()).await;
        assert_eq!(said(&client, &gateway, "auto").await, "second");
        let ready = client.get(&format!("{}/readyz", gateway.admin)).await.unwrap();
        assert_eq!(ready.status, 200);
        let metrics = client.get(&format!("{}/metrics", gateway.admin)).await.unwrap().text();
        assert!(metrics.contains("guildhall_config_current 0"), "{metrics}");
        gateway.rewrite(&second).unwrap();
        state(&client, &gateway, |reload| reload["problem"].is_null()).await;
    }

    gateway.rewrite(&format!("{first}telemetry: {{decisions: 5}}\n")).unwrap();
    let reload = state(&client, &gateway, |reload| reload["needs_restart"].is_array()).await;
    assert_eq!(reload["needs_restart"], serde_json::json!(["telemetry"]));
    assert_eq!(said(&client, &gateway, "auto").await, "first");
    assert_eq!(client.post(&gateway.v1("chat/completions"), &ask("two", "hi")).await.unwrap().status, 404);
}
