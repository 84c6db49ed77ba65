//! Errors in Anthropic's shape.

use protocols::messages::error;
use serde_json::{Value, json};

fn translated(status: u16, body: &str) -> Value {
    serde_json::from_slice(&error(status, body.as_bytes(), "req_1")).unwrap()
}

#[test]
fn every_status_has_its_type() {
    let body = r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#;
    for (status, kind) in [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (408, "timeout_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ] {
        let expected =
            json!({"type": "error", "error": {"type": kind, "message": "m"}, "request_id": "req_1"});
        assert_eq!(translated(status, body), expected);
    }
}

#[test]
fn the_field_that_is_to_blame_is_named() {
    let message = |body| translated(400, body)["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(
        message(r#"{"error":{"message":"is required","param":"messages[0].role"}}"#),
        "messages[0].role: is required"
    );
    assert_eq!(message(r#"{"error":{"message":"`model` is bad","param":"model"}}"#), "`model` is bad");
    assert_eq!(message(r#"{"error":"just words"}"#), "just words");
    assert_eq!(message("<html>secret</html>"), "the request failed with status 400");
}
