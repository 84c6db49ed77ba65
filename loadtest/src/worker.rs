//! One connection's loop: send, read, record, again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::exchange::{Connection, Reply};
use crate::sse::Events;

/// What in a body is replaced by a running number, so that no two requests are the same.
pub const PLACEHOLDER: &[u8] = b"########";

/// What all workers do.
#[derive(Debug)]
pub struct Plan {
    /// Where to connect.
    pub address: String,
    /// Head and body of the request.
    pub request: Vec<u8>,
    /// Where the running number stands in it, if anywhere.
    pub placeholder: Option<usize>,
    /// Whether answers are streams whose events count.
    pub stream: bool,
    /// From when on results count.
    pub warm_end: Instant,
    /// Until when requests are started.
    pub end: Instant,
    /// Requests a second of all workers together; as fast as answers come when absent.
    pub rate: Option<f64>,
    /// Connections.
    pub connections: usize,
    /// The time over which the connections' first requests are spread.
    pub stagger: Duration,
}

/// What the workers found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Nanoseconds from send (or from when it was due) to the end of the answer.
    pub latencies: Vec<u64>,
    /// The same to the first byte of the body.
    pub first_bytes: Vec<u64>,
    /// Nanoseconds that chunks were under way.
    pub delays: Vec<u64>,
    /// Whole answers with status 200.
    pub ok: u64,
    /// Whole answers with another status, or empty.
    pub bad: u64,
    /// Connections refused or broken.
    pub errors: u64,
    /// Events of streams.
    pub events: u64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// The first answer that was no success, or the first error.
    pub first_bad: Option<String>,
}

/// State that the workers of one thread share.
#[derive(Debug)]
pub struct Shared {
    /// What to do.
    pub plan: Plan,
    /// What came of it.
    pub findings: RefCell<Findings>,
    /// The running number.
    pub number: Cell<u64>,
}

impl Shared {
    /// The request with the next number in it.
    fn request(&self, scratch: &mut Vec<u8>) {
        scratch.clear();
        scratch.extend_from_slice(&self.plan.request);
        if let Some(at) = self.plan.placeholder {
            let number = self.number.get();
            self.number.set(number + 1);
            let digits = format!("{:08}", number % 100_000_000);
            scratch[at..at + PLACEHOLDER.len()].copy_from_slice(digits.as_bytes());
        }
    }

    fn counts(&self, from: Instant) -> bool {
        from >= self.plan.warm_end && Instant::now() <= self.plan.end
    }
}

/// Runs worker `index` until the plan's end.
pub async fn work(shared: Rc<Shared>, index: usize, start: Instant) {
    let plan = &shared.plan;
    let share = index as f64 / plan.connections as f64;
    let step = plan.rate.map(|rate| Duration::from_secs_f64(plan.connections as f64 / rate));
    let mut due = start + step.unwrap_or_default().mul_f64(share);
    tokio::time::sleep(plan.stagger.mul_f64(share)).await;
    let mut connection = None;
    let mut request = Vec::with_capacity(plan.request.len());
    loop {
        if step.is_some() {
            tokio::time::sleep_until(due.into()).await;
        }
        if Instant::now() >= plan.end {
            return;
        }
        // With a rate, a request that is late because others were slow has waited since it was due.
        let from = if step.is_some() { due } else { Instant::now() };
        shared.request(&mut request);
        one(&shared, &mut connection, &request, from).await;
        due += step.unwrap_or_default();
    }
}

async fn one(shared: &Shared, kept: &mut Option<Connection>, request: &[u8], from: Instant) {
    let opened = match kept.take() {
        Some(connection) => Ok(connection),
        None => Connection::open(&shared.plan.address).await,
    };
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(error) => {
            fail(shared, &error);
            // Whoever refuses now is not helped by being asked again at once.
            tokio::time::sleep(Duration::from_millis(5)).await;
            return;
        }
    };
    let mut events = shared.plan.stream.then(Events::default);
    match connection.exchange(request, events.as_mut()).await {
        Ok(reply) => {
            record(shared, &reply, events, from);
            if reply.keep_alive {
                *kept = Some(connection);
            }
        }
        Err(error) => fail(shared, &error),
    }
}

fn fail(shared: &Shared, error: &anyhow::Error) {
    let mut findings = shared.findings.borrow_mut();
    findings.errors += 1;
    findings.first_bad.get_or_insert_with(|| format!("{error:#}"));
}

fn record(shared: &Shared, reply: &Reply, events: Option<Events>, from: Instant) {
    let mut findings = shared.findings.borrow_mut();
    let good = reply.status == 200 && reply.bytes > 0;
    if !good {
        let body = String::from_utf8_lossy(&reply.body).chars().take(300).collect::<String>();
        findings.first_bad.get_or_insert_with(|| format!("{} {body}", reply.status));
        // Failures count whenever they happen: a run with one is no measurement.
        findings.bad += 1;
        return;
    }
    if !shared.counts(from) {
        return;
    }
    findings.ok += 1;
    findings.bytes += reply.bytes;
    findings.latencies.push(from.elapsed().as_nanos() as u64);
    if let Some(first) = reply.first_byte {
        findings.first_bytes.push(first.saturating_duration_since(from).as_nanos() as u64);
    }
    if let Some(events) = events {
        findings.events += events.count;
        findings.delays.extend(events.delays);
    }
}
