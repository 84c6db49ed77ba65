//! A new policy, expert kind or tier driver is a new file and its line in the enum file beside it, nothing else.

use std::path::{Path, PathBuf};

use super::source;

/// Where variants live: the enum file, the folder of their files, the enum.
const POINTS: &[(&str, &str, &str)] = &[
    ("services/routing/src/policy.rs", "services/routing/src/policy", "PolicyConfig"),
    ("services/experts/src/kind.rs", "services/experts/src/kind", "Backend"),
    ("services/tiers/src/driver.rs", "services/tiers/src/driver", "DriverConfig"),
];

/// A variant with the names by which other code could know it.
struct Variant {
    /// Its module: `NAME.rs` in the folder, with all below `NAME/`.
    module: PathBuf,
    name: String,
    /// The type that it carries, declared in its module.
    payload: String,
}

impl Variant {
    fn owns(&self, file: &Path) -> bool {
        file.with_extension("") == self.module || file.starts_with(&self.module)
    }
}

/// The variants of `enumeration` that carry a type, with the file that declares it.
fn variants(enum_file: &Path, folder: &Path, enumeration: &str) -> Vec<Variant> {
    let code = source::code(enum_file);
    let start = code.find(&format!("enum {enumeration} {{")).unwrap_or_else(|| {
        panic!("{} declares no enum {enumeration}", enum_file.display());
    });
    let body = &code[start..start + code[start..].find("\n}").unwrap()];
    let files: Vec<PathBuf> =
        source::rust_files().into_iter().filter(|file| file.starts_with(folder)).collect();
    body.lines()
        .filter_map(|line| line.trim().trim_end_matches("),").split_once('('))
        .filter(|(name, _)| name.chars().all(char::is_alphanumeric))
        .map(|(name, payload)| {
            let payload = payload.rsplit("::").next().unwrap().trim_end_matches('>').to_owned();
            let file = files.iter().find(|file| {
                let code = source::code(file);
                ["struct", "enum"].iter().any(|word| source::mentions(&code, &format!("{word} {payload}")))
            });
            let file = file.unwrap_or_else(|| panic!("no file in {} declares {payload}", folder.display()));
            let module =
                folder.join(file.strip_prefix(folder).unwrap().iter().next().unwrap()).with_extension("");
            Variant { module, name: name.to_owned(), payload }
        })
        .collect()
}

#[test]
fn a_variant_is_known_to_two_files_at_most() {
    let mut wrong = Vec::new();
    for (enum_file, folder, enumeration) in POINTS {
        let variants = variants(Path::new(enum_file), Path::new(folder), enumeration);
        assert!(variants.len() > 1, "{enum_file} has {} variants", variants.len());
        for variant in &variants {
            let module = variant.module.file_name().unwrap().to_string_lossy();
            let family = Path::new(folder).file_name().unwrap().to_string_lossy();
            let names = [
                format!("{enumeration}::{}", variant.name),
                format!("{family}::{module}"),
                variant.payload.clone(),
            ];
            for file in source::rust_files() {
                let is_own = file == Path::new(enum_file) || variant.owns(&file);
                if is_own || source::is_test(&file) || !in_sources(&file) {
                    continue;
                }
                // Passing a name on is not knowing it.
                let code = without_imports(&source::code(&file));
                let found: Vec<_> =
                    names.iter().filter(|name| source::mentions(&code, name)).cloned().collect();
                if !found.is_empty() {
                    wrong.push(format!(
                        "{} knows {enumeration}::{} ({})",
                        file.display(),
                        variant.name,
                        found.join(", ")
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whether the file is below `services/*/src`.
fn in_sources(file: &Path) -> bool {
    let parts: Vec<_> = file.iter().take(3).collect();
    parts.len() == 3 && parts[0] == "services" && parts[2] == "src"
}

#[test]
fn every_file_of_a_point_belongs_to_a_variant() {
    for (enum_file, folder, enumeration) in POINTS {
        let variants = variants(Path::new(enum_file), Path::new(folder), enumeration);
        for file in source::rust_files() {
            if file.parent() == Some(Path::new(folder)) && !source::is_test(&file) {
                let used = variants.iter().any(|variant| variant.owns(&file));
                assert!(
                    used,
                    "{} declares no variant of {enumeration}; move helpers elsewhere",
                    file.display()
                );
            }
        }
    }
}

/// The code without its `use` declarations.
fn without_imports(code: &str) -> String {
    let mut kept = String::new();
    let mut importing = false;
    for line in code.lines() {
        let begins = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        importing |= begins.trim_start_matches("pub ").starts_with("use ");
        if !importing {
            kept.push_str(line);
            kept.push('\n');
        }
        importing &= !line.trim_end().ends_with(';');
    }
    kept
}

#[test]
fn imports_are_left_out() {
    let code =
        "pub use kind::{\n    Backend, LlmBackend,\n};\nfn f(x: Backend) {}\n    use a::B;\nlet c = 1;\n";
    assert_eq!(without_imports(code), "fn f(x: Backend) {}\nlet c = 1;\n");
}
