//! The commands for keys and teams against a real listener with the admin API behind.

use clap::Parser;

use super::*;
use crate::admin::tests::fixture::TOKEN;
use crate::cli::admin_client::teams;
use crate::cli::admin_client::tests::Running;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    which: Which,
}

#[derive(Subcommand)]
enum Which {
    Keys(Box<Args>),
    Teams(Box<teams::Args>),
}

impl Running {
    async fn keys_or_teams(&self, line: &str) -> Result<Said, Failure> {
        let fixed = ["guildhall"].into_iter().chain(line.split_whitespace());
        let line = Line::try_parse_from(fixed.chain(["--url", &self.url, "--token", TOKEN]));
        match line.map_err(|e| Failure::Usage(e.to_string()))?.which {
            Which::Keys(args) => execute(&AdminClient::new(&args.server)?, &args.command).await,
            Which::Teams(args) => teams::execute(&AdminClient::new(&args.server)?, &args.command).await,
        }
    }

    async fn says(&self, line: &str) -> String {
        self.keys_or_teams(line).await.unwrap_or_else(|e| panic!("{line}: {e}")).text
    }

    async fn refuses(&self, line: &str) -> String {
        match self.keys_or_teams(line).await {
            Ok(said) => panic!("{line}: {}", said.text),
            Err(failure) => failure.to_string(),
        }
    }
}

#[tokio::test]
async fn a_key_lives_through_its_life() {
    let gateway = Running::start().await;
    assert_eq!(gateway.says("teams create --id red --usd-per-month 200").await, "red created");
    let create = "keys create --id ci --team red --rpm 600 --tpm 100000 --usd-per-day 5 --concurrent 10 \
                  --routes auto --expires 90d --priority batch --allow name-experts,debug-headers";
    assert!(
        gateway
            .says(&format!("{create} --dry-run"))
            .await
            .starts_with("ci could be created\nthis is the first")
    );
    let made = gateway.says(create).await;
    let lines: Vec<&str> = made.lines().collect();
    assert_eq!((lines[0], lines[2]), ("ci created", "its token, shown this once:"));
    assert!(lines[1].contains("first key") && lines[3].starts_with("sk-guildhall-ci-"), "{made}");
    let token = lines[3];
    let view = gateway.api.app.pipeline.catalog.view();
    let key = view.keys.authenticate(token, now_ms()).unwrap();
    assert!(key.may_use_route("auto") && key.permissions().name_experts && !key.permissions().bypass_cache);
    assert!(view.keys.authenticate(token, now_ms() + 91 * 86_400_000).is_err());

    let list = gateway.says("keys list").await;
    assert!(
        list.contains("ci  red   admin  active  20") && list.contains("requests_per_minute 600"),
        "{list}"
    );
    let shown = gateway.says("keys get ci").await;
    assert!(shown.contains("name_experts: true") && !shown.contains("sk-guildhall"), "{shown}");
    assert!(gateway.says("teams list").await.contains("red  admin  active  usd_per_month 200"));
    assert!(gateway.says("teams get red").await.contains("usd_per_month: 200"));

    assert_eq!(
        gateway.says("keys update ci --disabled --deny name-experts --unset team").await,
        "ci updated"
    );
    let now = gateway.keys_or_teams("keys get ci").await.unwrap_or_else(|e| panic!("{e}")).json;
    assert_eq!((&now["status"], now.get("team")), (&json!("disabled"), None));
    assert_eq!(now["permissions"]["debug_headers"], true);
    assert_eq!(gateway.says("keys update ci --disabled false").await, "ci updated");
    assert!(gateway.refuses("keys update ci").await.contains("nothing to change"));
    assert!(gateway.refuses("keys update ci --if-match x --rpm 1").await.contains("has changed"));

    let rotated = gateway.says("keys rotate ci").await;
    assert!(rotated.starts_with("ci rotated; the old token goes on for 1day\n"), "{rotated}");
    let second = rotated.lines().last().unwrap();
    let admits =
        |token: &str| gateway.api.app.pipeline.catalog.view().keys.authenticate(token, now_ms()).is_ok();
    assert!(admits(token) && admits(second) && token != second);
    assert!(gateway.says("keys rotate ci --overlap 0s").await.contains("the old token has ended"));
    assert!(!admits(second));

    assert_eq!(gateway.says("keys revoke ci --dry-run").await, "ci could be revoked");
    assert_eq!(gateway.says("keys revoke ci").await, "ci revoked");
    assert!(gateway.refuses("keys get ci").await.contains("there is no key `ci`"));
    assert_eq!(gateway.says("teams update red --disabled --unset limits.usd_per_month").await, "red updated");
    assert!(gateway.says("teams list").await.contains("red  admin  disabled  -"));
    assert_eq!(gateway.says("teams remove red").await, "red removed");
    gateway.stop().await;
}

#[tokio::test]
async fn bad_settings_are_bad_usage() {
    let gateway = Running::start().await;
    for (line, words) in [
        ("keys create --id ci --routes atuo", "did you mean `auto`?"),
        ("keys create --id ci --priority urgent", "[possible values: batch"),
        ("keys create --id ci --expires soon", "--expires"),
        ("keys create --id ci --queue 5", "limits.queue"),
        ("keys create", "--id"),
        ("teams create --id red --concurrent 0", "limits.concurrent"),
    ] {
        let Err(Failure::Usage(message)) = gateway.keys_or_teams(line).await else {
            panic!("{line}: must be bad usage")
        };
        assert!(message.contains(words), "{line}: {message}");
    }
    gateway.stop().await;
}

#[test]
fn a_generated_token_fits_its_hash() {
    let said = generate("ci").unwrap_or_else(|e| panic!("{e}"));
    let token = said.json["key"].as_str().unwrap();
    assert!(said.text.contains(&format!("\n{token}\n")), "{}", said.text);
    let key = json!({"id": "ci", "secrets": [{"hash": said.json["hash"]}]});
    let keys = [serde_json::from_value(key).unwrap()];
    let ring = admission::KeyRing::build(&keys, &[], &admission::Gates::default()).unwrap();
    assert!(ring.authenticate(token, 0).is_ok());
    let config = said.text.lines().last().unwrap();
    assert!(crate::config::parse(config, &|_| None).is_ok(), "{config}");
    assert!(matches!(generate("No Id"), Err(Failure::Usage(_))));
}
