//! A new policy or expert kind is a new file and its line in the enum file beside it, nothing else.

use std::path::{Path, PathBuf};

use super::source;

/// Where variants live: the enum file, the folder of their files, the enum.
const POINTS: &[(&str, &str, &str)] = &[
    ("services/routing/src/policy.rs", "services/routing/src/policy", "PolicyConfig"),
    ("services/experts/src/kind.rs", "services/experts/src/kind", "Backend"),
];

/// A variant with the names by which other code could know it.
struct Variant {
    file: PathBuf,
    name: String,
    /// The type that it carries, declared in its file.
    payload: String,
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
            Variant { file: file.clone(), name: name.to_owned(), payload }
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
            let module = variant.file.file_stem().unwrap().to_string_lossy();
            let family = Path::new(folder).file_name().unwrap().to_string_lossy();
            let names = [
                format!("{enumeration}::{}", variant.name),
                format!("{family}::{module}"),
                variant.payload.clone(),
                // As it is written in a configuration; code that compares it knows the variant.
                format!("\"{}\"", snake(&variant.name)),
            ];
            let own_folder = variant.file.with_extension("");
            for file in source::rust_files() {
                let is_own =
                    file == variant.file || file == Path::new(enum_file) || file.starts_with(&own_folder);
                if is_own || source::is_test(&file) || !in_sources(&file) {
                    continue;
                }
                let code = source::code(&file);
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
                let used = variants.iter().any(|variant| variant.file == file);
                assert!(
                    used,
                    "{} declares no variant of {enumeration}; move helpers elsewhere",
                    file.display()
                );
            }
        }
    }
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
