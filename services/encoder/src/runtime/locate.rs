use std::env;
use std::path::{Path, PathBuf};

use super::RuntimeError;

/// How deep a folder that is named for the library alone is searched: a wheel unpacked into a virtual
/// environment has it at lib/python3.X/site-packages/onnxruntime/capi.
const DEPTH: usize = 6;

/// Where [`locate`] looks, besides what it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The working directory; its `.guildhall/onnxruntime` is looked at.
    pub working_dir: Option<PathBuf>,
    /// The running program; `.guildhall/onnxruntime` of every folder above it is looked at.
    pub executable: Option<PathBuf>,
    /// The active virtual environment.
    pub virtual_env: Option<PathBuf>,
    /// The user's home: packages that pip installed for the user, and pyenv's.
    pub home: Option<PathBuf>,
    /// The folders with programs; a `python3` there leads to its packages.
    pub programs: Vec<PathBuf>,
    /// The folders with system libraries.
    pub libraries: Vec<PathBuf>,
}

impl Places {
    /// The places of this process.
    pub fn of_process() -> Self {
        let list = |name| env::var_os(name).map(|v| env::split_paths(&v).collect()).unwrap_or_default();
        let mut libraries: Vec<PathBuf> = list("LD_LIBRARY_PATH");
        libraries.extend(list("DYLD_LIBRARY_PATH"));
        for fixed in
            ["/usr/local/lib", "/usr/lib", "/usr/lib64", "/lib", "/opt/onnxruntime/lib", "/opt/homebrew/lib"]
        {
            libraries.push(fixed.into());
            let multiarch = format!("{}-linux-gnu", env::consts::ARCH);
            libraries.push(Path::new(fixed).join(multiarch));
        }
        Self {
            working_dir: env::current_dir().ok(),
            executable: env::current_exe().ok(),
            virtual_env: env::var_os("VIRTUAL_ENV").map(PathBuf::from),
            home: env::home_dir(),
            programs: list("PATH"),
            libraries,
        }
    }
}

/// Finds the ONNX Runtime shared library. The first that exists is taken, in this order: `flag` (the
/// command line or the configuration), `env` (the value of `ORT_DYLIB_PATH`), the repository's
/// `.guildhall/onnxruntime/`, an installed Python wheel, the system's libraries. `flag` and `env` may
/// name the file or a folder that holds it; where they name neither, the search ends there.
///
/// # Errors
/// [`RuntimeError::NotFound`] with every place tried, [`RuntimeError::Named`] when `flag` or `env` leads
/// nowhere.
pub fn locate(flag: Option<&Path>, env: Option<&Path>, places: &Places) -> Result<PathBuf, RuntimeError> {
    for (origin, path) in [("the setting of the ONNX Runtime library", flag), ("ORT_DYLIB_PATH", env)] {
        if let Some(path) = path.filter(|p| !p.as_os_str().is_empty()) {
            return named(origin, path);
        }
    }
    let mut tried = Vec::new();
    for folder in own_folders(places) {
        if let Some(found) = search(&folder, DEPTH) {
            return Ok(found);
        }
        tried.push(folder.display().to_string());
    }
    for root in python_roots(places) {
        for packages in package_folders(&root) {
            if let Some(found) = search(&packages.join("onnxruntime/capi"), 0) {
                return Ok(found);
            }
        }
        tried.push(format!("Python packages below {}", root.display()));
    }
    for folder in &places.libraries {
        if let Some(found) = search(folder, 0) {
            return Ok(found);
        }
    }
    if !places.libraries.is_empty() {
        let folders: Vec<_> = places.libraries.iter().map(|f| f.display().to_string()).collect();
        tried.push(format!("system libraries in {}", folders.join(", ")));
    }
    Err(RuntimeError::NotFound { tried })
}

fn named(origin: &'static str, path: &Path) -> Result<PathBuf, RuntimeError> {
    let missing = |problem| RuntimeError::Named { origin, path: path.to_owned(), problem };
    if path.is_dir() {
        search(path, DEPTH).ok_or_else(|| missing("a folder without an ONNX Runtime library"))
    } else if path.exists() {
        Ok(path.to_owned())
    } else {
        Err(missing("which does not exist"))
    }
}

fn own_folders(places: &Places) -> Vec<PathBuf> {
    let above = places.executable.iter().flat_map(|exe| exe.ancestors().skip(1));
    let mut folders: Vec<PathBuf> = Vec::new();
    for base in places.working_dir.iter().map(PathBuf::as_path).chain(above) {
        let folder = base.join(".guildhall/onnxruntime");
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Prefixes under which a Python keeps its packages, without running any Python.
fn python_roots(places: &Places) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = Vec::new();
    let mut add = |root: PathBuf| {
        if !roots.contains(&root) {
            roots.push(root);
        }
    };
    if let Some(env) = &places.virtual_env {
        add(env.clone());
    }
    for folder in &places.programs {
        let python = folder.join("python3");
        if !python.is_file() {
            continue;
        }
        // A link's own place counts first (virtual environments), then where it leads.
        for program in [Some(python.clone()), python.canonicalize().ok()].into_iter().flatten() {
            if let Some(prefix) = program.parent().and_then(Path::parent) {
                add(prefix.to_owned());
            }
        }
    }
    if let Some(home) = &places.home {
        add(home.join(".local"));
        for version in children(&home.join(".pyenv/versions")).into_iter().rev() {
            add(version);
        }
    }
    roots
}

/// `lib/python3*/{site,dist}-packages` below a prefix, newest Python first.
fn package_folders(root: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for lib in ["lib", "lib64", "local/lib"] {
        let mut pythons = children(&root.join(lib));
        pythons.retain(|p| file_name(p).is_some_and(|name| name.starts_with("python3")));
        pythons.sort_by_key(|p| std::cmp::Reverse(file_name(p).map(version)));
        for python in pythons {
            folders.push(python.join("site-packages"));
            folders.push(python.join("dist-packages"));
        }
    }
    folders
}

/// The library with the highest version in `folder`, or in the folders below it down to `depth`.
fn search(folder: &Path, depth: usize) -> Option<PathBuf> {
    let entries = children(folder);
    let own = entries
        .iter()
        .filter(|p| file_name(p).is_some_and(is_library) && p.is_file())
        .max_by_key(|p| file_name(p).map(version));
    if let Some(own) = own {
        return Some(own.clone());
    }
    if depth == 0 {
        return None;
    }
    entries.iter().filter(|p| p.is_dir() && !p.is_symlink()).find_map(|p| search(p, depth - 1))
}

/// `libonnxruntime.so`, `libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib`, `onnxruntime.dll`; not the
/// libraries of its providers.
fn is_library(name: &str) -> bool {
    if cfg!(windows) {
        return name == "onnxruntime.dll";
    }
    let Some(rest) = name.strip_prefix("libonnxruntime.") else { return false };
    let numbers = |text: &str| text.split('.').all(|part| part.parse::<u32>().is_ok());
    if cfg!(target_os = "macos") {
        rest == "dylib" || rest.strip_suffix(".dylib").is_some_and(numbers)
    } else {
        rest == "so" || rest.strip_prefix("so.").is_some_and(numbers)
    }
}

/// The numbers in a name, so that 1.31 comes after 1.9.
fn version(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The entries of a folder in the order of their names; none when it cannot be read.
fn children(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests;
