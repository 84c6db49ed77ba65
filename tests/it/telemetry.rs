//! Dashboard, rules and documentation name metrics that a gateway really has.

mod promql;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::{Answer, Client, Gateway};
use mock_expert::{Mock, Settings, Step};
use serde_json::{Value, json};

use self::promql::{Exposition, Query, Recorded};

/// What the gateway of this test has no cause for.
const NOT_SEEN: [&str; 4] = [
    // The listeners speak plain HTTP.
    "guildhall_tls_handshake_failures_total",
    // Only a gateway without pools of its own has these; the tests of roles look at them.
    "guildhall_pool_owner_up",
    "guildhall_pool_leases_held",
    "guildhall_pool_leases_lost_total",
];

fn file(path: &str) -> String {
    std::fs::read_to_string(e2e::repository().join(path)).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&file("deploy/grafana/guildhall.json")).unwrap()
}

fn rules(path: &str) -> Vec<Value> {
    let text = file(path);
    let groups: Value = serde_saphyr::from_str(&text).unwrap();
    let groups = groups["groups"].as_array().unwrap().clone();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Where a query stands, the query, and its legend.
type Place = (String, String, String);

fn queries(dashboard: &Value) -> Vec<Place> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push((text(&panel["title"]), text(&target["expr"]), text(&target["legendFormat"])));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        all.push((text(&annotation["name"]), text(&annotation["expr"]), text(&annotation["textFormat"])));
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        let Some(query) = variable["query"]["query"].as_str() else { continue };
        let call = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (metric, label) = call.and_then(|rest| rest.rsplit_once(", ")).unwrap();
        // Asks the same of the metric and the label.
        all.push((text(&variable["name"]), format!("sum by ({label}) ({metric})"), String::new()));
    }
    all
}

/// The rows of the documentation's table as metric, type and labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = file("docs/operations.md");
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        let (name, kind, labels) = (cells[0].trim_end_matches('`'), *cells.get(1)?, *cells.get(2)?);
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        matches!(kind, "counter" | "gauge" | "histogram")
            .then(|| (name.to_owned(), (kind.to_owned(), labels)))
    });
    rows.collect()
}

/// A pool with room for one of two experts, and one whose server is not there.
const POOLS: &str = "pools:
  - id: gpu0
    tiers: [{tier: hbm, capacity: 1GB, source: simulated}, {tier: dram, capacity: 2GB}]
    links: [{from: dram, to: hbm, bytes_per_second: 50e9}]
    experts: [{id: near, bytes: {hbm: 1GB, dram: 1GB}}, {id: far, bytes: {hbm: 1GB, dram: 1GB}}]
    drivers:
      - driver:
          kind: sim
          experts: {near: {hbm: 1000000000, dram: 1000000000}, far: {hbm: 1000000000, dram: 1000000000}}
          links: [{from: dram, to: hbm, bytes_per_second: 50e9}]
  - id: gpu1
    tiers: [{tier: hbm, capacity: 1GB}, {tier: disk, capacity: 2GB}]
    links: [{from: disk, to: hbm, bytes_per_second: 1e9}]
    experts: [{id: lost, bytes: {hbm: 1GB, disk: 1GB}}]
    drivers: [{driver: {kind: ollama, server: {url: 'http://127.0.0.1:1'}, models: {lost: lost}}}]
    policy: {bound_us: 100000}
";

fn config(url: &str, slow: &str, more: &str) -> String {
    format!(
        "router: {{load: always, bundle: '{bundle}'}}
telemetry: {{traces: {{endpoint: 'http://127.0.0.1:1/v1/traces', sample_ratio: 1.0, queue_requests: 1, \
         batch_requests: 1}}}}
teams:
  - {{id: red, limits: {{concurrent: 50}}}}
keys:
  - {{id: ci, team: red, secrets: [{{token: '{ci}'}}], permissions: {{name_experts: true}}}}
  - {{id: slow, secrets: [{{token: '{eager}'}}], limits: {{requests_per_minute: 1}}}}
  - {{id: poor, secrets: [{{token: '{poor}'}}], limits: {{usd_per_day: 0.000001}}}}
experts:
  - {{id: coder, backend: {{kind: llm, endpoints: [{{url: '{slow}'}}, {{url: '{other}'}}], \
         hedge: {{after_ms: 1, budget: 1.0}}}}}}
  - {{id: writer, backend: {{kind: llm, endpoints: [{{url: '{url}'}}], health: {{path: /models}}}}, cost: {{input: 1.0, output: 1.0}}}}
  - {{id: narrow, backend: {{kind: llm, endpoints: [{{url: '{slow}'}}]}}, concurrency: {{concurrent: 1, queue: 1}}}}
  - {{id: dead, backend: {{kind: llm, endpoints: [{{url: 'http://127.0.0.1:1/v1'}}]}}}}
  - {{id: near, backend: {{kind: llm, endpoints: [{{url: '{url}'}}]}}}}
  - {{id: far, backend: {{kind: llm, endpoints: [{{url: '{url}'}}]}}}}
  - {{id: lost, backend: {{kind: llm, endpoints: [{{url: '{url}'}}]}}}}
{more}{POOLS}routes:
  - {{id: auto, policy: {{kind: coe, uncertain: {{threshold: 0.0, robust: writer}}}}, default: writer}}
  - {{id: risky, policy: {{kind: static, order: [{{expert: dead}}, {{expert: writer}}]}}, concurrency: {{concurrent: 9}}}}
",
        bundle = e2e::repository().join("router-models/default").display(),
        // The same slow server by another name, so that a hedge is made whichever comes first.
        other = slow.replace("127.0.0.1", "localhost"),
        ci = token("ci"),
        eager = token("slow"),
        poor = token("poor"),
    )
}

fn token(key: &str) -> String {
    format!("sk-guildhall-{key}-{}", "0123456789abcdef".repeat(2))
}

/// Sends something of every kind, so that no metric stays empty.
async fn send_traffic(gateway: &Gateway, writer: &Mock) {
    let client = Client::default();
    let url = gateway.v1("chat/completions");
    let ask = async |key: &str, model: &str, stream: bool| {
        let bearer = format!("Bearer {}", token(key));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]});
        // Some are meant to break off.
        client.send("POST", &url, &headers, body.to_string()).await.map_or(0, |answer| answer.status)
    };
    for key in ["ci", "slow", "slow", "poor"] {
        ask(key, "auto", false).await;
    }
    ask("ci", "auto", true).await;
    ask("ci", "risky", false).await;
    ask("ci", "nobody", false).await;
    for _ in 0..4 {
        ask("ci", "coder", false).await;
    }
    tokio::join!(
        ask("ci", "narrow", false),
        ask("ci", "narrow", false),
        ask("ci", "narrow", false),
        ask("ci", "narrow", false)
    );
    for (expert, status) in [("near", 200), ("far", 200), ("near", 200), ("lost", 503)] {
        assert_eq!(ask("ci", expert, false).await, status, "{expert}");
    }
    let bearer = format!("Bearer {}", token("ci"));
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = json!({"messages": [{"role": "user", "content": "Hi"}]}).to_string();
    let answered = client.send("POST", &url, &headers, body).await.unwrap();
    let body = json!({"decision": answered.header("x-guildhall-decision"), "label": "good"}).to_string();
    let judged = client.send("POST", &gateway.v1("feedback"), &headers, body).await.unwrap();
    assert_eq!(judged.status, 200, "{}", judged.text());
    writer.script(vec![Step::always("reset-mid".parse().unwrap())]);
    ask("ci", "writer", true).await;
}

#[tokio::test]
async fn dashboard_rules_and_documentation_name_what_there_is() {
    let fast = Mock::start(Settings { tokens: Some(8), ..Settings::default() }).await.unwrap();
    let latency = "100ms".parse().unwrap();
    let slow = Mock::start(Settings { latency, ..Settings::default() }).await.unwrap();
    let gateway = Gateway::start(&config(&fast.url(), &slow.url(), "")).unwrap();
    send_traffic(&gateway, &fast).await;
    let more = "  - {id: more, backend: {kind: constant, text: hello}}\n";
    gateway.rewrite(&config(&fast.url(), &slow.url(), more)).unwrap();

    let recorded: Vec<Value> = rules("deploy/prometheus/recording-rules.yaml");
    let alerts = rules("deploy/prometheus/alerts.yaml");
    let text = |rule: &Value, key: &str| rule[key].as_str().unwrap().to_owned();
    let mut places = queries(&dashboard());
    places.extend(recorded.iter().map(|rule| (text(rule, "record"), text(rule, "expr"), String::new())));
    places.extend(alerts.iter().map(|rule| (text(rule, "alert"), text(rule, "expr"), String::new())));
    assert!(places.len() > 100, "only {} queries were found", places.len());
    let recorded: Recorded = recorded.iter().map(|rule| text(rule, "record")).collect();

    // What is counted by tasks and watches comes a moment later.
    let mut wrong = Vec::new();
    for _ in 0..500 {
        let metrics = metrics(&gateway, OPEN_METRICS).await.text();
        let exposition = Exposition::parse(&metrics);
        wrong = places.iter().flat_map(|place| wrong_at(place, &exposition, &recorded)).collect();
        wrong.extend(undocumented(&exposition));
        if wrong.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{}", wrong.join("\n"));
}

const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3";

async fn metrics(gateway: &Gateway, accept: &str) -> Answer {
    let url = format!("{}/metrics", gateway.admin);
    Client::default().send("GET", &url, &[("accept", accept)], "").await.unwrap()
}

/// The lines of the buckets of one of the two histograms that show traces.
fn buckets<'m>(metrics: &'m str, name: &str) -> Vec<&'m str> {
    let name = format!("guildhall_{name}_seconds_bucket{{");
    metrics.lines().filter(|line| line.starts_with(&name)).collect()
}

#[tokio::test]
async fn metrics_come_in_the_form_that_is_asked_for_and_name_sampled_requests_only() {
    let mock = Mock::start(Settings { tokens: Some(8), ..Settings::default() }).await.unwrap();
    let config = format!(
        "telemetry: {{traces: {{endpoint: 'http://127.0.0.1:1/v1/traces', sample_ratio: 0.0, sample_errors: true}}}}
experts:
  - {{id: coder, backend: {{kind: llm, endpoints: [{{url: '{}'}}]}}}}
routes:
  - {{id: auto, policy: {{kind: static, order: [{{expert: coder}}]}}}}
",
        mock.url()
    );
    let gateway = Gateway::start(&config).unwrap();
    let ask = async |trace: &str, sampled: &str, stream: bool| {
        let parent = format!("00-{trace}-b7ad6b7169203331-{sampled}");
        let headers = [("traceparent", parent.as_str()), ("content-type", "application/json")];
        let body =
            json!({"model": "auto", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]});
        let url = gateway.v1("chat/completions");
        let answer = Client::default().send("POST", &url, &headers, body.to_string()).await.unwrap();
        assert_eq!(answer.status, 200);
    };
    let (seen, unseen) = ("0af7651916cd43dd8448eb211c80319c", "11111111111111111111111111111111");
    for stream in [false, true] {
        ask(unseen, "00", stream).await;
    }
    for name in ["request_duration", "time_to_first_token"] {
        let text = metrics(&gateway, OPEN_METRICS).await.text();
        let buckets = buckets(&text, name);
        assert!(!buckets.is_empty(), "{text}");
        assert!(buckets.iter().all(|line| !line.contains('#')), "{buckets:?}");
    }
    ask(seen, "01", true).await;

    let open = metrics(&gateway, OPEN_METRICS).await;
    assert_eq!(open.header("content-type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = open.text();
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1, "{text}");
    assert!(text.contains("# TYPE guildhall_requests counter\n"), "{text}");
    for name in ["request_duration", "time_to_first_token"] {
        let with: Vec<&str> = buckets(&text, name).into_iter().filter(|line| line.contains(" # ")).collect();
        let [exemplar] = with[..] else { panic!("{with:?}") };
        assert!(exemplar.contains(&format!(" # {{trace_id=\"{seen}\"}} ")), "{exemplar}");
    }

    // Whoever does not ask for it gets what everything reads; exemplars do not exist there.
    for accept in
        ["*/*", "text/plain;version=0.0.4", "application/openmetrics-text;version=1.0.0;q=0.1,text/plain"]
    {
        let plain = metrics(&gateway, accept).await;
        assert_eq!(plain.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let plain = plain.text();
        assert!(!plain.contains(" # {") && !plain.contains("# EOF") && !plain.contains("# UNIT"), "{plain}");
        assert!(plain.contains("# TYPE guildhall_requests_total counter\n"), "{plain}");
        let samples = |text: &str| -> BTreeSet<String> {
            let names = text.lines().filter(|line| !line.starts_with('#') && !line.starts_with("process_"));
            names.filter_map(|line| line.split([' ', '{']).next()).map(str::to_owned).collect()
        };
        assert_eq!(samples(&plain), samples(&text));
    }
}

fn wrong_at(place: &Place, exposition: &Exposition, recorded: &Recorded) -> Vec<String> {
    let (name, expr, legend) = place;
    let query = Query::parse(expr);
    let mut wrong = query.problems(exposition, recorded, &NOT_SEEN);
    // A recorded name begins with the labels that are left.
    if let Some((level, _)) = name.split_once(':') {
        let lost = level.split('_').filter(|label| !query.groups.contains(*label));
        wrong.extend(lost.map(|label| format!("the name says `{label}`, and nothing is grouped by it")));
    }
    let labels = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
    let unknown = labels.filter(|label| *label != "instance" && !query.groups.contains(*label));
    wrong.extend(unknown.map(|label| format!("the legend shows `{label}`, which the query does not leave")));
    wrong.into_iter().map(|what| format!("{name}: {what}")).collect()
}

fn undocumented(exposition: &Exposition) -> Vec<String> {
    let documented = documented();
    let mut wrong = Vec::new();
    for (name, seen) in exposition.families() {
        match documented.get(&name) {
            Some(said) if *said == seen => {}
            Some(said) => {
                wrong.push(format!("docs/operations.md says {said:?} of {name}, which is {seen:?}"));
            }
            None => wrong.push(format!("docs/operations.md does not tell of {name}: {seen:?}")),
        }
    }
    let families = exposition.families();
    let gone =
        documented.keys().filter(|name| !families.contains_key(*name) && !NOT_SEEN.contains(&name.as_str()));
    wrong.extend(gone.map(|name| format!("docs/operations.md tells of {name}, which there is not")));
    wrong
}

#[test]
fn every_alert_says_what_to_do() {
    let guide = file("docs/operations.md");
    for rule in rules("deploy/prometheus/alerts.yaml") {
        let name = rule["alert"].as_str().unwrap();
        assert!(guide.contains(&format!("\n#### {name}\n")), "docs/operations.md has no section {name}");
        let runbook = format!("docs/operations.md#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], runbook.as_str(), "{name}");
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("critical" | "warning")), "{name}");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].is_string(), "{name} has no {text}");
        }
    }
}

#[test]
fn the_dashboard_is_in_order() {
    let dashboard = dashboard();
    assert!(dashboard["uid"].is_null() && dashboard["id"].is_null(), "Grafana gives these");
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is there twice");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{title} is over the edge");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{title} lies over another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{title} shows nothing");
        assert!(
            panel["description"].as_str().is_some_and(|text| text.len() > 10),
            "{title} explains nothing"
        );
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
    }
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
}
