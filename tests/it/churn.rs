//! Requests while experts come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::{Client, Gateway};
use serde_json::json;

use crate::support::{ask, fixed, llm, mock};

/// Requests in all, and clients that send them side by side.
const REQUESTS: usize = 2000;
const CLIENTS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_requests_while_experts_are_added_and_removed_lose_none() {
    let mock = mock().await;
    let config = format!("experts:\n{}{}", llm("coder", &mock.url(), ""), fixed(&["coder"]));
    let gateway = Gateway::start(&config).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let churn = {
        let (done, admin, bearer, url) =
            (done.clone(), gateway.admin_v1("experts"), gateway.bearer(), mock.url());
        tokio::spawn(async move {
            let client = Client::default();
            let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
            let mut changes = 0;
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            while !done.load(Ordering::Relaxed) || changes < 20 {
                tick.tick().await;
                let id = format!("guest-{}", changes % 3);
                let spec = json!({"id": id, "backend": {"kind": "llm", "endpoints": [{"url": url}]}});
                let created = client.send("POST", &admin, &headers, spec.to_string()).await.unwrap();
                assert_eq!(created.status, 201, "{}", created.text());
                let gone = client.send("DELETE", &format!("{admin}/{id}"), &headers, "").await.unwrap();
                assert_eq!(gone.status, 204, "{}", gone.text());
                changes += 1;
            }
            changes
        })
    };
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let url = gateway.v1("chat/completions");
        clients.push(tokio::spawn(async move {
            let client = Client::default();
            let mut bad = Vec::new();
            for i in 0..REQUESTS / CLIENTS {
                let mut body = ask("auto", &format!("request {n}/{i}"));
                body["stream"] = (i % 2 == 0).into();
                match client.post(&url, &body).await {
                    Ok(answer)
                        if answer.status == 200
                            && (i % 2 != 0 || answer.text().ends_with("data: [DONE]\n\n")) => {}
                    Ok(answer) => bad.push(format!("{} {}", answer.status, answer.text())),
                    Err(error) => bad.push(format!("{error:#}")),
                }
                // Spread over some seconds, so that many changes fall into the run.
                tokio::time::sleep(Duration::from_millis(8)).await;
            }
            bad
        }));
    }
    let mut bad = Vec::new();
    for client in clients {
        bad.extend(client.await.unwrap());
    }
    done.store(true, Ordering::Relaxed);
    let changes = churn.await.unwrap();
    assert!(bad.is_empty(), "{} of {REQUESTS} failed: {:?}", bad.len(), bad.first());
    assert!(changes >= 20, "only {changes} changes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_although_its_expert_is_removed() {
    let mock = mock_expert::Mock::start(mock_expert::Settings {
        gap: "10ms".parse().unwrap(),
        tokens: Some(60),
        ..mock_expert::Settings::default()
    })
    .await
    .unwrap();
    let gateway = Gateway::start("experts:\n  - {id: keeper, backend: {kind: constant, text: x}}\n").unwrap();
    let client = Client::default();
    let bearer = gateway.bearer();
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let spec = json!({"id": "guest", "backend": {"kind": "llm", "endpoints": [{"url": mock.url()}]}});
    client.send("POST", &gateway.admin_v1("experts"), &headers, spec.to_string()).await.unwrap();
    let mut body = ask("guest", "hi");
    body["stream"] = true.into();
    let open = client.open("POST", &gateway.v1("chat/completions"), &[], body.to_string()).await.unwrap();
    let gone = client.send("DELETE", &gateway.admin_v1("experts/guest"), &headers, "").await.unwrap();
    assert_eq!(gone.status, 204);
    let text = http_body_util::BodyExt::collect(open.into_body()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).ends_with("data: [DONE]\n\n"));
    let after = client.post(&gateway.v1("chat/completions"), &ask("guest", "hi")).await.unwrap();
    assert_eq!(after.status, 404);
}
