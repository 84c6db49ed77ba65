use super::*;
use experts::Listing;
use http::StatusCode;

const EXPECTED: Expected<'_> = Expected {
    expert: "coder",
    url: "http://vllm:8000/v1",
    model: "qwen-coder",
    has_key: true,
    connect_timeout: Duration::from_secs(2),
};
const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn look(status: u16, models: Option<&[&str]>) -> Look {
    let models = models.map(|names| names.iter().map(|n| (*n).to_owned()).collect());
    Look {
        addresses: vec!["10.0.0.7".parse().unwrap()],
        certificate_ends: None,
        elapsed: Duration::from_millis(12),
        answer: Ok(Listing { status: StatusCode::from_u16(status).unwrap(), models }),
    }
}

fn status(expected: Expected<'_>, look: &Look) -> (Status, String, String) {
    let check = judge(expected, look, NOW).remove(0);
    (check.status, check.detail, check.remedy.unwrap_or_default())
}

fn specs(text: &str) -> Vec<ExpertSpec> {
    crate::config::parse(text, &|_| None).unwrap().experts
}

#[test]
fn a_listed_model_is_fine() {
    let (status, detail, _) = status(EXPECTED, &look(200, Some(&["qwen-coder"])));
    assert_eq!(status, Status::Ok);
    assert_eq!(detail, "http://vllm:8000/v1 has qwen-coder, 12 ms at 10.0.0.7");
    let numeric = Expected { url: "http://10.0.0.7:8000/v1", ..EXPECTED };
    assert!(self::status(numeric, &look(200, Some(&["qwen-coder"]))).1.ends_with("12 ms"));
}

#[test]
fn a_wrong_model_is_a_failure_and_the_nearest_one_is_named() {
    let (found, _, remedy) = status(EXPECTED, &look(200, Some(&["llama", "qwen-coder-7b"])));
    assert_eq!((found, remedy.as_str()), (Status::Failure, "set the expert's model to `qwen-coder-7b`"));
    let (_, _, remedy) = status(EXPECTED, &look(200, Some(&["zzz"])));
    assert_eq!(remedy, "set the expert's model to one that it has: zzz");
    let (_, _, remedy) = status(EXPECTED, &look(200, Some(&[])));
    assert!(remedy.starts_with("load a model"), "{remedy}");
}

#[test]
fn a_status_is_interpreted() {
    for (code, wanted) in [
        (401, Status::Failure),
        (403, Status::Failure),
        (404, Status::Warning),
        (429, Status::Warning),
        (302, Status::Warning),
        (500, Status::Failure),
        (503, Status::Failure),
    ] {
        assert_eq!(status(EXPECTED, &look(code, None)).0, wanted, "{code}");
    }
    assert!(status(EXPECTED, &look(401, None)).1.ends_with("the key is not accepted"));
    let keyless = Expected { has_key: false, ..EXPECTED };
    assert!(status(keyless, &look(401, None)).1.ends_with("it wants a key"));
    // A page instead of an API.
    assert_eq!(status(EXPECTED, &look(200, None)).0, Status::Warning);
}

#[test]
fn a_slow_answer_is_worth_a_word() {
    let slow = Look { elapsed: Duration::from_millis(1_500), ..look(200, Some(&["qwen-coder"])) };
    assert_eq!(status(EXPECTED, &slow).0, Status::Warning);
}

#[test]
fn a_certificate_that_ends_soon_is_a_check_of_its_own() {
    let ending = |days: u64| {
        let look = Look { certificate_ends: Some(NOW + days * DAY), ..look(200, Some(&["qwen-coder"])) };
        judge(EXPECTED, &look, NOW)
    };
    assert_eq!(ending(14).len(), 1);
    assert!(ending(14)[0].detail.ends_with("certificate until 2027-01-29"), "{:?}", ending(14));
    let soon = ending(13);
    assert_eq!((soon.len(), soon[1].status), (2, Status::Warning));
    assert!(soon[1].detail.contains("ends in 13 days"), "{soon:?}");
}

#[test]
fn an_expert_is_dead_when_none_of_its_endpoints_works() {
    let text = "experts:
  - {id: a, backend: {kind: llm, endpoints: [{url: 'http://a/v1'}]}}
  - {id: b, backend: {kind: llm, endpoints: [{url: 'http://b/v1'}]}}
  - {id: c, backend: {kind: constant, text: x}}";
    let experts = specs(text);
    let checks = [
        Section::Experts.failure("a", "", ""),
        Section::Experts.failure("b", "", ""),
        Section::Experts.warning("b", "", ""),
    ];
    assert_eq!(dead(&experts, &checks).into_iter().collect::<Vec<_>>(), ["a"]);
    let client = Client::new(&::experts::ClientConfig::default()).unwrap();
    assert_eq!(offline(&experts, &client, NOW)[0].detail, "of 2 experts not looked at (--offline)");
    assert_eq!(local(&experts).unwrap().detail, "1 expert: c");
}

#[test]
fn an_experts_own_files_are_looked_at_without_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["us".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let place = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(place("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(place("key.pem"), key.serialize_pem()).unwrap();
    let expert = |id: &str, key: &str| {
        let tls = format!("{{client_cert_file: '{}', client_key_file: '{}'}}", place("cert.pem"), place(key));
        format!(
            "  - {{id: {id}, backend: {{kind: llm, endpoints: [{{url: 'https://{id}/v1'}}], tls: {tls}}}}}"
        )
    };
    let specs = specs(&format!("experts:\n{}\n{}", expert("a", "key.pem"), expert("b", "absent.pem")));
    let client = Client::new(&::experts::ClientConfig::default()).unwrap();
    // 2030-01-01
    let end = 1_893_456_000;
    let found = offline(&specs, &client, end - 3 * DAY);
    let told: Vec<(&str, Status)> = found.iter().map(|c| (c.name.as_str(), c.status)).collect();
    assert_eq!(told[..2], [("a certificate", Status::Warning), ("b", Status::Failure)], "{found:?}");
    assert!(found[0].detail.contains("cert.pem ends in 3 days"), "{found:?}");
    assert!(found[1].detail.starts_with("backend.tls.client_key_file: "), "{found:?}");
    assert!(offline(&specs, &client, end - 30 * DAY).iter().all(|c| c.name != "a certificate"));
}
