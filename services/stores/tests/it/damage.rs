//! Files that cannot be opened are refused by name, with a remedy, and left byte for byte as they were.

use std::fs;
use std::path::Path;

use redb::{Database, TableDefinition};
use stores::{Change, EmbeddedStore, Kind, StoreError, Write};

/// A store with some content, closed in order.
fn filled(path: &Path) -> Vec<u8> {
    let store = EmbeddedStore::open(path).unwrap();
    for n in 0..20_u32 {
        let writes =
            (0..5).map(|i| Write::put(Kind::Expert, format!("e{i}"), &(n, "y".repeat(900))).unwrap());
        store.commit(&Change { writes: writes.collect(), audit: Vec::new() }).unwrap();
    }
    drop(store);
    fs::read(path).unwrap()
}

fn refused(path: &Path, content: &[u8]) -> StoreError {
    fs::write(path, content).unwrap();
    let error = EmbeddedStore::open(path).unwrap_err();
    assert!(fs::read(path).unwrap() == content, "the file was changed");
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    error
}

#[test]
fn what_is_no_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    for content in [&b"x"[..], b"a list of things to do, and other words", &[7; 10_000]] {
        assert!(matches!(refused(&path, content), StoreError::NotAStore { .. }));
    }
    let mut zeros_then_words = vec![0; 9000];
    zeros_then_words.extend(b"words");
    assert!(matches!(refused(&path, &zeros_then_words), StoreError::NotAStore { .. }));
}

#[test]
fn another_programs_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other");
    let db = Database::create(&path).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(TableDefinition::<u64, u64>::new("theirs")).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(db);
    let content = fs::read(&path).unwrap();
    assert!(matches!(refused(&path, &content), StoreError::NotAStore { .. }));
}

#[test]
fn a_later_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later");
    filled(&path);
    let db = Database::create(&path).unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 2).unwrap();
    write.commit().unwrap();
    drop(db);
    let content = fs::read(&path).unwrap();
    let error = refused(&path, &content);
    assert!(matches!(error, StoreError::Newer { found: 2, supported: 1, .. }), "{error}");
}

#[test]
fn a_truncated_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let whole = filled(&path);
    for keep in
        [4, 9, 64, 319, 320, 4096, whole.len() / 3, whole.len() / 2, whole.len() - 4096, whole.len() - 1]
    {
        let error = refused(&path, &whole[..keep]);
        assert!(
            matches!(error, StoreError::Damaged { .. } | StoreError::NotAStore { .. }),
            "{keep}: {error}"
        );
    }
}

#[test]
fn a_flipped_bit_is_found_or_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let whole = filled(&path);
    let expected = {
        let store = EmbeddedStore::open(&path).unwrap();
        store.load_all(Kind::Expert).unwrap()
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut found = 0;
    for round in 0..150 {
        let mut content = whole.clone();
        // Half of the flips go to the header, where the engine looks first.
        let at = if round % 2 == 0 { random.usize(0..320) } else { random.usize(0..whole.len()) };
        content[at] ^= 1 << random.u32(0..8);
        fs::write(&path, &content).unwrap();
        match EmbeddedStore::open(&path) {
            Ok(store) => assert_eq!(store.load_all(Kind::Expert).unwrap(), expected, "byte {at}"),
            Err(error) => {
                found += 1;
                assert!(
                    matches!(error, StoreError::Damaged { .. } | StoreError::NotAStore { .. }),
                    "{error}"
                );
                assert!(fs::read(&path).unwrap() == content, "byte {at}: the file was changed");
            }
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn an_interrupted_creation_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for content in [Vec::new(), vec![0; 4096], vec![0; 1 << 20]] {
        fs::write(&path, content).unwrap();
        assert_eq!(EmbeddedStore::open(&path).unwrap().revision().unwrap(), 0);
    }
}

#[test]
fn a_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = EmbeddedStore::open(dir.path()).unwrap_err();
    assert!(error.to_string().starts_with("failed to open /"), "{error}");
}
