use super::*;

fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("9".into()),
        "KEY" => Some("sk-secret-of-the-test".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

fn problems(text: &str) -> String {
    parse(text, &env).expect_err("the text has a mistake").to_string()
}

#[test]
fn an_empty_file_is_the_defaults() {
    for text in ["", "# only a comment\n", "data: {}\n"] {
        let config = parse(text, &env).unwrap();
        assert_eq!(config.data, DataConfig::default());
        assert_eq!(config.telemetry.decisions, 1_000);
    }
}

#[test]
fn the_demo_configuration_is_valid_and_has_the_default_route() {
    let demo = Config::demo();
    assert!(demo.routes.iter().any(|r| r.id.as_str() == "auto"));
    assert!(demo.experts.len() >= 3);
    assert_eq!(demo.problems(), []);
}

#[test]
fn a_misspelt_key_is_refused_with_the_nearest_known_one() {
    let text = problems("data:\n  listne: 127.0.0.1:1\n");
    assert!(text.starts_with("data.listne: unknown field `listne`"), "{text}");
    assert!(text.ends_with("did you mean `listen`?"), "{text}");
}

#[test]
fn references_are_resolved_in_place_and_keep_their_type() {
    let config = parse("data:\n  max_in_flight: ${PORT}\n  listen: 127.0.0.1:${PORT}\n", &env).unwrap();
    assert_eq!((config.data.max_in_flight, config.data.listen.port()), (9, 9));
    let config = parse("telemetry: {log: '${NONE:-warn}'}", &env).unwrap();
    assert_eq!(config.telemetry.log, "warn");
    let config = parse("telemetry: {log: '$${literal}'}", &env).unwrap();
    assert_eq!(config.telemetry.log, "${literal}");
}

#[test]
fn an_unset_variable_is_named_with_its_place() {
    let text = problems("admin:\n  token: ${NONE}\n");
    assert!(text.starts_with("admin.token: the environment variable NONE is not set"), "{text}");
    assert!(problems("admin:\n  token: ${NONE\n").contains("does not close"));
}

#[test]
fn secrets_come_from_variables_and_files_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "a-token-long-enough\n").unwrap();
    let config = parse(&format!("admin: {{token: 'file:{}'}}", file.display()), &env).unwrap();
    assert_eq!(config.admin.token.as_ref().unwrap().expose(), "a-token-long-enough");
    let config = parse("admin: {token: '${KEY}'}", &env).unwrap();
    assert!(!serde_json::to_string(&config).unwrap().contains("sk-secret"));
    assert!(!format!("{config:?}").contains("sk-secret"));
    assert!(parse("admin: {token: '${EMPTY}'}", &env).unwrap().admin.token.is_none());
    let text = problems("admin: {token: 'file:/does/not/exist'}");
    assert!(text.starts_with("admin.token: cannot read the secret file /does/not/exist"), "{text}");
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = problems(
        "data: {max_in_flight: 0, head_timeout_ms: 0, max_json_depth: 1}
experts:
  - {id: a, backend: {kind: constant, text: hi}}
  - {id: a, backend: {kind: constant, text: hi}}
routes:
  - {id: auto, policy: {kind: static, order: []}}
",
    );
    for place in [
        "data.max_in_flight",
        "data.head_timeout_ms",
        "data.max_json_depth",
        "experts[1].id",
        "routes[0].policy.order",
    ] {
        assert!(text.contains(place), "{place} is missing in:\n{text}");
    }
}

#[test]
fn tls_is_off_by_default_and_its_keys_must_fit_together() {
    let config =
        parse("data: {tls: {cert_file: a.pem, key_file: b.pem, min_version: tls1.3}}", &env).unwrap();
    assert_eq!(config.data.tls.map(|t| t.min_version), Some(TlsVersion::V1_3));
    assert_eq!(config.admin.tls, None);
    let text = problems("admin: {tls: {cert_file: '', key_file: b.pem, client_auth: optional}}");
    assert!(text.contains("admin.tls.cert_file: ") && text.contains("admin.tls.client_auth: "), "{text}");
    let text = problems("data: {tls: {cert_file: a.pem}}");
    assert!(text.starts_with("data.tls.key_file: missing field"), "{text}");
}

#[test]
fn an_issuer_of_tokens_needs_an_audience_and_keys_that_can_be_trusted() {
    let text = problems(
        "auth:
  jwt:
    - {issuer: 'https://a.example', audience: []}
    - {issuer: a.example, audience: [chat]}
    - {issuer: a.example, audience: [chat], jwks_url: 'http://a.example/keys'}
    - {issuer: a.example, audience: [chat], jwks_file: keys.json, teams: {a: b}, algorithms: []}
",
    );
    for place in ["[0].audience", "[1].issuer", "[2].jwks_url", "[3].teams", "[3].algorithms"] {
        assert!(text.contains(&format!("auth.jwt{place}: ")), "{place} is missing in:\n{text}");
    }
    for weak in ["none", "HS256"] {
        let text = problems(&format!(
            "auth: {{jwt: [{{issuer: 'https://a.example', audience: [chat], algorithms: [{weak}]}}]}}"
        ));
        assert!(text.starts_with("auth.jwt[0].algorithms[0]: unknown variant"), "{text}");
    }
}

#[test]
fn traces_are_off_by_default_and_their_headers_are_secrets() {
    assert_eq!(parse("", &env).unwrap().telemetry.traces, None);
    let config = parse("telemetry: {traces: {headers: {x-key: '${KEY}'}}}", &env).unwrap();
    assert!(!format!("{config:?}").contains("sk-secret"));
    let traces = config.telemetry.traces.unwrap();
    assert_eq!(traces.headers["x-key"].expose(), "sk-secret-of-the-test");
    assert!(traces.sample_ratio < 0.02 && !traces.capture_content);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "from-a-file\n").unwrap();
    let text = format!("telemetry: {{traces: {{headers: {{x-key: 'file:{}'}}}}}}", file.display());
    let traces = parse(&text, &env).unwrap().telemetry.traces.unwrap();
    assert_eq!(traces.headers["x-key"].expose(), "from-a-file");
    let text = problems(
        "telemetry:
  traces:
    endpoint: collector:4318
    headers: {'a b': c}
    sample_ratio: 1.5
    capture_content: true
    semconv: v1.36
    content_limit_bytes: 511
    queue_requests: 0
",
    );
    for key in [
        "endpoint",
        "headers.a b",
        "sample_ratio",
        "capture_content",
        "content_limit_bytes",
        "queue_requests",
    ] {
        assert!(text.contains(&format!("telemetry.traces.{key}: ")), "{key} is missing in:\n{text}");
    }
    let wanted = parse("telemetry: {traces: {capture_content: true}}", &env).unwrap();
    assert_eq!(wanted.telemetry.traces.unwrap().content_limit_bytes, 16_384);
}

#[test]
fn norway_is_a_name() {
    let config = parse("experts: [{id: no, backend: {kind: constant, text: hi}}]", &env).unwrap();
    assert_eq!(config.experts[0].id.as_str(), "no");
}

#[test]
fn yaml_errors_have_a_line() {
    let text = problems("data:\n  listen: [\n");
    assert!(text.contains("line"), "{text}");
}

#[test]
fn secrets_that_stand_in_the_file_itself_are_found() {
    let text = "admin: {token: in-the-open}
experts:
  - {id: a, backend: {kind: llm, api_key: '${KEY}', endpoints: []}}
  - {id: b, backend: {kind: llm, api_key: 'file:/run/key', endpoints: []}}
  - {id: c, backend: {kind: llm, api_key: sk-1, endpoints: [{url: api_key}]}}
";
    assert_eq!(literal_secrets(text), ["admin.token", "experts[2].backend.api_key"]);
    assert!(literal_secrets("a: [").is_empty());
}

#[test]
fn admin_tokens_have_names_roles_and_are_told_apart() {
    let config = parse(
        "admin:\n  tokens:\n    - {name: board, role: viewer, token: '${KEY}'}\n    - {name: night.shift@x, role: operator, token: a-second-long-token}\n",
        &env,
    );
    let config = config.unwrap();
    assert_eq!(config.admin.tokens[1].role, Role::Operator);
    assert!(!serde_json::to_string(&config).unwrap().contains("second-long"));
    let text = problems(
        "admin:
  token: a-token-long-enough
  tokens:
    - {name: admin, role: viewer, token: a-token-long-enough}
    - {name: a b, role: viewer, token: short}
    - {name: twice, role: viewer, token: another-token-1234}
    - {name: twice, role: admin, token: another-token-1234}
",
    );
    for place in [
        "tokens[0].name",
        "tokens[0].token",
        "tokens[1].name",
        "tokens[1].token",
        "tokens[3].name",
        "tokens[3].token",
    ] {
        assert!(text.contains(&format!("admin.{place}: ")), "{place} is missing in:\n{text}");
    }
    assert!(!text.contains("another-token"), "{text}");
    assert!(
        problems("admin: {tokens: [{name: x, role: viewr, token: 0123456789abcdef}]}")
            .contains("did you mean `viewer`?")
    );
}
