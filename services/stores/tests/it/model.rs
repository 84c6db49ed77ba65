//! The store against a map in memory.

use std::collections::BTreeMap;

use proptest::prelude::*;
use stores::{Change, CommitError, EmbeddedStore, Expect, Kind, Options, Write};

type Model = BTreeMap<(Kind, String), (u64, Vec<u8>)>;

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(Kind, u8, Option<u8>, Wish)>),
    Reopen,
}

/// An expectation that is right or wrong on purpose.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Any,
    Absent,
    Current,
    Stale,
}

fn step() -> impl Strategy<Value = Step> {
    let wish = prop_oneof![3 => Just(Wish::Any), 2 => Just(Wish::Current), 1 => Just(Wish::Absent), 1 => Just(Wish::Stale)];
    let kind = prop::sample::select(Kind::ALL.to_vec());
    let write = (kind, 0..4_u8, prop::option::weighted(0.7, any::<u8>()), wish);
    prop_oneof![9 => prop::collection::vec(write, 1..5).prop_map(Step::Commit), 1 => Just(Step::Reopen)]
}

fn expectation(wish: Wish, actual: Option<u64>) -> Expect {
    match wish {
        Wish::Any => Expect::Any,
        Wish::Absent => Expect::Absent,
        Wish::Current => actual.map_or(Expect::Absent, Expect::Revision),
        Wish::Stale => Expect::Revision(actual.map_or(1, |r| r + 1)),
    }
}

/// Applies a batch to a copy of the model; `None` when an expectation does not hold.
fn apply(model: &Model, writes: &[Write], revision: u64) -> Option<Model> {
    let mut next = model.clone();
    for write in writes {
        let key = (write.kind, write.id.clone());
        let actual = next.get(&key).map(|(r, _)| *r);
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => actual.is_none(),
            Expect::Revision(r) => actual == Some(r),
        };
        if !holds {
            return None;
        }
        match &write.body {
            Some(body) => drop(next.insert(key, (revision, body.clone()))),
            None => drop(next.remove(&key)),
        }
    }
    Some(next)
}

fn content(store: &EmbeddedStore) -> Model {
    let all = Kind::ALL.into_iter().flat_map(|kind| store.load_all(kind).unwrap());
    all.map(|d| ((d.kind, d.id), (d.revision, d.body))).collect()
}

fn run(mut store: EmbeddedStore, reopen: impl Fn(EmbeddedStore) -> EmbeddedStore, steps: Vec<Step>) {
    let (mut model, mut revision) = (Model::new(), 0);
    for step in steps {
        match step {
            Step::Reopen => store = reopen(store),
            Step::Commit(writes) => {
                let writes: Vec<Write> = writes
                    .into_iter()
                    .map(|(kind, id, value, wish)| {
                        let id = format!("id{id}");
                        let actual = model.get(&(kind, id.clone())).map(|(r, _)| *r);
                        let write = match value {
                            Some(value) => Write::put(kind, id, &value).unwrap(),
                            None => Write::delete(kind, id),
                        };
                        write.expecting(expectation(wish, actual))
                    })
                    .collect();
                let expected = apply(&model, &writes, revision + 1);
                match (store.commit(&Change { writes, audit: Vec::new() }), expected) {
                    (Ok(got), Some(next)) => {
                        revision += 1;
                        assert_eq!(got, revision);
                        model = next;
                    }
                    (Err(CommitError::Conflict(_)), None) => {}
                    (got, expected) => panic!("store {got:?}, model {expected:?}"),
                }
            }
        }
        assert_eq!(content(&store), model);
        assert_eq!(store.revision().unwrap(), revision);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn in_memory_it_is_a_map(steps in prop::collection::vec(step(), 1..30)) {
        run(EmbeddedStore::in_memory(Options::default()).unwrap(), |store| store, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn on_disk_it_is_a_map_that_lasts(steps in prop::collection::vec(step(), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let reopen = |store: EmbeddedStore| {
            drop(store);
            EmbeddedStore::open(&path).unwrap()
        };
        run(EmbeddedStore::open(&path).unwrap(), reopen, steps);
    }
}
