//! The circuit breaker of an endpoint that fails, and of one that comes back.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mock_expert::{Mock, Settings};
use tokio::net::TcpSocket;

use super::cell::Seen;
use super::table::{End, Row, Verdict};
use super::{Bench, LIMITS, refusing, strike};

/// Failures in a row that open it.
const FAILURES: usize = 3;

/// An endpoint under observation.
pub(super) struct Ward {
    row: Row,
    streamed: bool,
    /// The expert's id; the route that has it first has an `r` before it.
    id: String,
    url: String,
    server: Server,
}

enum Server {
    Up(Mock),
    /// Refuses connections until it is listened on.
    Down(TcpSocket),
}

impl fmt::Display for Ward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} breaker, {}, streamed: {}", self.id, self.row.fault, self.streamed)
    }
}

impl Ward {
    pub(super) async fn start(number: usize, row: Row, streamed: bool) -> Result<Self> {
        let id = format!("b{number}");
        let (server, url) = if row.is_refusal() {
            let (socket, url) = refusing()?;
            (Server::Down(socket), url)
        } else {
            let mock = Mock::start(Settings::default()).await?;
            mock.script(vec![strike(&row.fault, &id)?]);
            let url = mock.url();
            (Server::Up(mock), url)
        };
        Ok(Self { row, streamed, id, url, server })
    }

    pub(super) fn expert(&self) -> String {
        let (id, url) = (&self.id, &self.url);
        format!(
            "  - {{id: {id}, backend: {{kind: llm, endpoints: [{{url: '{url}'}}], \
             retries: {{max_attempts: 1, backoff: {{base_ms: 5, max_ms: 50}}}}, \
             breaker: {{consecutive_failures: {FAILURES}, open_ms: 5000}}}}, {LIMITS}}}\n"
        )
    }

    pub(super) fn route(&self) -> String {
        let id = &self.id;
        format!("  - {{id: r{id}, policy: {{kind: static, order: [{{expert: {id}}}, {{expert: spare}}]}}}}\n")
    }

    pub(super) async fn run(self, bench: &Bench) -> Result<()> {
        match self.row.verdict {
            Verdict::Failure => self.opens_and_closes(bench).await,
            Verdict::Nothing => {
                for _ in 0..=FAILURES {
                    self.ask(bench, &self.id, self.row.end(self.streamed)).await?;
                }
                self.expect(bench, "closed").await
            }
            Verdict::Rest => self.rests(bench).await,
        }
    }

    async fn opens_and_closes(self, bench: &Bench) -> Result<()> {
        for failures in 1..=FAILURES {
            self.ask(bench, &self.id, self.row.end(self.streamed)).await?;
            self.expect(bench, if failures < FAILURES { "closed" } else { "open" }).await?;
        }
        // While it is open, the endpoint is not asked where there is somebody else.
        self.passed_over(bench).await?;
        self.expect(bench, "open").await?;
        let mock = match self.server {
            Server::Up(mock) => {
                mock.script(Vec::new());
                mock
            }
            Server::Down(socket) => Mock::serve(socket.listen(64)?, Settings::default())?,
        };
        let well = Self { server: Server::Up(mock), ..self };
        for _ in 0..1200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            match well.breaker(bench).await?.as_str() {
                "open" => {}
                "half_open" => {
                    well.ask(bench, &well.id, &End::Answer).await?;
                    return well.expect(bench, "closed").await;
                }
                other => bail!("an open breaker became {other} by itself"),
            }
        }
        bail!("the breaker stays open")
    }

    /// One that asked for rest gets none of what is asked of it, and whoever names it is told so at once.
    async fn rests(self, bench: &Bench) -> Result<()> {
        self.ask(bench, &self.id, self.row.end(self.streamed)).await?;
        let busy = End::Error(503, "no_healthy_backend".to_owned());
        let seen = self.ask(bench, &self.id, &busy).await?;
        let wait = seen.headers.get("retry-after").and_then(|v| v.to_str().ok()?.parse::<u32>().ok());
        ensure!(wait.is_some_and(|seconds| (1..=31).contains(&seconds)), "retry-after: {:?}", seen.headers);
        self.passed_over(bench).await?;
        self.expect(bench, "closed").await
    }

    async fn passed_over(&self, bench: &Bench) -> Result<()> {
        let before = self.asked();
        let seen = self.ask(bench, &format!("r{}", self.id), &End::Answer).await?;
        ensure!(seen.headers.get("x-guildhall-expert").is_some_and(|v| v == "spare"), "{:?}", seen.headers);
        ensure!(seen.headers.get("x-guildhall-attempts").is_some_and(|v| v == "1"), "{:?}", seen.headers);
        ensure!(self.asked() == before, "it was asked all the same");
        Ok(())
    }

    /// Requests that came to the endpoint.
    fn asked(&self) -> u64 {
        match &self.server {
            Server::Up(mock) => mock.stats().requests,
            Server::Down(_) => 0,
        }
    }

    async fn ask(&self, bench: &Bench, model: &str, end: &End) -> Result<Seen> {
        let seen = Seen::of(bench, model, "how are you?", self.streamed, &self.id).await?;
        let helped = model != self.id;
        let expert = if helped { "spare" } else { &self.id };
        let text = bench.text(helped, expert, "how are you?").await?;
        seen.check(end, self.streamed, expert, &text).with_context(|| format!("model {model}"))?;
        Ok(seen)
    }

    async fn breaker(&self, bench: &Bench) -> Result<String> {
        let shown = bench.admin(&format!("experts/{}", self.id)).await?;
        let state = shown["status"]["endpoints"][0]["breaker"].as_str().map(str::to_owned);
        state.with_context(|| format!("no breaker is shown: {shown}"))
    }

    async fn expect(&self, bench: &Bench, state: &str) -> Result<()> {
        let is = self.breaker(bench).await?;
        ensure!(is == state, "the breaker is {is}, not {state}");
        Ok(())
    }
}
