//! Who may call the data plane, and whether those who vouch for callers can be asked.

use std::time::{Duration, Instant};

use experts::Client;
use futures_util::{StreamExt, stream};

use super::report::{Check, Section, counted};
use crate::auth::jwks::Jwks;
use crate::config::{ClientAuth, Config, JwtConfig};

const HERE: Section = Section::Access;
/// Issuers that are asked at one time.
const AT_ONCE: usize = 16;

/// Who is let in. `stored` says whether the store holds API keys, where that is known.
pub(super) fn callers(config: &Config, stored: Option<bool>) -> Check {
    let (name, data) = ("callers", &config.data);
    let listen = data.listen;
    let mut ways = Vec::new();
    if !config.keys.is_empty() || stored == Some(true) {
        ways.push("an API key");
    }
    if !config.auth.jwt.is_empty() {
        ways.push("a token of an issuer");
    }
    if !ways.is_empty() {
        return HERE.ok(name, format!("whoever calls {listen} needs {}", ways.join(" or ")));
    }
    if listen.ip().is_loopback() {
        return HERE.ok(name, format!("{listen} is for this machine alone"));
    }
    if stored.is_none() {
        let detail =
            format!("whoever calls {listen} needs an API key, if there is one: the store was not read");
        return HERE.ok(name, detail);
    }
    if !data.open_to_network {
        return HERE.warning(
            name,
            format!("{listen} can be reached from other machines and there is no API key: nobody is let in"),
            "make a key: guildhall keys create; or name an issuer of tokens in auth.jwt",
        );
    }
    let certificates = data.tls.as_ref().is_some_and(|tls| {
        tls.client_ca_file.is_some() && tls.client_auth.unwrap_or_default() == ClientAuth::Required
    });
    if certificates {
        return HERE.ok(name, format!("whoever calls {listen} needs a certificate"));
    }
    HERE.warning(
        name,
        format!("whoever reaches {listen} may use every expert: data.open_to_network is set"),
        "make a key: guildhall keys create; or let only a proxy that checks who calls reach it (firewall, network \
         policy)",
    )
}

/// Reads the keys of every issuer of tokens, as the gateway does; with `offline` only those in files.
pub(super) async fn issuers(
    issuers: &[JwtConfig],
    client: &Client,
    offline: bool,
    limit: Duration,
) -> Vec<Check> {
    let looks = issuers.iter().map(|config| async move {
        if offline && config.jwks_file.is_none() {
            return HERE.ok(&config.issuer, "its keys were not read (--offline)");
        }
        let begun = Instant::now();
        let read = tokio::time::timeout(limit, Jwks::new(config).read(client)).await;
        judge(
            config,
            read.unwrap_or_else(|_| Err("no answer in time".to_owned())).map(|k| k.len()),
            begun.elapsed(),
        )
    });
    stream::iter(looks).buffered(AT_ONCE).collect().await
}

fn judge(config: &JwtConfig, keys: Result<usize, String>, took: Duration) -> Check {
    let name = config.issuer.as_str();
    let (place, remedy) = match (&config.jwks_file, &config.jwks_url) {
        (Some(file), _) => {
            (file.display().to_string(), "put the issuer's keys there, as a JWK set that this user can read")
        }
        (None, Some(url)) => (url.clone(), "correct jwks_url, or let this machine reach it"),
        (None, None) => (
            format!("{}/.well-known/openid-configuration", name.trim_end_matches('/')),
            "correct issuer, set jwks_url, or let this machine reach it",
        ),
    };
    match keys {
        Ok(keys) => HERE.ok(name, format!("{} by {place}, {} ms", counted(keys, "key"), took.as_millis())),
        Err(error) => HERE.failure(name, format!("its keys cannot be read by {place}: {error}"), remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    fn config(text: &str) -> Config {
        crate::config::parse(text, &|_| None).unwrap()
    }

    fn told(text: &str, stored: Option<bool>) -> (Status, String) {
        let check = callers(&config(text), stored);
        (check.status, check.detail)
    }

    const ISSUER: &str = "{issuer: 'https://id.example', audience: [us]}";

    #[test]
    fn an_open_door_and_a_closed_one_are_told() {
        let key = format!("keys: [{{id: ci, secrets: [{{hash: 'sha256:{}'}}]}}]", "0".repeat(64));
        let jwt = format!("auth: {{jwt: [{ISSUER}]}}");
        let tls = "tls: {cert_file: c, key_file: k, client_ca_file: a}";
        for (text, stored, status, part) in [
            ("data: {listen: '127.0.0.1:80'}", Some(false), Status::Ok, "this machine alone"),
            ("data: {listen: '0.0.0.0:80'}", Some(false), Status::Warning, "nobody is let in"),
            ("data: {listen: '0.0.0.0:80'}", Some(true), Status::Ok, "needs an API key"),
            ("data: {listen: '0.0.0.0:80'}", None, Status::Ok, "was not read"),
            (&format!("data: {{listen: '0.0.0.0:80'}}\n{key}"), Some(false), Status::Ok, "needs an API key"),
            (&format!("data: {{listen: '0.0.0.0:80'}}\n{jwt}"), Some(true), Status::Ok, "API key or a token"),
            (
                "data: {listen: '0.0.0.0:80', open_to_network: true}",
                Some(false),
                Status::Warning,
                "may use every",
            ),
            (
                &format!("data: {{listen: '0.0.0.0:80', open_to_network: true, {tls}}}"),
                Some(false),
                Status::Ok,
                "needs a certificate",
            ),
            (
                &format!(
                    "data: {{listen: '0.0.0.0:80', open_to_network: true, {}}}",
                    tls.replace("_file: a", "_file: a, client_auth: optional")
                ),
                Some(false),
                Status::Warning,
                "may use every",
            ),
        ] {
            let (found, detail) = told(text, stored);
            assert!(found == status && detail.contains(part), "{text} {stored:?}: {found:?} {detail}");
        }
    }

    #[tokio::test]
    async fn an_issuers_keys_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        std::fs::write(
            &file,
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
        )
        .unwrap();
        let issuer = |rest: &str| -> JwtConfig {
            config(&format!("auth: {{jwt: [{{issuer: 'https://id.example', audience: [us], {rest}}}]}}"))
                .auth
                .jwt
                .remove(0)
        };
        let all = [
            issuer(&format!("jwks_file: '{}'", file.display())),
            issuer("jwks_file: /nowhere/keys.json"),
            issuer("leeway_s: 1"),
        ];
        let client = Client::new(&experts::ClientConfig::default()).unwrap();
        let found = issuers(&all, &client, true, Duration::from_secs(5)).await;
        let statuses: Vec<Status> = found.iter().map(|c| c.status).collect();
        assert_eq!(statuses, [Status::Ok, Status::Failure, Status::Ok], "{found:?}");
        assert!(found[0].detail.starts_with("1 key by "), "{found:?}");
        assert!(found[1].detail.contains("/nowhere/keys.json: No such file"), "{found:?}");
        assert!(found[2].detail.contains("--offline"), "{found:?}");
    }

    #[test]
    fn where_keys_are_looked_for_is_told() {
        let jwt = config(&format!("auth: {{jwt: [{ISSUER}]}}")).auth.jwt.remove(0);
        let failed = judge(&jwt, Err("no answer in time".into()), Duration::ZERO);
        assert_eq!(
            failed.detail,
            "its keys cannot be read by https://id.example/.well-known/openid-configuration: no answer in time"
        );
        assert!(failed.remedy.unwrap().contains("set jwks_url"));
    }
}
