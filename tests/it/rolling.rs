//! Restarting replica by replica behind a balancer, under load.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use e2e::{Balancer, Client, Gateway};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mock_expert::{Mock, Settings};
use tokio::net::TcpStream;

use crate::support::{ask, fixed, llm, until};

/// How long a replica takes requests after it was told to stop; the balancer asks every 50 ms.
const DELAY_MS: u64 = 1_000;

/// Clients side by side, each on a kept connection.
const CLIENTS: usize = 12;

/// Two free ports. Others may take them before they are used, which this test would say.
fn ports() -> (u16, u16) {
    let bind = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (one, two) = (bind(), bind());
    (one.local_addr().unwrap().port(), two.local_addr().unwrap().port())
}

/// A client that keeps its connection as long as the server lets it, and never sends a request twice.
struct Careful {
    address: String,
    kept: Option<SendRequest<Full<Bytes>>>,
}

impl Careful {
    async fn connection(&mut self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        // One that the server has closed says so here; nothing was sent on it.
        if let Some(mut kept) = self.kept.take()
            && kept.ready().await.is_ok()
        {
            return Ok(kept);
        }
        let (sender, connection) =
            http1::handshake(TokioIo::new(TcpStream::connect(&self.address).await?)).await?;
        // Ends with the connection.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn post(&mut self, body: String) -> anyhow::Result<(u16, String)> {
        let mut connection = self.connection().await?;
        let request = Request::post("/v1/chat/completions").header("host", self.address.as_str());
        let response = connection.send_request(request.body(Full::new(body.into()))?).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        self.kept = Some(connection);
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// Asks until `done`; gives what went wrong.
async fn load(url: String, n: usize, done: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Vec<String> {
    let mut client = Careful { address: url.trim_start_matches("http://").to_owned(), kept: None };
    let mut wrong = Vec::new();
    let mut i = 0;
    while !done.load(Ordering::Relaxed) {
        i += 1;
        let stream = (n + i).is_multiple_of(2);
        let mut body = ask(if n.is_multiple_of(4) { "slow" } else { "auto" }, &format!("{n}/{i}"));
        body["stream"] = stream.into();
        match client.post(body.to_string()).await {
            Ok((200, text)) if !stream || text.ends_with("data: [DONE]\n\n") => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok((status, text)) => wrong.push(format!("{n}/{i}: {status} {text}")),
            Err(error) => wrong.push(format!("{n}/{i}: {error:#}")),
        }
        // Now and then nothing for a while, so that some connections lie idle when they are closed.
        let pause = if i.is_multiple_of(20) { 150 } else { 5 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_drops_no_request() {
    let fast = Mock::start(Settings { record: 0, ..Settings::default() }).await.unwrap();
    let gap = "10ms".parse().unwrap();
    let slow =
        Mock::start(Settings { record: 0, gap, tokens: Some(40), ..Settings::default() }).await.unwrap();
    let config = |port: u16| {
        let mut text =
            format!("data: {{listen: '127.0.0.1:{port}', drain_delay_ms: {DELAY_MS}}}\nexperts:\n");
        text.push_str(&llm("fast", &fast.url(), ""));
        text.push_str(&llm("slow-expert", &slow.url(), ""));
        text.push_str(&fixed(&["fast"]));
        text.push_str("  - {id: slow, policy: {kind: static, order: [{expert: slow-expert}]}}\n");
        text
    };
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, two) = ports();
    let start = |at: usize| Gateway::start_in(folders[at].path() as &Path, &config([one, two][at])).unwrap();
    let balancer = Balancer::start().await.unwrap();
    let mut gateways = Vec::new();
    for at in 0..2 {
        let gateway = start(at);
        balancer.put(&at.to_string(), &gateway.url, &gateway.admin);
        gateways.push(gateway);
    }
    until("both replicas are ready", async || balancer.ready() == 2).await;

    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let spawn = |n| tokio::spawn(load(balancer.url(), n, done.clone(), answered.clone()));
    let clients: Vec<_> = (0..CLIENTS).map(spawn).collect();
    let more = async |count: u64| {
        let before = answered.load(Ordering::Relaxed);
        until("requests are answered", async || answered.load(Ordering::Relaxed) >= before + count).await;
    };
    for _ in 0..2 {
        for at in 0..2 {
            more(300).await;
            gateways[at].signal("TERM").unwrap();
            until("the replica is out of the balancer", async || balancer.ready() == 1).await;
            // Waiting blocks a thread that the balancer needs.
            let mut stopping = gateways.remove(at);
            let (stopping, code) = tokio::task::spawn_blocking(move || {
                let code = stopping.wait();
                (stopping, code)
            })
            .await
            .unwrap();
            assert_eq!(code.unwrap(), Some(0), "{}", stopping.errors());
            assert!(stopping.errors().contains("all requests finished"), "{}", stopping.errors());
            drop(stopping);
            more(100).await;
            let started = tokio::task::block_in_place(|| start(at));
            balancer.put(&at.to_string(), &started.url, &started.admin);
            gateways.insert(at, started);
            until("both replicas are ready", async || balancer.ready() == 2).await;
        }
    }
    more(300).await;
    done.store(true, Ordering::Relaxed);
    let mut wrong = Vec::new();
    for client in clients {
        wrong.extend(client.await.unwrap());
    }
    let answered = answered.load(Ordering::Relaxed);
    assert!(wrong.is_empty(), "{} of {answered} failed: {wrong:#?}", wrong.len());
    assert!(answered > 2_000, "{answered}");
}

#[tokio::test]
async fn while_draining_each_connection_ends_with_its_next_answer() {
    let mock = Mock::start(Settings::default()).await.unwrap();
    let config = format!(
        "data: {{listen: '127.0.0.1:0', drain_delay_ms: 60000}}\nexperts:\n{}{}",
        llm("coder", &mock.url(), ""),
        fixed(&["coder"])
    );
    let mut gateway = Gateway::start(&config).unwrap();
    let client = Client::default();
    let url = gateway.v1("chat/completions");
    let before = client.post(&url, &ask("auto", "hi")).await.unwrap();
    assert_eq!((before.status, before.header("connection")), (200, ""));
    gateway.signal("TERM").unwrap();
    let ready = format!("{}/readyz", gateway.admin);
    until("it is not ready", async || client.get(&ready).await.unwrap().status == 503).await;
    // On the connection that was kept, and on new ones, which are still taken.
    for answer in [
        client.post(&url, &ask("auto", "hi")).await.unwrap(),
        client.post(&url, &ask("auto", "hi")).await.unwrap(),
        client.get(&gateway.v1("models")).await.unwrap(),
    ] {
        assert_eq!((answer.status, answer.header("connection")), (200, "close"), "{}", answer.text());
    }
    // Nobody has to wait for it: a second signal ends it at once.
    gateway.signal("TERM").unwrap();
    assert_eq!(gateway.wait().unwrap(), Some(0));
}
