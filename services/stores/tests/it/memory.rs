//! The memory of prompts over its life: what is kept, found, replaced, removed, and what outlasts the process.

use std::sync::Arc;

use routing::ExpertId;
use stores::{
    AuditEntry, EmbeddedMemory, EmbeddedStore, Kept, MemoryError, Options, PastPrompt, PromptMemory,
};

fn entry(action: &str) -> AuditEntry {
    AuditEntry {
        time_ms: 1,
        actor: "test".into(),
        action: action.into(),
        object: "memory".into(),
        detail: serde_json::Value::Null,
    }
}

fn prompt(id: &str, vector: [f32; 2], score: f32) -> PastPrompt {
    PastPrompt {
        id: id.into(),
        space: "tiny".into(),
        embedding: vector.into(),
        outcomes: [(ExpertId::new("a").unwrap(), score), (ExpertId::new("b").unwrap(), 1.0 - score)].into(),
    }
}

fn found(memory: &dyn PromptMemory, k: usize) -> Vec<(String, f32)> {
    let near = memory.nearest("tiny", &[1.0, 0.0], k);
    near.iter().map(|neighbour| (neighbour.id.to_string(), neighbour.outcomes[0].1)).collect()
}

fn named(pairs: &[(&str, f32)]) -> Vec<(String, f32)> {
    pairs.iter().map(|(id, score)| ((*id).to_owned(), *score)).collect()
}

#[test]
fn what_is_kept_is_found_replaced_and_outlasts_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let open = || EmbeddedMemory::open(Arc::new(EmbeddedStore::open(&path).unwrap())).unwrap();
    let memory = open();
    assert!(found(&memory, 3).is_empty() && memory.page("", 10).unwrap().is_empty());
    assert_eq!(memory.get("x").unwrap(), None);

    let three =
        vec![prompt("x", [1.0, 0.0], 0.1), prompt("y", [0.8, 0.6], 0.2), prompt("z", [0.0, 1.0], 0.3)];
    let kept = memory.keep(three.clone(), 10, entry("memory.add")).unwrap();
    assert_eq!(kept, Kept { added: 3, replaced: 0, total: 3 });
    assert_eq!(found(&memory, 2), named(&[("x", 0.1), ("y", 0.2)]));
    // Of two with one id in one call the last counts.
    let again =
        vec![prompt("z", [0.0, 1.0], 0.5), prompt("z", [1.0, 0.0], 0.9), prompt("w", [-1.0, 0.0], 0.0)];
    assert_eq!(memory.rehearse(&again, 10).unwrap(), Kept { added: 1, replaced: 1, total: 4 });
    assert_eq!(
        memory.keep(again, 10, entry("memory.add")).unwrap(),
        Kept { added: 1, replaced: 1, total: 4 }
    );
    let all = named(&[("x", 0.1), ("z", 0.9), ("y", 0.2), ("w", 0.0)]);
    assert_eq!(found(&memory, 9), all);

    drop(memory);
    let memory = open();
    assert_eq!(found(&memory, 9), all);
    assert_eq!(memory.get("y").unwrap(), Some(three[1].clone()));
    let page: Vec<String> = memory.page("w", 2).unwrap().iter().map(|p| p.id.to_string()).collect();
    assert_eq!(page, ["x", "y"]);

    assert!(memory.forget("x", entry("memory.remove")).unwrap());
    assert!(!memory.forget("x", entry("memory.remove")).unwrap());
    assert_eq!(found(&memory, 1), named(&[("z", 0.9)]));
    drop(memory);
    let memory = open();
    assert_eq!(memory.clear(entry("memory.clear")).unwrap(), 3);
    assert!(found(&memory, 9).is_empty() && memory.census().is_empty());
    drop(memory);
    assert!(open().page("", 9).unwrap().is_empty());
    let log = EmbeddedStore::open(&path).unwrap().audit(None, 10).unwrap();
    let actions: Vec<&str> = log.iter().map(|record| record.entry.action.as_str()).collect();
    assert_eq!(actions, ["memory.clear", "memory.remove", "memory.add", "memory.add"]);
}

#[test]
fn a_full_memory_takes_none_of_what_is_too_much_and_still_replaces() {
    let store = Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap());
    let memory = EmbeddedMemory::open(store.clone()).unwrap();
    let two = vec![prompt("x", [1.0, 0.0], 0.1), prompt("y", [0.8, 0.6], 0.2)];
    memory.keep(two, 2, entry("memory.add")).unwrap();
    let more = || vec![prompt("x", [1.0, 0.0], 0.7), prompt("z", [0.6, 0.8], 0.2)];
    for refused in [memory.rehearse(&more(), 2), memory.keep(more(), 2, entry("memory.add"))] {
        assert!(matches!(refused, Err(MemoryError::Full { wanted: 3, most: 2 })), "{refused:?}");
    }
    assert_eq!(found(&memory, 9), named(&[("x", 0.1), ("y", 0.2)]));
    // The limit was lowered since: what is there stays and can be mended.
    let mended = memory.keep(vec![prompt("x", [1.0, 0.0], 0.4)], 1, entry("memory.add")).unwrap();
    assert_eq!(mended, Kept { added: 0, replaced: 1, total: 2 });
    assert_eq!(store.audit(None, 10).unwrap().len(), 2, "what was refused leaves no entry");
}

#[test]
fn a_search_under_way_is_not_disturbed_by_changes() {
    let store = Arc::new(EmbeddedStore::in_memory(Options::default()).unwrap());
    let memory = EmbeddedMemory::open(store).unwrap();
    let near: Vec<PastPrompt> = (0..50).map(|n| prompt(&format!("p{n:02}"), [1.0, 0.0], 0.5)).collect();
    memory.keep(near, 100, entry("memory.add")).unwrap();
    std::thread::scope(|scope| {
        let searching = scope
            .spawn(|| (0..200).all(|_| [0, 50].contains(&memory.nearest("tiny", &[1.0, 0.0], 99).len())));
        memory.clear(entry("memory.clear")).unwrap();
        assert!(searching.join().unwrap(), "a search sees all of a change or nothing of it");
    });
}
