//! Files stay short enough to be read in one go.

use super::source;

/// Most lines of a file that gives no reason to be longer.
const LONGEST: usize = 600;

#[test]
fn long_files_say_why() {
    let mut wrong = Vec::new();
    for file in source::rust_files() {
        let text = source::read(&file);
        let lines = text.lines().count();
        if lines > LONGEST && !text.lines().any(|line| line.starts_with("// tidy: long because ")) {
            wrong.push(format!("{} has {lines} lines", file.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "split these, or add a line `// tidy: long because ...` that convinces:\n{}",
        wrong.join("\n")
    );
}
