//! What a killed process leaves behind: everything it had been told was durable, and no half of a batch.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use stores::{AuditEntry, Change, EmbeddedStore, Kind, Options, Write};

const STORE: &str = "GUILDHALL_TEST_STORE";
/// Documents written by one commit; all of them hold the number of the commit.
const BATCH: usize = 7;

/// The child: commits until it is killed, and says each revision once `commit` has returned.
#[test]
#[ignore = "run by the test below, in a process of its own"]
fn writer() {
    let Some(path) = std::env::var_os(STORE) else { return };
    let store = EmbeddedStore::open_with(path, Options { audit_entries: 20 }).unwrap();
    let mut out = std::io::stdout();
    for n in store.revision().unwrap() + 1.. {
        let padding = "x".repeat((n as usize * 977) % 6000);
        let writes = (0..BATCH).map(|i| Write::put(Kind::Expert, format!("d{i}"), &(n, &padding)).unwrap());
        let entry = AuditEntry {
            time_ms: n,
            actor: "test".into(),
            action: "write".into(),
            object: format!("batch/{n}"),
            detail: serde_json::Value::Null,
        };
        let revision = store.commit(&Change { writes: writes.collect(), audit: vec![entry] }).unwrap();
        // The line may stand after the harness's own words; `revision` finds it.
        writeln!(out, "\nrevision {revision}").unwrap();
        out.flush().unwrap();
    }
}

fn start(path: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::writer", "--ignored", "--nocapture"])
        .env(STORE, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

fn last_revision(lines: impl Iterator<Item = std::io::Result<String>>) -> Option<u64> {
    lines.map_while(Result::ok).filter_map(|l| l.strip_prefix("revision ")?.parse().ok()).last()
}

#[test]
fn a_killed_writer_loses_nothing_it_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut random = fastrand::Rng::with_seed(0x9e37);
    let mut reported = 0;
    for round in 0..24 {
        let (mut child, mut out) = start(&path);
        // Some rounds die while the file is being made or recovered, the others amid commits. The child does not
        // wait for the reader, so the signal meets it anywhere in the next ones.
        let commits = if round % 4 == 0 { 0 } else { random.usize(1..12) };
        let mut line = String::new();
        let mut seen = 0;
        while seen < commits {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "the writer ended by itself");
            seen += usize::from(line.starts_with("revision "));
            reported = line.trim().strip_prefix("revision ").map_or(reported, |r| r.parse().unwrap());
        }
        for _ in 0..random.u32(0..40_000) {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        reported = last_revision(out.lines()).unwrap_or(reported);

        let store = EmbeddedStore::open(&path).unwrap();
        let revision = store.revision().unwrap();
        assert!(revision >= reported, "round {round}: revision {reported} was reported, {revision} is there");
        let documents = store.load_all(Kind::Expert).unwrap();
        assert_eq!(documents.len(), if revision == 0 { 0 } else { BATCH });
        for document in documents {
            let (n, _) = document.parse::<(u64, String)>().unwrap();
            assert_eq!((n, document.revision), (revision, revision), "round {round}: half a batch");
        }
        let audit = store.audit(None, 100).unwrap();
        assert_eq!(
            audit.first().map_or(0, |r| r.entry.time_ms),
            revision,
            "the audit log goes with its change"
        );
        reported = revision;
    }
    assert!(reported > 24, "the writer got somewhere: {reported}");
}
