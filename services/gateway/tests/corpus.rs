//! Replays the fuzzer's corpus: what was found once stays fixed, and the targets hold without the fuzzer.

#[cfg(test)]
#[expect(unreachable_pub, reason = "a library of its own beside the fuzzer")]
#[path = "../../../fuzz/src/lib.rs"]
mod targets;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::targets::TARGETS;

    #[test]
    fn every_target_holds_for_its_corpus() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let files: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(!files.is_empty(), "{name} has no corpus");
            for file in files {
                let path = file.unwrap().path();
                println!("{}", path.display());
                target(&fs::read(path).unwrap());
            }
        }
    }

    #[test]
    fn every_corpus_has_a_target() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for folder in fs::read_dir(corpus).unwrap() {
            let name = folder.unwrap().file_name().into_string().unwrap();
            assert!(TARGETS.iter().any(|(target, _)| *target == name), "no target is called {name}");
        }
    }
}
