//! Clients that leave, in every phase of a request.

use std::time::Duration;

use e2e::{Client, Gateway};
use mock_expert::{Mock, Settings, Step};
use tokio::task::JoinHandle;

use super::settled::Level;
use super::{LIMITS, UPSTREAM};
use crate::support::ask;

/// A client that sends its request and then waits until it is told to leave.
fn client(gateway: &Gateway, model: &str) -> JoinHandle<()> {
    let mut body = ask(model, "somebody who will not stay");
    body["stream"] = true.into();
    let url = gateway.v1("chat/completions");
    tokio::spawn(async move {
        let client = Client::default();
        let answer = client.open("POST", &url, &[], body.to_string()).await;
        std::future::pending::<()>().await;
        drop((client, answer));
    })
}

/// Waits, in small steps, until so many requests are in progress here and at the mock.
async fn until(gateway: &Gateway, mock: &Mock, here: u64, there: u64) {
    for _ in 0..500 {
        if Level::now(gateway).await.unwrap().in_flight == here && mock.stats().in_flight == there {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}, {:?}, not {here} and {there}", Level::now(gateway).await, mock.stats());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_everything_along() {
    let mock = Mock::start(Settings::default()).await.unwrap();
    let strike = |fault: &str, model| Step::always(fault.parse().unwrap()).for_model(model);
    mock.script(vec![
        strike("stall", "silent"),
        strike("stall", "taken"),
        strike("stall-mid", "halting"),
        strike("status:429,retry-after=20", "resting"),
    ]);
    let url = mock.url();
    let long = LIMITS.replace("1200", "60000");
    let llm = |id: &str, more: &str| {
        format!(
            "  - {{id: {id}, backend: {{kind: llm, endpoints: [{{url: '{url}'}}], \
             retries: {{backoff: {{base_ms: 50, max_ms: 30000}}}}}}, {long}{more}}}\n"
        )
    };
    let config = format!(
        "{UPSTREAM}experts:\n{}{}{}{}routes:\n  - {{id: narrow, policy: {{kind: static, order: [{{expert: silent}}]}}, concurrency: {{concurrent: 1, queue: 5}}}}\n",
        llm("silent", ""),
        llm("halting", ""),
        llm("resting", ""),
        llm("taken", ", concurrency: {concurrent: 1, queue: 5}"),
    );
    let gateway = Gateway::start(&config).unwrap();
    let before = Level::settled(&gateway, None).await.unwrap();

    // While the expert's head or the rest of its stream is waited for.
    for model in ["silent", "halting"] {
        let leaver = client(&gateway, model);
        until(&gateway, &mock, 1, 1).await;
        leaver.abort();
        until(&gateway, &mock, 0, 0).await;
    }
    // In the queue of a route, and in that of an expert. Who holds the place keeps it.
    for model in ["narrow", "taken"] {
        let holder = client(&gateway, model);
        until(&gateway, &mock, 1, 1).await;
        let queued = client(&gateway, model);
        until(&gateway, &mock, 2, 1).await;
        queued.abort();
        until(&gateway, &mock, 1, 1).await;
        // The place of who leaves is the next one's.
        let next = client(&gateway, model);
        until(&gateway, &mock, 2, 1).await;
        let asked = mock.stats().requests;
        holder.abort();
        // One in progress here and there may still be the holder.
        for _ in 0..500 {
            if mock.stats().requests > asked {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        until(&gateway, &mock, 1, 1).await;
        assert_eq!(mock.stats().requests, asked + 1);
        next.abort();
        until(&gateway, &mock, 0, 0).await;
    }
    // In the wait before a retry.
    let asked = mock.stats().requests;
    let leaver = client(&gateway, "resting");
    until(&gateway, &mock, 1, 0).await;
    while mock.stats().requests == asked {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    leaver.abort();
    until(&gateway, &mock, 0, 0).await;
    assert_eq!(mock.stats().requests, asked + 1, "it was asked again for nobody");
    Level::settled(&gateway, Some(&before)).await.unwrap();
}
