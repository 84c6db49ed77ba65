//! A gateway that is running on the configuration's addresses: whether it is well, and runs on this file.

use std::time::Duration;

use http::StatusCode;
use http::header::WWW_AUTHENTICATE;
use serde_json::Value;

use super::listeners::Listener;
use super::plane::{Answer, Plane};
use super::report::{Check, Section, counted};
use crate::config::Config;

const HERE: Section = Section::Gateway;
/// Errors among fewer requests than this say little.
const ENOUGH: u64 = 20;
/// A larger share of errors than this is worth a word.
const SHARE: f64 = 0.01;

/// What a running gateway says of itself.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) base: String,
    pub(super) health: Health,
    pub(super) config: InUse,
    /// Whether there are API keys, where the token could ask.
    pub(super) has_keys: Option<bool>,
    /// Requests since its start, and how many of them ended with a 5xx status.
    pub(super) requests: Option<(u64, u64)>,
}

#[derive(Clone, Debug, serde::Deserialize)]
pub(super) struct Health {
    status: String,
    version: String,
    experts: usize,
    routes: usize,
}

/// The configuration that a gateway works with.
#[derive(Clone, Debug)]
pub(super) enum InUse {
    /// There was no token to ask with.
    NotAsked,
    /// The token was not accepted, or something else went wrong.
    Refused(StatusCode),
    /// `GET /admin/v1/config`.
    Told(Value),
}

/// Asks the admin plane; `None` when no gateway answers there. The token is sent to nobody else.
pub(super) async fn ask(plane: &Plane, token: Option<&str>, limit: Duration) -> Option<Running> {
    let health = plane.get("/health", None, limit).await.ok()?;
    let health: Health = serde_json::from_slice(&health.body).ok()?;
    let (mut config, mut has_keys) = (InUse::NotAsked, None);
    if let Some(token) = token {
        config = match plane.get("/admin/v1/config", Some(token), limit).await {
            Ok(Answer { status: StatusCode::OK, body, .. }) => {
                InUse::Told(serde_json::from_slice(&body).ok()?)
            }
            Ok(refused) => InUse::Refused(refused.status),
            Err(_) => InUse::NotAsked,
        };
        let keys = plane.get("/admin/v1/keys?limit=1", Some(token), limit).await.ok();
        let keys = keys.and_then(|keys| serde_json::from_slice::<Value>(&keys.body).ok());
        has_keys = keys.and_then(|keys| Some(!keys["items"].as_array()?.is_empty()));
    }
    let metrics = plane.get("/metrics", None, limit).await.ok().filter(|answer| answer.status.is_success());
    let requests = metrics.map(|answer| requests(&String::from_utf8_lossy(&answer.body)));
    Some(Running { base: plane.url(), health, config, has_keys, requests })
}

/// Whether a data plane without TLS is a gateway's.
pub(super) async fn is_data_plane(plane: &Plane, limit: Duration) -> bool {
    plane.get("/v1/models", None, limit).await.is_ok_and(|answer| is_ours(&answer))
}

/// Whether this is how a gateway lists its models: they are its own, or it wants a key first.
fn is_ours(answer: &Answer) -> bool {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status == StatusCode::UNAUTHORIZED {
        let error = &body["error"];
        return answer.headers.contains_key(WWW_AUTHENTICATE)
            && error["type"] == "authentication_error"
            && error["code"] == "invalid_api_key";
    }
    let mut models = body["data"].as_array().into_iter().flatten();
    models.any(|m| m["owned_by"].as_str().is_some_and(|owner| owner.starts_with("guildhall-")))
}

/// All requests, and those that ended with a 5xx status.
fn requests(metrics: &str) -> (u64, u64) {
    let mut sums = (0, 0);
    for line in metrics.lines() {
        // What follows the hash is an exemplar.
        let line = line.split(" # ").next().unwrap_or(line);
        let Some((labels, value)) =
            line.strip_prefix("guildhall_requests_total{").and_then(|line| line.rsplit_once("} "))
        else {
            continue;
        };
        let value: u64 = value.parse().unwrap_or(0);
        sums.0 += value;
        if labels.contains("status=\"5") {
            sums.1 += value;
        }
    }
    sums
}

impl Running {
    /// Who it is, in a few words.
    pub(super) fn describe(&self) -> String {
        format!("guildhall {}, {}", self.health.version, self.state())
    }

    fn state(&self) -> &'static str {
        if self.is_ready() { "ready" } else { "not ready" }
    }

    fn is_ready(&self) -> bool {
        self.health.status == "ready"
    }

    /// Compares it with the configuration that is checked.
    pub(super) fn checks(&self, config: &Config) -> Vec<Check> {
        let health = &self.health;
        let detail = format!(
            "{} at {}: {}, {}",
            self.describe(),
            self.base,
            counted(health.experts, "expert"),
            counted(health.routes, "route")
        );
        let mut checks = vec![if self.is_ready() {
            HERE.ok("readiness", detail)
        } else {
            HERE.warning(
                "readiness",
                detail,
                "it is starting or draining; look again in a moment, then at its log",
            )
        }];
        checks.push(match &self.config {
            InUse::NotAsked => {
                HERE.ok("configuration", "not compared: set GUILDHALL_ADMIN_TOKEN to have it compared")
            }
            InUse::Refused(status) => HERE.warning(
                "configuration",
                format!("not compared: the admin API answers {status}"),
                "set GUILDHALL_ADMIN_TOKEN to the running gateway's token",
            ),
            InUse::Told(told) => compare(told, config),
        });
        checks.extend(self.requests.map(|(all, failed)| {
            let detail = format!(
                "{failed} of {} since its start ended with a 5xx status",
                counted(all as usize, "request")
            );
            if all >= ENOUGH && failed as f64 > SHARE * all as f64 {
                HERE.warning(
                    "errors",
                    detail,
                    "see who failed: GET /admin/v1/decisions, and the gateway's log",
                )
            } else {
                HERE.ok("errors", detail)
            }
        }));
        checks
    }
}

/// What stands for [`Running::checks`] where none answers.
pub(super) fn none_at(admin: Listener<'_>) -> Check {
    HERE.ok(
        "readiness",
        match admin.address.port() {
            0 => "not looked for: admin.listen names no port".to_owned(),
            _ => format!("none answers at {}", admin.address),
        },
    )
}

/// Compares the configuration in use, as the admin API tells it, with the one that is checked. Secrets are shown as
/// stars on both sides: a change of one is not seen.
fn compare(told: &Value, config: &Config) -> Check {
    let name = "configuration";
    if let Some(problem) = told["reload"]["problem"].as_str() {
        let detail = format!("the file as it is now is not in use: {problem}");
        return HERE.failure(name, detail, "correct the file; it is taken over within a second");
    }
    // Through text, as the other side came: a price of 0.3 is another number there than here.
    let ours = serde_json::to_string(config).unwrap_or_default();
    let ours: Value = serde_json::from_str(&ours).unwrap_or_default();
    let sections = ours.as_object().into_iter().flatten();
    let differing: Vec<&str> = sections
        .filter(|(section, value)| told[section.as_str()] != **value)
        .map(|(section, _)| section.as_str())
        .collect();
    let (live, started): (Vec<&str>, Vec<&str>) = differing
        .into_iter()
        .partition(|section| matches!(*section, "experts" | "routes" | "teams" | "keys"));
    match (started.as_slice(), live.as_slice()) {
        ([], []) => HERE.ok(name, "what runs is what the file says"),
        ([], live) => HERE.warning(
            name,
            format!("{} in use are not those of this file", live.join(" and ")),
            "see that the gateway was started with this file; it takes changes over within a second, or on SIGHUP",
        ),
        (started, _) => HERE.warning(
            name,
            format!("changes of {} wait for a restart", started.join(", ")),
            "restart the gateway, if it was started with this file",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;
    use serde_json::json;

    fn running(status: &str, config: InUse, requests: (u64, u64)) -> Running {
        Running {
            base: "http://127.0.0.1:8081".into(),
            health: Health { status: status.into(), version: "1.2.3".into(), experts: 2, routes: 1 },
            config,
            has_keys: None,
            requests: Some(requests),
        }
    }

    /// What the admin API would tell.
    fn told(reload: Value, config: &Config) -> Value {
        let mut told: Value = serde_json::from_str(&serde_json::to_string(config).unwrap()).unwrap();
        told["reload"] = reload;
        told
    }

    fn found(running: &Running) -> Vec<(String, Status)> {
        running.checks(&Config::demo()).into_iter().map(|c| (c.name, c.status)).collect()
    }

    #[test]
    fn a_well_gateway_is_fine() {
        let running = running("ready", InUse::Told(told(json!({"applied": 0}), &Config::demo())), (100, 1));
        assert!(found(&running).iter().all(|(_, status)| *status == Status::Ok), "{running:?}");
        assert_eq!(
            running.checks(&Config::demo())[0].detail,
            "guildhall 1.2.3, ready at http://127.0.0.1:8081: 2 experts, 1 route"
        );
    }

    #[test]
    fn what_ails_it_is_told() {
        let ill = running("not_ready", InUse::Refused(StatusCode::UNAUTHORIZED), (100, 2));
        assert!(found(&ill).iter().all(|(_, status)| *status == Status::Warning), "{:?}", found(&ill));
        let few = running("ready", InUse::NotAsked, (19, 19));
        assert!(found(&few).iter().all(|(_, status)| *status == Status::Ok));
    }

    #[test]
    fn the_configuration_in_use_is_compared_with_the_file() {
        let compare = |reload: Value, change: &dyn Fn(&mut Config)| {
            let mut config = Config::demo();
            change(&mut config);
            let check = super::compare(&told(reload, &config), &Config::demo());
            (check.status, check.detail)
        };
        let (status, detail) = compare(json!({"problem": "not valid YAML"}), &|_| {});
        assert_eq!((status, detail.ends_with("not valid YAML")), (Status::Failure, true));
        let (status, detail) = compare(json!({}), &|c| c.data.drain_ms = 1);
        assert_eq!((status, detail.as_str()), (Status::Warning, "changes of data wait for a restart"));
        let (status, detail) = compare(json!({}), &|c| c.routes.clear());
        assert_eq!((status, detail.as_str()), (Status::Warning, "routes in use are not those of this file"));
        let team = || serde_json::from_value(json!({"id": "red"})).unwrap();
        let (_, detail) = compare(json!({}), &|c| c.teams = vec![team()]);
        assert_eq!(detail, "teams in use are not those of this file");
        assert_eq!(compare(json!({}), &|_| {}).0, Status::Ok);
    }

    #[test]
    fn a_data_plane_is_known_by_its_models_or_its_wish_for_a_key() {
        let ours = |status: u16, challenge: bool, body: Value| {
            let mut headers = http::HeaderMap::new();
            if challenge {
                headers.insert(WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
            }
            let status = StatusCode::from_u16(status).unwrap();
            is_ours(&Answer { status, headers, body: body.to_string().into() })
        };
        assert!(ours(200, false, json!({"data": [{"id": "auto", "owned_by": "guildhall-route"}]})));
        assert!(!ours(200, false, json!({"data": [{"id": "llama", "owned_by": "vllm"}]})));
        let refused = crate::error::ApiError::new(crate::error::ErrorKind::Unauthorized, "").body();
        let refused: Value = serde_json::from_slice(&refused).unwrap();
        assert!(ours(401, true, refused.clone()) && !ours(401, false, refused));
        assert!(!ours(
            401,
            true,
            json!({"error": {"type": "invalid_request_error", "code": "invalid_api_key"}})
        ));
    }

    #[test]
    fn errors_are_counted_from_the_metrics() {
        let text = "# TYPE guildhall_requests counter\n\
                    guildhall_requests_total{route=\"auto\",status=\"200\"} 90\n\
                    guildhall_requests_total{route=\"auto\",status=\"503\"} 7 # {id=\"x\"} 1.0\n\
                    guildhall_fallbacks_total{route=\"auto\"} 9\n";
        assert_eq!(requests(text), (97, 7));
        assert_eq!(requests(""), (0, 0));
    }
}
