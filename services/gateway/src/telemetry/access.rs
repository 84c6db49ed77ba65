//! The access log: one line per finished request, never a prompt.
//!
//! A line is put together in memory and handed to a thread that writes many at once, so that a request
//! neither waits for a slow disk or terminal nor pays a system call. When the writer falls behind, lines
//! are dropped and counted; memory stays bounded.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::config::LogFormat;
use crate::decision::{Decision, Outcome};

/// Lines that wait to be written, in bytes.
const MOST: usize = 4 << 20;
/// The writer is woken at once when so many bytes wait; otherwise it looks after [`PAUSE`].
const MANY: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Hands lines to the writer. Dropping it writes what waits.
pub struct AccessLog {
    shared: Arc<Shared>,
    format: LogFormat,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AccessLog {
    /// A log that is written to `sink`.
    pub fn new(format: LogFormat, sink: impl Write + Send + 'static) -> Self {
        let shared =
            Arc::new(Shared { waiting: Mutex::default(), wake: Condvar::new(), dropped: AtomicU64::new(0) });
        let of_writer = shared.clone();
        let writer = std::thread::Builder::new().name("access-log".into());
        // Without a thread there is no log; the system is out of threads then, and says so elsewhere.
        let writer = writer.spawn(move || write_out(&of_writer, sink)).ok();
        Self { shared, format, writer }
    }

    /// Adds the line of a finished request.
    pub fn push(&self, decision: &Decision, outcome: &Outcome) {
        let mut waiting = self.shared.lock();
        if waiting.bytes.len() >= MOST {
            drop(waiting);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let before = waiting.bytes.len();
        line(&mut waiting.bytes, self.format, decision, outcome);
        let many = before < MANY && waiting.bytes.len() >= MANY;
        drop(waiting);
        if many {
            self.shared.wake.notify_one();
        }
    }

    /// Lines that were dropped because the writer fell behind.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to say.
            let _ = writer.join();
        }
    }
}

fn write_out(shared: &Shared, mut sink: impl Write) {
    let mut batch = Vec::new();
    loop {
        let mut waiting = shared.lock();
        if waiting.bytes.len() < MANY && !waiting.closed {
            waiting = shared.wake.wait_timeout(waiting, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
        }
        batch.clear();
        std::mem::swap(&mut batch, &mut waiting.bytes);
        let closed = waiting.closed;
        drop(waiting);
        // A closed terminal or a full disk must not stop the gateway; the lines are lost.
        if !batch.is_empty() && sink.write_all(&batch).and_then(|()| sink.flush()).is_err() {
            let lines = memchr::memchr_iter(b'\n', &batch).count() as u64;
            shared.dropped.fetch_add(lines, Ordering::Relaxed);
        }
        if closed {
            return;
        }
        if batch.capacity() > 2 * MANY {
            batch = Vec::new();
        }
    }
}

/// Writes the fields of a line in one of the two forms.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
    json: bool,
    first: bool,
}

impl Fields<'_> {
    fn key(&mut self, key: &str) {
        match (self.json, self.first) {
            (true, true) => self.out.push(b'{'),
            (true, false) => self.out.push(b','),
            (false, true) => {}
            (false, false) => self.out.push(b' '),
        }
        self.first = false;
        if self.json {
            self.out.push(b'"');
            self.out.extend_from_slice(key.as_bytes());
            self.out.extend_from_slice(b"\":");
        } else {
            self.out.extend_from_slice(key.as_bytes());
            self.out.push(b'=');
        }
    }

    /// Text that may hold anything: it can never end the line or the field.
    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=');
        if !self.json && !value.is_empty() && value.bytes().all(plain) {
            self.out.extend_from_slice(value.as_bytes());
        } else if value.bytes().all(|b| b == b' ' || plain(b) || b == b'=') {
            self.out.push(b'"');
            self.out.extend_from_slice(value.as_bytes());
            self.out.push(b'"');
        } else {
            // Writing to memory cannot fail.
            let _ = serde_json::to_writer(&mut *self.out, value);
        }
    }

    fn maybe(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        let _ = write!(self.out, "{value}");
    }

    /// Microseconds as milliseconds with three places.
    fn millis(&mut self, key: &str, micros: u64) {
        self.key(key);
        let _ = write!(self.out, "{}.{:03}", micros / 1000, micros % 1000);
    }
}

/// Appends a request's line. The form of the keys is a contract with whoever reads the log.
fn line(out: &mut Vec<u8>, format: LogFormat, decision: &Decision, outcome: &Outcome) {
    let mut fields = Fields { out, json: format == LogFormat::Json, first: true };
    let arrived = SystemTime::UNIX_EPOCH + Duration::from_millis(decision.time_ms);
    fields.key("time");
    let quote = if fields.json { "\"" } else { "" };
    let _ = write!(fields.out, "{quote}{}{quote}", humantime::format_rfc3339_millis(arrived));
    fields.text("log", "access");
    fields.text("request_id", &decision.request_id);
    fields.key("decision");
    let _ = write!(fields.out, "{quote}{}{quote}", decision.id);
    fields.text("operation", decision.operation);
    fields.number("status", u64::from(decision.status));
    fields.maybe("error", decision.error);
    fields.text("end", outcome.end.as_str());
    fields.text("model", &decision.model);
    fields.maybe("route", decision.route.as_ref().map(routing::ExpertId::as_str));
    fields.maybe("category", decision.category.as_deref());
    fields.maybe("expert", decision.expert.as_ref().map(routing::ExpertId::as_str));
    fields.maybe("path", decision.path.map(crate::decision::Path::as_str));
    fields.number("attempts", decision.attempts.len() as u64);
    if let Some(caller) = &decision.caller {
        fields.text("key", &caller.key);
        fields.maybe("team", caller.team.as_deref());
    }
    fields.key("stream");
    fields.out.extend_from_slice(if decision.stream { b"true" } else { b"false" });
    fields.millis("duration_ms", outcome.duration_us);
    if let Some(first) = outcome.first_byte_us {
        fields.millis("first_byte_ms", first);
    }
    fields.millis("overhead_ms", decision.overhead_us);
    if decision.queue_us > 0 {
        fields.millis("queue_ms", decision.queue_us);
    }
    if let Some(residency) = &decision.residency {
        fields.text("weights", residency.found.name());
        fields.millis("weights_ms", residency.waited_us);
    }
    if let (Some(prompt), Some(completion)) = (outcome.prompt_tokens, outcome.completion_tokens) {
        fields.number("prompt_tokens", prompt);
        fields.number("completion_tokens", completion);
    }
    if let Some(trace) = &decision.trace_id {
        fields.text("trace_id", trace);
    }
    let end: &[u8] = if fields.json { b"}\n" } else { b"\n" };
    fields.out.extend_from_slice(end);
}

#[cfg(test)]
mod tests;
