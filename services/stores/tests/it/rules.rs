use serde_json::{Value, json};
use stores::{AuditEntry, Change, CommitError, EmbeddedStore, Expect, Kind, Options, StoreError, Write};

fn memory() -> EmbeddedStore {
    EmbeddedStore::in_memory(Options { audit_entries: 3 }).unwrap()
}

fn put(id: &str, value: &Value) -> Write {
    Write::put(Kind::Expert, id, value).unwrap()
}

fn change(writes: Vec<Write>) -> Change {
    Change { writes, audit: Vec::new() }
}

fn entry(time_ms: u64) -> AuditEntry {
    AuditEntry {
        time_ms,
        actor: "admin".into(),
        action: "expert.create".into(),
        object: "experts/a".into(),
        detail: json!({ "n": time_ms }),
    }
}

#[test]
fn every_document_carries_the_revision_that_wrote_it() {
    let store = memory();
    assert_eq!(store.revision().unwrap(), 0);
    assert_eq!(store.commit(&change(vec![put("b", &json!(1)), put("a", &json!(2))])).unwrap(), 1);
    assert_eq!(store.commit(&change(vec![put("b", &json!(3))])).unwrap(), 2);
    let seen: Vec<_> =
        store.load_all(Kind::Expert).unwrap().into_iter().map(|d| (d.id, d.revision)).collect();
    assert_eq!(seen, [("a".into(), 1), ("b".into(), 2)]);
    assert_eq!(store.load(Kind::Expert, "b").unwrap().unwrap().parse::<u8>().unwrap(), 3);
    assert_eq!(store.load(Kind::Route, "b").unwrap(), None);
}

#[test]
fn kinds_do_not_mix() {
    let store = memory();
    let writes = Kind::ALL.map(|kind| Write::put(kind, "same", kind.as_str()).unwrap()).to_vec();
    store.commit(&change(writes)).unwrap();
    for kind in Kind::ALL {
        let found = store.load_all(kind).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].parse::<String>().unwrap(), kind.as_str());
    }
}

#[test]
fn a_conflict_names_the_document_and_undoes_the_batch() {
    let store = memory();
    store.commit(&change(vec![put("a", &json!(1))])).unwrap();
    let batch = change(vec![put("new", &json!(1)), put("a", &json!(2)).expecting(Expect::Revision(7))]);
    let Err(CommitError::Conflict(conflict)) = store.commit(&batch) else { panic!("must conflict") };
    assert_eq!(conflict.to_string(), "the expert `a` is at revision 1, but the change expected revision 7");
    assert_eq!(store.load(Kind::Expert, "new").unwrap(), None);
    assert_eq!(store.revision().unwrap(), 1);

    let absent = change(vec![put("a", &json!(2)).expecting(Expect::Absent)]);
    assert!(matches!(store.commit(&absent), Err(CommitError::Conflict(c)) if c.actual == Some(1)));
    let gone = change(vec![Write::delete(Kind::Expert, "x").expecting(Expect::Revision(1))]);
    assert!(matches!(store.commit(&gone), Err(CommitError::Conflict(c)) if c.actual.is_none()));
}

#[test]
fn nothing_to_do_costs_no_revision() {
    let store = memory();
    assert_eq!(store.commit(&Change::default()).unwrap(), 0);
}

#[test]
fn the_audit_log_is_written_with_the_change_paged_and_bounded() {
    let store = memory();
    for time in 0..5 {
        let change = Change { writes: vec![put("a", &json!(time))], audit: vec![entry(time)] };
        store.commit(&change).unwrap();
    }
    let all = store.audit(None, 10).unwrap();
    assert_eq!(all.iter().map(|r| r.sequence).collect::<Vec<_>>(), [4, 3, 2], "three are kept, newest first");
    assert_eq!(all[0].entry, entry(4));
    assert_eq!(all[0].revision, 5);
    let page = store.audit(Some(4), 1).unwrap();
    assert_eq!(page.iter().map(|r| r.sequence).collect::<Vec<_>>(), [3]);

    let failed =
        Change { writes: vec![put("a", &json!(9)).expecting(Expect::Absent)], audit: vec![entry(9)] };
    store.commit(&failed).unwrap_err();
    assert_eq!(store.audit(None, 10).unwrap(), all, "what did not happen leaves no trace");
}

#[test]
fn a_file_outlives_its_store_and_has_one_user() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    store.commit(&Change { writes: vec![put("a", &json!("x"))], audit: vec![entry(1)] }).unwrap();
    let second = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(&second, StoreError::InUse { .. }), "{second}");
    store.commit(&change(vec![put("b", &json!("y"))])).unwrap();
    drop(store);

    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.load_all(Kind::Expert).unwrap().len(), 2);
    assert_eq!(store.audit(None, 9).unwrap().len(), 1);
    assert_eq!(store.commit(&change(vec![put("c", &json!("z"))])).unwrap(), 3);
}

#[test]
fn only_the_owner_reads_a_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.redb");
    drop(EmbeddedStore::open(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn readers_see_whole_commits_while_writers_take_turns() {
    let store = memory();
    let both = |n: u64| change(vec![put("left", &json!(n)), put("right", &json!(n))]);
    store.commit(&both(0)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for n in 1..100 {
                    store.commit(&both(n)).unwrap();
                }
            });
        }
        for _ in 0..200 {
            let seen = store.load_all(Kind::Expert).unwrap();
            assert_eq!((&seen[0].body, seen[0].revision), (&seen[1].body, seen[1].revision));
        }
    });
    assert_eq!(store.revision().unwrap(), 199);
}
