use std::io;
use std::sync::mpsc;

use proptest::prelude::*;

use super::*;
use crate::decision::{Attempt, Caller, DecisionId, End, Path};

fn finished() -> (Decision, Outcome) {
    let expert = routing::ExpertId::new("coder").unwrap();
    let attempt = Attempt::new(expert.clone());
    let decision = Decision {
        request_id: "req-1".into(),
        time_ms: 1_790_000_000_123,
        stream: true,
        caller: Some(Caller { key: "k1".into(), team: Some("red".into()) }),
        route: routing::ExpertId::new("auto").ok(),
        category: Some("coding".into()),
        expert: Some(expert),
        path: Some(Path::Upstream),
        attempts: vec![attempt.clone(), attempt],
        overhead_us: 41,
        queue_us: 2_500,
        ..Decision::example(DecisionId(0xabc))
    };
    let outcome = Outcome {
        duration_us: 1_234_567,
        first_byte_us: Some(20_001),
        end: End::ClientLeft,
        prompt_tokens: Some(12),
        completion_tokens: Some(34),
        cost_usd: None,
    };
    (decision, outcome)
}

fn written(format: LogFormat, decision: &Decision, outcome: &Outcome) -> String {
    let mut out = Vec::new();
    line(&mut out, format, decision, outcome);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_lines_have_this_form() {
    let (decision, outcome) = finished();
    insta::assert_snapshot!(written(LogFormat::Text, &decision, &outcome), @r#"
    time=2026-09-21T14:13:20.123Z log=access request_id=req-1 decision=d-0000000000000abc operation=chat status=200 end=client_left model=auto route=auto category=coding expert=coder path=upstream attempts=2 key=k1 team=red stream=true duration_ms=1234.567 first_byte_ms=20.001 overhead_ms=0.041 queue_ms=2.500 prompt_tokens=12 completion_tokens=34
    "#);
    insta::assert_snapshot!(written(LogFormat::Json, &decision, &outcome), @r#"
    {"time":"2026-09-21T14:13:20.123Z","log":"access","request_id":"req-1","decision":"d-0000000000000abc","operation":"chat","status":200,"end":"client_left","model":"auto","route":"auto","category":"coding","expert":"coder","path":"upstream","attempts":2,"key":"k1","team":"red","stream":true,"duration_ms":1234.567,"first_byte_ms":20.001,"overhead_ms":0.041,"queue_ms":2.500,"prompt_tokens":12,"completion_tokens":34}
    "#);
}

proptest! {
    /// The model's name is the client's to choose.
    #[test]
    fn no_text_breaks_a_line(model in ".*", request_id in "[!-~]{1,40}") {
        let (mut decision, outcome) = finished();
        decision.model.clone_from(&model);
        decision.request_id.clone_from(&request_id);
        let json = written(LogFormat::Json, &decision, &outcome);
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(read["model"].as_str(), Some(model.as_str()));
        prop_assert_eq!(read["request_id"].as_str(), Some(request_id.as_str()));
        let text = written(LogFormat::Text, &decision, &outcome);
        prop_assert_eq!(text.find('\n'), Some(text.len() - 1));
        prop_assert!(!text.trim_end_matches('\n').bytes().any(|b| b < 0x20));
    }
}

/// Gives what is written to a channel.
struct Sink(mpsc::Sender<Vec<u8>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_waits_is_written_at_the_end() {
    let (sender, receiver) = mpsc::channel();
    let log = AccessLog::new(LogFormat::Text, Sink(sender));
    let (decision, outcome) = finished();
    for _ in 0..100 {
        log.push(&decision, &outcome);
    }
    assert_eq!(log.dropped(), 0);
    drop(log);
    let all: Vec<u8> = receiver.iter().flatten().collect();
    assert_eq!(memchr::memchr_iter(b'\n', &all).count(), 100);
}

/// A sink that takes nothing until it is told to.
struct Stuck(mpsc::Receiver<()>);

impl io::Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stuck_sink_costs_lines_and_no_memory() {
    let (release, stuck) = mpsc::channel();
    let log = AccessLog::new(LogFormat::Json, Stuck(stuck));
    let (decision, outcome) = finished();
    let size = written(LogFormat::Json, &decision, &outcome).len();
    // One batch may be with the sink and one waiting.
    let most = 2 * (MOST / size + 2);
    for _ in 0..most + 10 {
        log.push(&decision, &outcome);
    }
    assert!(log.dropped() >= 10, "{}", log.dropped());
    assert!(log.shared.lock().bytes.len() < MOST + size);
    drop(release);
}

/// A sink that is gone.
struct Closed;

impl io::Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_sink_is_counted() {
    let log = AccessLog::new(LogFormat::Text, Closed);
    let (decision, outcome) = finished();
    log.push(&decision, &outcome);
    let shared = log.shared.clone();
    drop(log);
    assert_eq!(shared.dropped.load(Ordering::Relaxed), 1);
}
