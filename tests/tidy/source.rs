//! Reading the repository's Rust sources.

use std::path::{Path, PathBuf};

/// All `.rs` files of the repository that people wrote, as paths from its root.
pub(super) fn rust_files() -> Vec<PathBuf> {
    let root = e2e::repository();
    let mut files = Vec::new();
    for top in ["services", "tests", "loadtest"] {
        walk(&root.join(top), &mut files);
    }
    assert!(files.len() > 20, "found only {} source files below {}", files.len(), root.display());
    files.iter().map(|file| file.strip_prefix(&root).unwrap().to_owned()).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The text of a file given by its path from the root.
pub(super) fn read(path: &Path) -> String {
    std::fs::read_to_string(e2e::repository().join(path)).unwrap()
}

/// Whether a file holds only tests or benchmarks.
pub(super) fn is_test(path: &Path) -> bool {
    let mut parts = path.iter().skip(2).map(|part| part.to_string_lossy());
    path.starts_with("tests")
        || parts.any(|part| matches!(&*part, "tests" | "tests.rs" | "benches" | "examples"))
}

/// The production code of a file: no comments, no unit tests at its end. Text in quotes stays.
pub(super) fn code(path: &Path) -> String {
    strip(&read(path))
}

fn strip(text: &str) -> String {
    let tests = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let mut code = String::new();
    let mut rest = &text[..tests];
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else {
            // Taken whole, so that a URL in quotes does not look like a comment.
            let length = match c {
                '"' => quoted(rest),
                _ => c.len_utf8(),
            };
            code.push_str(&rest[..length]);
            rest = &rest[length..];
        }
    }
    code
}

/// The length of the quoted text that `rest` begins with.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (place, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return place + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Whether `code` has `name` as a word of its own.
pub(super) fn mentions(code: &str, name: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        !code[..at].ends_with(part_of_word) && !code[at + name.len()..].starts_with(part_of_word)
    })
}

#[test]
fn comments_and_tests_are_not_code() {
    let text = "use a; // one\n/* two */ let url = \"http://three\";\n#[cfg(test)]\nmod tests { four }";
    let code = strip(text);
    assert!(code.contains("use a;") && code.contains("http://three"), "{code}");
    assert!(!code.contains("one") && !code.contains("two") && !code.contains("four"), "{code}");
}

#[test]
fn words_are_whole() {
    assert!(mentions("PolicyConfig::Coe(x)", "Coe"));
    assert!(!mentions("CoeConfig { a_coe }", "Coe"));
    assert!(!mentions("a_coe", "coe"));
}
