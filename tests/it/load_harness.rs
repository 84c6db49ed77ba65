//! The load harness: the rules by which it judges, and one short run of it.

use std::path::PathBuf;
use std::process::Command;

use e2e::{binary, repository};

fn python() -> Command {
    let python = repository().join(".guildhall/venv/bin/python");
    assert!(python.is_file(), "{} is missing; run `make deps-test`, or `make test`", python.display());
    let mut command = Command::new(python);
    command.current_dir(repository().join("loadtest"));
    command
}

fn run(mut command: Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

#[test]
fn verdicts_bars_and_definitions_are_right() {
    let mut command = python();
    command.args(["-m", "unittest", "discover", "--start-directory", "tests", "--top-level-directory", "."]);
    let (held, text) = run(command);
    assert!(held, "{text}");
}

#[test]
fn a_scenario_runs_and_keeps_its_result() {
    let results = tempfile::tempdir().unwrap();
    let folder: PathBuf = binary("gwload").unwrap().parent().unwrap().to_owned();
    let mut command = python();
    command.args(["run.py", "scenario", "churn", "--secs", "1", "--bin"]).arg(folder);
    command.arg("--results").arg(results.path());
    // Its thresholds are for a quiet machine; what counts here is that it came to a result.
    let (_, text) = run(command);
    let kept = std::fs::read(results.path().join("scenario-churn.json")).expect(&text);
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept["figures"]["requests that failed or could not be sent"], 0, "{text}");
    assert!(kept["results"]["churn"]["ok"].as_u64().unwrap() > 100, "{text}");
}
