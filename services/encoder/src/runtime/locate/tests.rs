#![cfg(target_os = "linux")]

use std::fs;

use super::*;

fn put(root: &Path, file: &str) -> PathBuf {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"").unwrap();
    path
}

/// Every place at once, in the order in which they must win.
#[test]
fn the_order_is_flag_environment_repository_wheel_system() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let flag = put(root, "flag/libonnxruntime.so.1.20.0");
    let env = put(root, "env/libonnxruntime.so");
    let own = put(root, "work/.guildhall/onnxruntime/onnxruntime/capi/libonnxruntime.so.1.31.1");
    let above = put(root, "repo/.guildhall/onnxruntime/libonnxruntime.so.1.31.1");
    let venv = put(root, "venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.30.0");
    put(root, "python/bin/python3");
    let path = put(root, "python/lib/python3.9/dist-packages/onnxruntime/capi/libonnxruntime.so.1.29.0");
    let user =
        put(root, "home/.local/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.28.0");
    let system = put(root, "usr/lib/libonnxruntime.so.1.27.0");
    let places = Places {
        working_dir: Some(root.join("work")),
        executable: Some(root.join("repo/target/release/guildhall")),
        virtual_env: Some(root.join("venv")),
        home: Some(root.join("home")),
        programs: vec![root.join("nothing"), root.join("python/bin")],
        libraries: vec![root.join("usr/lib")],
    };
    assert_eq!(locate(Some(&flag), Some(&env), &places).unwrap(), flag);
    assert_eq!(locate(None, Some(&env), &places).unwrap(), env);
    for expected in [own, above, venv, path, user, system] {
        let found = locate(None, None, &places).unwrap();
        assert_eq!(found, expected);
        fs::remove_file(found).unwrap();
    }
    let error = locate(None, None, &places).unwrap_err().to_string();
    for part in
        ["work/.guildhall/onnxruntime", "repo/.guildhall", "venv", "home/.local", "usr/lib", "make deps"]
    {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn what_was_named_and_is_not_there_is_an_error_and_not_searched_for() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "lib/libonnxruntime.so.1.31.1");
    fs::create_dir(dir.path().join("empty")).unwrap();
    let places = Places { libraries: vec![dir.path().join("lib")], ..Places::default() };
    let error = locate(Some(&dir.path().join("gone.so")), None, &places).unwrap_err().to_string();
    assert!(error.contains("gone.so, which does not exist"), "{error}");
    let error = locate(None, Some(&dir.path().join("empty")), &places).unwrap_err().to_string();
    assert!(error.contains("ORT_DYLIB_PATH names") && error.contains("a folder without"), "{error}");
    assert!(locate(None, Some(Path::new("")), &places).is_ok(), "an empty variable is no variable");
}

#[test]
fn a_folder_gives_its_newest_library_and_never_a_provider() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.31.1", "libonnxruntime_providers_shared.so"]
    {
        put(dir.path(), name);
    }
    let found = locate(Some(dir.path()), None, &Places::default()).unwrap();
    assert_eq!(found.file_name().unwrap(), "libonnxruntime.so.1.31.1");
    for name in
        ["libonnxruntime_providers_cuda.so", "libonnxruntime.so.txt", "libonnxruntime.so.", "onnxruntime"]
    {
        assert!(!is_library(name), "{name}");
    }
}
