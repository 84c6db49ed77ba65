//! `guildhall sim tiers` and `sim placement`: their results, and what they say of input that makes no sense.

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

fn placement(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("guildhall").unwrap());
    command.args(["sim", "placement"]).args(arguments).current_dir(folder).output().unwrap()
}

#[test]
fn experts_that_come_together_are_advised_to_be_spread() {
    let folder = tempfile::tempdir().unwrap();
    // Two sets of four experts, each in turns for a while. Dealt in turn, both sets are halved; by halves they crowd.
    let expert = |i: usize| ["a", "e", "b", "f", "c", "g", "d", "h"][i / 200 % 2 + i % 4 * 2];
    let lines: Vec<String> = (0..3_200).map(|i| json!({"expert": expert(i)}).to_string()).collect();
    std::fs::write(folder.path().join("sets.jsonl"), lines.join("\n")).unwrap();
    let arguments = ["--trace", "sets.jsonl", "--nodes", "2", "--hbm", "2", "--json"];
    let report = object(&placement(folder.path(), &arguments));
    assert_eq!((&report["learnt_from"], &report["counted_on"]), (&json!(1600), &json!(1600)));
    let of = |name: &str| {
        let placements = report["placements"].as_array().unwrap();
        placements.iter().find(|one| one["placement"] == name).unwrap().clone()
    };
    // Eight changes of the set, with four loads each.
    assert!((of("advised")["lru"].as_f64().unwrap() - 32.0 / 1.6).abs() < 1e-6, "{report:#}");
    assert!(of("advised")["lru"].as_f64() < of("everywhere")["lru"].as_f64(), "{report:#}");
    assert!(of("advised")["busiest_node"].as_f64().unwrap() <= 0.625);
    let nodes: Vec<Vec<&str>> = report["advice"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node.as_array().unwrap().iter().map(|one| one["expert"].as_str().unwrap()).collect())
        .collect();
    assert_eq!(nodes.len(), 2);
    for node in &nodes {
        assert_eq!(node.iter().filter(|name| **name < "e").count(), 2, "half of each set: {nodes:?}");
    }
    let text = placement(folder.path(), &["--trace", "sets.jsonl", "--nodes", "2", "--hbm", "2"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("What to keep on each node:"));
}

#[test]
fn a_fleet_that_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    trace(folder.path());
    for (arguments, said) in [
        (&["--trace", "mine.jsonl"][..], "--nodes <NODES>"),
        (&["--trace", "mine.jsonl", "--nodes", "0"], "0 is not in 1..=256"),
        (&["--trace", "mine.jsonl", "--nodes", "2", "--hbm", "0"], "0 is not in 1..=65535"),
        (&["--trace", "none.jsonl", "--nodes", "2"], "none.jsonl: No such file"),
    ] {
        let output = placement(folder.path(), arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(said), "{error}");
    }
}
