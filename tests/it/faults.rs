//! What happens when experts fail: every fault, streamed and whole, with and without somebody else to ask.
//!
//! The expectations are the tables of `docs/failures.md`; this is what holds the document to the truth.

mod breaker;
mod cell;
mod leave;
mod settled;
mod table;

use std::sync::Arc;

use anyhow::{Context, Result};
use e2e::{Client, Gateway};
use mock_expert::{Mock, Settings, Step};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use breaker::Ward;
use cell::{Cell, Company};
use settled::Level;

/// Cells that are run side by side: few, so that none is late for want of the processor.
const SIDE_BY_SIDE: usize = 12;

/// Short times, so that the time-outs are quick; and connections that are not kept, so that those which are
/// open at the end are leaks.
const UPSTREAM: &str = "upstream: {allow_private: ['127.0.0.0/8'], pool_idle_timeout_ms: 200}\n";
const LIMITS: &str = "limits: {first_byte_timeout_ms: 1200, idle_timeout_ms: 1200, max_response_bytes: 131072, max_event_bytes: 131072}";

/// What all cells share.
struct Bench {
    gateway: Gateway,
    /// Does to each model what the cell of that name wants.
    faulty: Mock,
    /// Answers every model, at greater length, so that its bytes are told from those of the other.
    healthy: Mock,
    /// Answer like those two, and are asked by the tests alone.
    twins: [Mock; 2],
}

impl Bench {
    fn long() -> Settings {
        Settings { tokens: Some(60), ..Settings::default() }
    }

    /// Asks the admin API.
    async fn admin(&self, path: &str) -> Result<Value> {
        let bearer = self.gateway.bearer();
        let headers = [("authorization", bearer.as_str())];
        let answer = Client::default().send("GET", &self.gateway.admin_v1(path), &headers, "").await?;
        anyhow::ensure!(answer.status == 200, "{path}: {}", answer.text());
        Ok(answer.json())
    }

    /// The text that a mock answers to this prompt: the one that fails, or the one that does not.
    async fn text(&self, healthy: bool, model: &str, prompt: &str) -> Result<String> {
        let url = format!("{}/chat/completions", self.twins[usize::from(healthy)].url());
        let answer = Client::default().post(&url, &crate::support::ask(model, prompt)).await?;
        let text = answer.json()["choices"][0]["message"]["content"].as_str().map(str::to_owned);
        text.context("the twin gave no text")
    }
}

/// An address that refuses connections for as long as this lives.
fn refusing() -> Result<(TcpSocket, String)> {
    let socket = TcpSocket::new_v4()?;
    // Taken, so that nobody else gets it, and not listened on.
    socket.bind("127.0.0.1:0".parse()?)?;
    let url = format!("http://{}/v1", socket.local_addr()?);
    Ok((socket, url))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_ends_as_the_document_says_and_leaves_nothing_behind() {
    let rows = table::rows().unwrap();
    let mut cells = Vec::new();
    let mut wards = Vec::new();
    for row in &rows {
        for streamed in [false, true] {
            for company in Company::ALL {
                cells.push(Cell::new(cells.len(), row.clone(), streamed, company).unwrap());
            }
            wards.push(Ward::start(wards.len(), row.clone(), streamed).await.unwrap());
        }
    }
    let (faulty, healthy) = (Mock::start(Settings::default()), Mock::start(Bench::long()));
    let (faulty, healthy) = (faulty.await.unwrap(), healthy.await.unwrap());
    faulty.script(cells.iter().filter_map(Cell::step).collect());
    let twins = [Settings::default(), Bench::long()].map(Mock::start);
    let [short, long] = twins;
    let twins = [short.await.unwrap(), long.await.unwrap()];
    let (mut experts, mut routes) = (String::new(), String::new());
    for cell in &cells {
        experts += &cell.expert(&faulty.url(), &healthy.url());
        routes += &cell.route();
    }
    for ward in &wards {
        experts += &ward.expert();
        routes += &ward.route();
    }
    experts += &crate::support::llm("spare", &healthy.url(), "");
    let gateway = Gateway::start(&format!("{UPSTREAM}experts:\n{experts}routes:\n{routes}")).unwrap();
    let bench = Arc::new(Bench { gateway, faulty, healthy, twins });
    let before = Level::settled(&bench.gateway, None).await.unwrap();

    let gate = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut runs = JoinSet::new();
    for cell in cells {
        let (bench, gate) = (bench.clone(), gate.clone());
        runs.spawn(async move {
            let _place = gate.acquire().await?;
            cell.run(&bench).await.with_context(|| cell.to_string())
        });
    }
    for ward in wards {
        let (bench, gate) = (bench.clone(), gate.clone());
        runs.spawn(async move {
            let _place = gate.acquire().await?;
            let name = ward.to_string();
            ward.run(&bench).await.context(name)
        });
    }
    let failed: Vec<String> =
        runs.join_all().await.into_iter().filter_map(|run| run.err().map(|e| format!("{e:#}"))).collect();
    assert!(failed.is_empty(), "{} wrong:\n{}", failed.len(), failed.join("\n"));

    Level::settled(&bench.gateway, Some(&before)).await.unwrap();
    for mock in [&bench.faulty, &bench.healthy] {
        assert_eq!((mock.stats().in_flight, mock.stats().open_connections), (0, 0));
    }
}

/// The steps of a script that does this to a model.
fn strike(fault: &str, model: &str) -> Result<Step> {
    Ok(Step::always(fault.parse()?).for_model(model))
}
