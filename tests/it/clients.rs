//! The official OpenAI Python client against the gateway.

use std::process::Command;

use e2e::{Gateway, repository};

use crate::support::{fixed, llm, mock};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_python_client_lists_chats_streams_and_gets_typed_errors() {
    let python = repository().join(".guildhall/venv/bin/python");
    assert!(python.is_file(), "{} is missing; run `make deps-test`, or `make test`", python.display());
    let mock = mock().await;
    let busy = mock.url();
    let config = format!(
        "experts:\n{}{}  - {{id: unused, backend: {{kind: constant, text: x}}}}\n{}",
        llm("coder", &mock.url(), "capabilities: {tools: true, json_schema: true}"),
        llm("busy", &busy, ""),
        fixed(&["coder"])
    );
    mock.script(vec![
        mock_expert::Step::always("status:429,retry-after=1".parse().unwrap()).for_model("busy"),
    ]);
    let gateway = Gateway::start(&config).unwrap();
    let url = gateway.v1("");
    let output = tokio::task::spawn_blocking(move || {
        Command::new(python)
            .arg(repository().join("tests/openai_client.py"))
            .arg(url.trim_end_matches('/'))
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    println!("{text}");
}
