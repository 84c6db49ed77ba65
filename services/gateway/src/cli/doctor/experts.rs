//! The experts' endpoints: the way to them, their keys and their models.

use std::collections::BTreeSet;
use std::time::Duration;

use experts::{
    CallErrorKind, Client, Expert, ExpertSpec, Look, Phase, Problem, TlsFiles, Trust, certificate_end,
};
use futures_util::{StreamExt, stream};

use super::certificates::{day, ending, first};
use super::report::{Check, Section, Status, counted, some_of};
use crate::problem::nearest;

/// Endpoints that are looked at at one time.
const AT_ONCE: usize = 16;
/// An endpoint that takes longer for its list is slow for a request too.
const SLOW: Duration = Duration::from_secs(1);

/// What an endpoint should be, to compare with what it is.
#[derive(Clone, Copy, Debug)]
struct Expected<'a> {
    expert: &'a str,
    url: &'a str,
    model: &'a str,
    has_key: bool,
    connect_timeout: Duration,
}

/// Looks at every endpoint of every expert that has some, side by side; the checks are in the experts' order.
/// `now` is in seconds since 1970.
pub(super) async fn checks(experts: &[ExpertSpec], client: &Client, limit: Duration, now: u64) -> Vec<Check> {
    let mut checks = files(experts, client, now);
    let unusable: BTreeSet<String> = checks.iter().map(|c| c.name.clone()).collect();
    let endpoints = experts.iter().filter(|e| !unusable.contains(e.id.as_str())).filter_map(|expert| {
        let upstream = expert.backend.upstream()?;
        Some(upstream.endpoints.iter().map(move |endpoint| (expert, upstream, endpoint)))
    });
    let looks = endpoints.flatten().map(|(expert, upstream, endpoint)| async move {
        let expected = Expected {
            expert: expert.id.as_str(),
            url: &endpoint.url,
            model: upstream.model.as_deref().unwrap_or(expert.id.as_str()),
            has_key: upstream.api_key.is_some() || !upstream.headers.is_empty(),
            connect_timeout: Duration::from_millis(expert.limits.connect_timeout_ms),
        };
        match upstream.look(endpoint, client, limit).await {
            Ok(looks) => looks.iter().flat_map(|look| judge(expected, look, now)).collect(),
            Err(problem) => vec![unusable_setting(expert, &problem)],
        }
    });
    let looked: Vec<Vec<Check>> = stream::iter(looks).buffered(AT_ONCE).collect().await;
    checks.extend(looked.into_iter().flatten());
    checks.extend(local(experts));
    checks
}

/// Sets every expert up as the gateway does, which reads its certificates, and sees how long ours are good for.
fn files(experts: &[ExpertSpec], client: &Client, now: u64) -> Vec<Check> {
    let mut checks = Vec::new();
    for expert in experts.iter().filter(|e| is_remote(e)) {
        if let Err(problem) = Expert::new(expert.clone(), Trust::Operator, client) {
            checks.push(unusable_setting(expert, &problem));
            continue;
        }
        let tls = expert.backend.upstream().and_then(|upstream| upstream.tls.as_ref());
        checks.extend(tls.and_then(|tls| own_certificate(expert, tls, now)));
    }
    checks
}

fn unusable_setting(expert: &ExpertSpec, problem: &Problem) -> Check {
    Section::Experts.error(
        expert.id.as_str(),
        &problem.to_string(),
        "correct it in the configuration, and let this user read the files that it names",
    )
}

/// The name of a check that says nothing about whether the expert answers now.
fn certificate_of(expert: &str) -> String {
    format!("{expert} certificate")
}

/// The certificate that we show to an expert's endpoints, if it ends soon.
fn own_certificate(expert: &ExpertSpec, tls: &TlsFiles, now: u64) -> Option<Check> {
    let file = tls.client_cert_file.as_ref()?;
    let end = certificate_end(&first(file)?)?;
    let what = format!("the certificate of {}", file.display());
    let remedy = "renew it, then change the expert or restart; past its end the endpoints turn us away";
    ending(Section::Experts, &certificate_of(expert.id.as_str()), &what, end, now, remedy)
}

/// The experts that need nobody else.
pub(super) fn local(experts: &[ExpertSpec]) -> Option<Check> {
    let local: Vec<&str> = experts.iter().filter(|e| !is_remote(e)).map(|e| e.id.as_str()).collect();
    (!local.is_empty()).then(|| {
        let detail = format!("{}: {}", counted(local.len(), "expert"), some_of(local, 4));
        Section::Experts.ok("without a server", detail)
    })
}

/// What stands for [`checks`] where the network is left alone.
pub(super) fn offline(experts: &[ExpertSpec], client: &Client, now: u64) -> Vec<Check> {
    let remote = experts.iter().filter(|e| is_remote(e)).count();
    let skipped = (remote > 0).then(|| {
        Section::Experts
            .ok("endpoints", format!("of {} not looked at (--offline)", counted(remote, "expert")))
    });
    let mut checks = files(experts, client, now);
    checks.extend(skipped);
    checks.extend(local(experts));
    checks
}

/// The experts none of whose endpoints could answer, by these checks.
pub(super) fn dead<'a>(experts: &'a [ExpertSpec], checks: &[Check]) -> BTreeSet<&'a str> {
    let works = |id: &str, wanted: bool| {
        checks
            .iter()
            .any(|c| c.section == Section::Experts && c.name == id && (c.status != Status::Failure) == wanted)
    };
    let ids = experts.iter().filter(|e| is_remote(e)).map(|e| e.id.as_str());
    ids.filter(|id| works(id, false) && !works(id, true)).collect()
}

fn is_remote(expert: &ExpertSpec) -> bool {
    expert.backend.upstream().is_some()
}

fn judge(expected: Expected<'_>, look: &Look, now: u64) -> Vec<Check> {
    let mut checks = vec![answer(expected, look)];
    checks.extend(look.certificate_ends.and_then(|end| {
        let what = format!("{}: the certificate{}", expected.url, way(expected.url, look));
        let remedy = "renew the endpoint's certificate; past its end no call gets through";
        ending(Section::Experts, &certificate_of(expected.expert), &what, end, now, remedy)
    }));
    checks
}

fn answer(expected: Expected<'_>, look: &Look) -> Check {
    let (here, name, url) = (Section::Experts, expected.expert, expected.url);
    let listing = match &look.answer {
        Ok(listing) => listing,
        Err(error) => {
            let detail = match error.detail() {
                Some(detail) => {
                    let detail = detail.split(" (os error").next().unwrap_or(detail);
                    format!("{url} {}: {detail}", error.message())
                }
                None => {
                    format!(
                        "{url} {} ({:.1} s){}",
                        error.message(),
                        look.elapsed.as_secs_f64(),
                        way(url, look)
                    )
                }
            };
            return here.failure(name, detail, unreachable(error.kind()));
        }
    };
    let status = listing.status;
    let took = format!("{} ms", look.elapsed.as_millis());
    let answered = format!("{url} answers {status} in {took}{}", way(url, look));
    match (status.as_u16(), &listing.models) {
        (200..=299, Some(models)) => {
            if !models.iter().any(|m| m == expected.model) {
                return unlisted(expected, models);
            }
            if look.elapsed > SLOW {
                let remedy = format!(
                    "look at its load and the network; opening a connection may take {} ms (limits.connect_timeout_ms)",
                    expected.connect_timeout.as_millis()
                );
                return here.warning(name, format!("{answered}: slow"), remedy);
            }
            let certificate = look.certificate_ends.map(|end| format!(", certificate until {}", day(end)));
            let certificate = certificate.unwrap_or_default();
            here.ok(name, format!("{url} has {}, {took}{}{certificate}", expected.model, way(url, look)))
        }
        (200..=299, None) => here.warning(
            name,
            format!("{answered}, but not with a list of models"),
            "see that the url ends with the API's version, as in http://host:8000/v1",
        ),
        (401 | 403, _) => {
            let (what, remedy) = if expected.has_key {
                ("the key is not accepted", "give a valid key in the expert's api_key, or the header that the server wants")
            } else {
                ("it wants a key", "set the expert's api_key, best as a reference: api_key: ${NAME}")
            };
            here.failure(name, format!("{answered}: {what}"), remedy)
        }
        (404 | 405 | 501, _) => here.warning(
            name,
            format!("{answered}: it lists no models, so its model could not be checked"),
            "see that the url ends with the API's version, as in http://host:8000/v1; some servers have no list",
        ),
        (429, _) => here.warning(name, format!("{answered}: it is over its limit"), "wait, or ask the provider for more"),
        (500.., _) => here.failure(name, format!("{answered}: the server is in trouble"), "look at the server's log"),
        _ => here.warning(name, answered, "see that the url is an OpenAI-compatible API's"),
    }
}

fn unlisted(expected: Expected<'_>, models: &[String]) -> Check {
    let names = || models.iter().map(String::as_str);
    let detail = format!("{} has no model `{}`", expected.url, expected.model);
    let remedy = match nearest(expected.model, names()) {
        Some(near) => format!("set the expert's model to `{near}`"),
        None if models.is_empty() => "load a model on the server: it has none".to_owned(),
        None => format!("set the expert's model to one that it has: {}", some_of(names(), 4)),
    };
    Section::Experts.failure(expected.expert, detail, remedy)
}

/// Where a name led, unless the URL says it itself.
fn way(url: &str, look: &Look) -> String {
    let addresses: BTreeSet<String> = look.addresses.iter().map(ToString::to_string).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).filter(|a| !url.contains(a)).collect();
    match addresses.len() {
        0 => String::new(),
        _ => format!(" at {}", addresses.join(", ")),
    }
}

fn unreachable(kind: CallErrorKind) -> &'static str {
    use CallErrorKind as Kind;
    match kind {
        Kind::Dns => "correct the host in the endpoint's url, or see that this machine can look it up",
        Kind::Forbidden => {
            "give the endpoint another address, or set upstream.allow_link_local: true if it is served at this one"
        }
        Kind::Connect => "start the server, or correct host and port of the endpoint's url",
        Kind::Timeout(Phase::Connect) => {
            "see that a firewall lets the connection through, and that the host is up"
        }
        Kind::Timeout(_) => "see whether the server hangs or is overloaded; --timeout gives it more time",
        Kind::Tls => {
            "renew or correct the server's certificate, name its authority as backend.tls.ca_file or \
             upstream.extra_ca_file, or use http:// if it speaks no TLS"
        }
        Kind::Protocol => "see that the url's scheme and port are right: the other side speaks no HTTP there",
        _ => "look at the server's log",
    }
}

#[cfg(test)]
mod tests;
