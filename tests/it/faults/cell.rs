//! One request to an expert that fails, and all that can be seen of it.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::Client;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Bytes;
use mock_expert::Step;
use serde_json::Value;
use tokio::net::TcpSocket;

use super::settled::{metric, metrics};
use super::table::{End, Row};
use super::{Bench, LIMITS, refusing, strike};
use crate::support::ask;

/// Who else could answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// A second endpoint of the same expert.
    Endpoint,
    /// The next expert of the plan.
    Expert,
    Nobody,
}

impl Company {
    pub(super) const ALL: [Self; 3] = [Self::Endpoint, Self::Expert, Self::Nobody];
}

/// One fault, one form of answer, one company.
pub(super) struct Cell {
    row: Row,
    streamed: bool,
    company: Company,
    /// The expert's id; the route has an `r` before it.
    id: String,
    refusing: Option<(TcpSocket, String)>,
}

/// What the client saw.
pub(super) struct Seen {
    pub(super) status: Option<u16>,
    pub(super) headers: HeaderMap,
    /// `None` when the answer broke off.
    pub(super) body: Option<Bytes>,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.streamed { "streamed" } else { "whole" };
        write!(f, "{} {} {form}, besides: {:?}", self.id, self.row.fault, self.company)
    }
}

impl Cell {
    pub(super) fn new(number: usize, row: Row, streamed: bool, company: Company) -> Result<Self> {
        let refusing = if row.is_refusal() { Some(refusing()?) } else { None };
        Ok(Self { row, streamed, company, id: format!("c{number}"), refusing })
    }

    pub(super) fn step(&self) -> Option<Step> {
        strike(&self.row.fault, &self.id).ok()
    }

    /// The endpoint that fails.
    fn endpoint<'a>(&'a self, faulty: &'a str) -> &'a str {
        self.refusing.as_ref().map_or(faulty, |(_, url)| url)
    }

    pub(super) fn expert(&self, faulty: &str, healthy: &str) -> String {
        let (id, url) = (&self.id, self.endpoint(faulty));
        // The other endpoint is as good as never the first choice.
        let other = match self.company {
            Company::Endpoint => format!(", {{url: '{healthy}', weight: 0.0000001}}"),
            Company::Expert | Company::Nobody => String::new(),
        };
        format!(
            "  - {{id: {id}, backend: {{kind: llm, balancing: weighted, endpoints: [{{url: '{url}'}}{other}], \
             retries: {{backoff: {{base_ms: 5, max_ms: 50}}}}}}, {LIMITS}}}\n"
        )
    }

    pub(super) fn route(&self) -> String {
        let id = &self.id;
        let other = if self.company == Company::Expert { ", {expert: spare}" } else { "" };
        format!("  - {{id: r{id}, policy: {{kind: static, order: [{{expert: {id}}}{other}]}}}}\n")
    }

    pub(super) async fn run(&self, bench: &Bench) -> Result<()> {
        let prompt = format!("a prompt for {}", self.id);
        let seen = Seen::of(bench, &format!("r{}", self.id), &prompt, self.streamed, &self.id).await?;
        let faulty = self.endpoint(&bench.faulty.url()).to_owned();

        // Who was asked, and what each said.
        let helped = self.row.others && self.company != Company::Nobody;
        let own = if helped && self.company == Company::Endpoint { 1 } else { self.row.tries };
        let recorded = if self.row.late { "200" } else { &self.row.recorded };
        let mut tries = vec![(self.id.clone(), faulty, recorded.to_owned()); own];
        let other = if self.company == Company::Expert { "spare" } else { &self.id };
        if helped {
            tries.push((other.to_owned(), bench.healthy.url(), "200".to_owned()));
        }
        let end = if helped { &End::Answer } else { self.row.end(self.streamed) };
        let answered = if helped { other } else { &self.id };

        let text = bench.text(helped, answered, &prompt).await?;
        seen.check(end, self.streamed, answered, &text)?;
        self.check_headers(&seen, end, answered, tries.len())?;
        self.check_record(bench, &seen, end, answered, &tries).await?;
        self.check_counts(bench, own, helped).await
    }

    fn check_headers(&self, seen: &Seen, end: &End, answered: &str, tries: usize) -> Result<()> {
        if seen.status.is_none() {
            return Ok(());
        }
        let shown = |name: &str| seen.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        ensure!(shown("x-guildhall-attempts") == tries.to_string(), "attempts: {:?}", seen.headers);
        let by_gateway = matches!(end, End::Error(..));
        let expected = if by_gateway { ("", "") } else { (answered, "upstream") };
        let actual = (shown("x-guildhall-expert"), shown("x-guildhall-path"));
        ensure!(actual == expected, "expert and path are {actual:?}, not {expected:?}");
        if let (End::Passed(_), Some((_, seconds))) = (end, self.row.fault.split_once("retry-after=")) {
            ensure!(shown("retry-after") == seconds, "retry-after: {:?}", seen.headers);
        }
        Ok(())
    }

    /// The decision record holds every try, in order, and how the body ended.
    async fn check_record(
        &self,
        bench: &Bench,
        seen: &Seen,
        end: &End,
        answered: &str,
        tries: &[(String, String, String)],
    ) -> Result<()> {
        let found = bench.admin(&format!("decisions?request_id={}", self.id)).await?;
        let id = found["items"][0]["id"].as_str().context("there is no record")?.to_owned();
        if let Some(shown) = seen.headers.get("x-guildhall-decision") {
            ensure!(shown == id.as_str(), "the header names another decision than {id}");
        }
        let path = format!("decisions/{id}");
        let mut record = bench.admin(&path).await?;
        // The end of a body of known length is noted just after its last byte.
        for _ in 0..100 {
            if !record["outcome"].is_null() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            record = bench.admin(&path).await?;
        }
        let attempts = record["attempts"].as_array().context("there are no attempts")?;
        let noted = attempts.iter().map(|attempt| {
            let text = |name: &str| attempt[name].as_str().unwrap_or_default().to_owned();
            let outcome = attempt["status"].as_u64().map_or_else(|| text("error"), |s| s.to_string());
            (text("expert"), text("endpoint"), outcome)
        });
        let noted: Vec<_> = noted.collect();
        ensure!(noted == tries, "the record has {noted:?}, not {tries:?}");
        ensure!(attempts.iter().all(|a| a["hedge"].is_null()), "nobody hedges here: {record}");
        let status = seen.status.unwrap_or(200);
        ensure!(record["status"] == status, "the record's status: {record}");
        let code = if let End::Error(_, code) = end { Value::from(code.as_str()) } else { Value::Null };
        ensure!(record["error"] == code, "the record's error: {record}");
        if code.is_null() {
            ensure!(record["expert"] == answered, "the record's expert: {record}");
        }
        let ended = if self.row.late { self.row.recorded.as_str() } else { "complete" };
        ensure!(record["outcome"]["end"] == ended, "the record's end: {record}");
        Ok(())
    }

    /// Upstreams were asked as often as the record says, and the metrics say so too.
    async fn check_counts(&self, bench: &Bench, own: usize, helped: bool) -> Result<()> {
        let of = |stats: mock_expert::Stats| stats.models.get(&self.id).copied().unwrap_or(0) as usize;
        let endpoint_helped = usize::from(helped && self.company == Company::Endpoint);
        let asked = (of(bench.faulty.stats()), of(bench.healthy.stats()));
        let expected = (if self.row.is_refusal() { 0 } else { own }, endpoint_helped);
        ensure!(asked == expected, "the upstreams were asked {asked:?} times, not {expected:?}");
        let text = metrics(&bench.gateway).await?;
        let count = |name: &str| {
            metric(&text, &format!("guildhall_{name}_total{{expert=\"{}\"}}", self.id)).unwrap_or(0)
        };
        let fails = !matches!(self.row.recorded.as_str(), "200" | "400") && !self.row.late;
        let failed = if fails { own as u64 } else { 0 };
        ensure!(count("failed_attempts") == failed, "{} failed attempts", count("failed_attempts"));
        let again = (own + endpoint_helped - 1) as u64;
        ensure!(count("retries") == again, "{} retries, not {again}", count("retries"));
        Ok(())
    }
}

impl Seen {
    /// Sends a request over a connection of its own and reads what comes.
    pub(super) async fn of(
        bench: &Bench,
        model: &str,
        prompt: &str,
        streamed: bool,
        request_id: &str,
    ) -> Result<Self> {
        let mut body = ask(model, prompt);
        body["stream"] = streamed.into();
        let url = bench.gateway.v1("chat/completions");
        let headers = [("x-request-id", request_id), ("content-type", "application/json")];
        let client = Client::default();
        let read = async {
            let Ok(response) = client.open("POST", &url, &headers, body.to_string()).await else {
                return Self { status: None, headers: HeaderMap::new(), body: None };
            };
            let (parts, body) = response.into_parts();
            let body = body.collect().await.ok().map(http_body_util::Collected::to_bytes);
            Self { status: Some(parts.status.as_u16()), headers: parts.headers, body }
        };
        tokio::time::timeout(Duration::from_secs(15), read).await.context("the answer did not end")
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.body.as_deref().unwrap_or_default()).into_owned()
    }

    /// Whether this is what the client was to get; `text` is all that `expert` had to say.
    pub(super) fn check(&self, end: &End, streamed: bool, expert: &str, text: &str) -> Result<()> {
        let right = match end {
            End::Answer if streamed => self.check_stream(expert, text),
            End::Answer => self.check_answer(expert, text),
            End::Passed(status) => self.check_error(*status, "mock_fault"),
            End::Error(status, code) => self.check_error(*status, code),
            End::Cut if streamed => self.check_cut(expert, text),
            // The head may have been given up together with the connection.
            End::Cut if self.body.is_some() => bail!("the answer did not break off"),
            End::Cut => Ok(()),
            End::AsItCame => self.check_bytes(streamed),
        };
        right.with_context(|| format!("the client saw {:?} {}", self.status, self.text()))
    }

    fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(self.body.as_deref().context("the answer broke off")?)?)
    }

    fn check_answer(&self, expert: &str, text: &str) -> Result<()> {
        let body = self.json()?;
        ensure!(self.status == Some(200) && body["model"] == expert);
        ensure!(body["choices"][0]["message"]["content"] == text, "it should say {text}");
        ensure!(body["choices"][0]["finish_reason"] == "stop");
        Ok(())
    }

    /// An OpenAI error object with all four keys.
    pub(super) fn check_error(&self, status: u16, code: &str) -> Result<()> {
        ensure!(self.status == Some(status), "the status should be {status}");
        let body = self.json()?;
        let error = body["error"].as_object().context("there is no error object")?;
        ensure!(error.keys().collect::<Vec<_>>() == ["code", "message", "param", "type"]);
        ensure!(error["code"] == code, "the code should be {code}");
        ensure!(error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["type"].is_string());
        Ok(())
    }

    /// The data of the events; each was closed by an empty line.
    fn events(&self) -> Result<Vec<String>> {
        ensure!(self.status == Some(200));
        let text = self.text();
        ensure!(self.body.is_some() && text.ends_with("\n\n"), "the stream's end is no event's");
        let events = text
            .trim_end()
            .split("\n\n")
            .map(|event| event.strip_prefix("data: ").map(str::to_owned).context("an event without data"));
        events.collect()
    }

    /// What the chunks say; all of them are of one answer of this expert.
    fn said(chunks: &[Value], expert: &str) -> Result<String> {
        ensure!(chunks.iter().all(|c| c["model"] == expert && c["id"] == chunks[0]["id"]));
        Ok(chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect())
    }

    fn check_stream(&self, expert: &str, text: &str) -> Result<()> {
        let mut events = self.events()?;
        ensure!(events.pop().as_deref() == Some("[DONE]"));
        let chunks: Vec<Value> = events.iter().map(|e| serde_json::from_str(e)).collect::<Result<_, _>>()?;
        ensure!(Self::said(&chunks, expert)? == text, "it should say {text}");
        ensure!(chunks.last().is_some_and(|c| c["choices"][0]["finish_reason"] == "stop"));
        Ok(())
    }

    /// The beginning of the answer, perhaps half an event, one error event, and nothing more.
    fn check_cut(&self, expert: &str, text: &str) -> Result<()> {
        let mut events = self.events()?;
        let last: Value = serde_json::from_str(&events.pop().unwrap_or_default())?;
        let error = last["error"].as_object().context("the last event is no error")?;
        ensure!(error.keys().collect::<Vec<_>>() == ["code", "message", "param", "type"]);
        ensure!(error["code"] == "upstream_stream_failed" && error["type"] == "server_error");
        if events.last().is_some_and(|half| serde_json::from_str::<Value>(half).is_err()) {
            events.pop();
        }
        let chunks: Vec<Value> = events.iter().map(|e| serde_json::from_str(e)).collect::<Result<_, _>>()?;
        ensure!(chunks.iter().all(|c| c.get("error").is_none()), "there is more than one error event");
        let said = Self::said(&chunks, expert)?;
        ensure!(said.len() < text.len() && text.starts_with(&said), "it is no beginning of {text}");
        Ok(())
    }

    /// Bytes that are no valid answer, passed on to their end.
    fn check_bytes(&self, streamed: bool) -> Result<()> {
        if !streamed {
            ensure!(self.status == Some(200) && self.body.is_some() && self.json().is_err());
            return Ok(());
        }
        let events = self.events()?;
        ensure!(events.last().is_some_and(|last| last == "[DONE]"));
        let broken = events.iter().filter(|e| *e != "[DONE]" && serde_json::from_str::<Value>(e).is_err());
        ensure!(broken.count() == 1);
        Ok(())
    }
}
