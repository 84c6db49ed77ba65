//! `guildhall sim tiers`: its results, and what it says of traces that make no sense.

use std::path::Path;
use std::process::{Command, Output};

use e2e::binary;
use serde_json::{Value, json};

fn sim(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("guildhall").unwrap());
    command.args(["sim", "tiers"]).args(arguments).current_dir(folder).output().unwrap()
}

fn object(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Two rare experts between every two requests for a popular one.
fn trace(folder: &Path) {
    let line = |i: usize| {
        let expert = if i.is_multiple_of(3) { "popular".to_owned() } else { format!("rare-{}", i % 7) };
        json!({"expert": expert, "t_s": i}).to_string()
    };
    let lines: Vec<String> = (0..600).map(line).collect();
    std::fs::write(folder.join("mine.jsonl"), lines.join("\n")).unwrap();
}

#[test]
fn a_trace_of_ones_own_is_simulated() {
    let folder = tempfile::tempdir().unwrap();
    trace(folder.path());
    let one =
        object(&sim(folder.path(), &["--trace", "mine.jsonl", "--hbm", "3", "--policy", "lru", "--json"]));
    assert_eq!(one["trace"], "mine");
    assert_eq!(one["policy"], "lru");
    assert_eq!(one["hbm_experts"], 3);
    assert_eq!(one["requests"], 600);
    for name in ["loads_per_1000", "hit_rate", "stall_ms_per_request", "p99_wait_s", "capacity"] {
        assert!(one[name].is_f64(), "{name}: {}", one[name]);
    }
    assert_eq!(one["source"], "simulated");

    let arguments = [
        "--trace",
        "mine.jsonl",
        "--hbm",
        "3",
        "--policy",
        "all",
        "--csv",
        "o.csv",
        "--plot",
        "o.svg",
        "--json",
    ];
    let all = object(&sim(folder.path(), &arguments));
    let of = |policy: &str| {
        let mut found = all["policies"].as_array().unwrap().iter().filter(|one| one["policy"] == policy);
        found.next().unwrap()["loads_per_1000"].as_f64().unwrap()
    };
    assert!((of("lru") - one["loads_per_1000"].as_f64().unwrap()).abs() < 1e-9, "the same again");
    assert!(of("belady") <= of("guildhall-ordered") && of("guildhall-ordered") <= of("lru"), "{all:#}");
    let csv = std::fs::read_to_string(folder.path().join("o.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + all["policies"].as_array().unwrap().len());
    assert!(std::fs::read_to_string(folder.path().join("o.svg")).unwrap().starts_with("<svg "));
}

#[test]
fn what_makes_no_sense_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    trace(folder.path());
    std::fs::write(folder.path().join("bad.jsonl"), "{\"expert\":\"a\"}\n{\"expert\":3}\n").unwrap();
    for (arguments, said) in [
        (&["--trace", "bad.jsonl"][..], "bad.jsonl, line 2: invalid type: integer `3`, expected a string"),
        (&["--trace", "none.jsonl"], "none.jsonl: No such file"),
        (&["--trace", "mine.jsonl", "--hbm", "0"], "0 is not in 1..=65535"),
        (&["--trace", "mine.jsonl", "--policy", "best"], "[possible values: lru,"),
        (&["--trace", "mine.jsonl", "--load=-1"], "must be a number above 0"),
    ] {
        let output = sim(folder.path(), arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(said), "{error}");
    }
}
