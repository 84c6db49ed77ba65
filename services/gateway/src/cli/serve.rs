//! `guildhall serve`.

use std::sync::Arc;

use anyhow::Context;

use super::{ConfigArgs, Failure, ort_dylib_path, say};
use crate::app::{App, Role, World};
use crate::lifecycle::{Listeners, run as run_lifecycle};

/// Arguments of `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Which parts run in this process.
    #[arg(long, value_enum, default_value_t, value_name = "ROLE")]
    role: Role,
}

/// Runs the gateway until it is told to stop.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.config.load()?;
    crate::telemetry::start(&config.telemetry).map_err(|e| {
        Failure::Usage(format!("telemetry.log: {e}; `info` or `warn,gateway=debug` would do"))
    })?;
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("the system gives no random bytes")?;
    let (seed, token) = random.split_at(8);
    let world = World {
        ort_dylib_path: ort_dylib_path(),
        seed: u64::from_le_bytes(seed.try_into().unwrap_or_default()),
        token_bytes: token.try_into().unwrap_or([0; 24]),
        role: args.role,
    };
    let demo = args.config.config.is_none();
    let app = App::build(config, &world)?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let config = app.current.config();
        let data = (args.role != Role::Tiers).then_some(config.data.listen);
        let listeners =
            Listeners::bind(data, config.admin.listen).await.map_err(|e| Failure::Other(e.into()))?;
        announce(&app, &listeners, demo)?;
        run_lifecycle(Arc::new(app), listeners, args.config.config.clone()).await?;
        Ok(())
    })
}

/// One thread for each core that this process may use. With one core there is nobody to share work with, and
/// the scheduler that does not try is the cheaper one.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut builder = match cores {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}

/// Says what was started, where, and how to try it. Only here is a new admin token ever shown.
fn announce(app: &App, listeners: &Listeners, demo: bool) -> Result<(), Failure> {
    let (data, admin) = listeners.addresses()?;
    let scheme = |tls: &Option<_>| if tls.is_some() { "https" } else { "http" };
    let admin = format!("{}://{admin}", scheme(&app.tls.admin));
    say(format!("guildhall {} is listening", env!("CARGO_PKG_VERSION")))?;
    let data = data.map(|data| format!("{}://{data}", scheme(&app.tls.data)));
    if let Some(data) = &data {
        say(format!("  chat    {data}/v1"))?;
    }
    say(format!("  admin   {admin}/admin/v1"))?;
    if let Some(token) = &app.new_token {
        say(format!("  admin token, shown this once: {}", token.expose()))?;
    }
    let Some(data) = data else {
        let name = |pool: &tiers::owner::Pool| pool.id().to_string();
        let pools: Vec<_> = app.pipeline.pools.all().iter().map(name).collect();
        return say(format!("  pools   {} (no data plane; gateways use them)", pools.join(", ")));
    };
    let view = app.pipeline.catalog.view();
    match &view.router.encoder {
        Some(encoder) => {
            let bundle = encoder.bundle();
            let provider = encoder.execution_provider();
            let how = if encoder.is_first_stage_alone() {
                "first stage alone, without ONNX Runtime".to_owned()
            } else {
                format!("on {provider}")
            };
            say(format!("  router  bundle {} {} {how}", bundle.name, bundle.version))?;
        }
        None => say("  router  not loaded: no route looks at prompts")?,
    }
    let experts: Vec<&str> = view.expert_ids().collect();
    let label = if demo { " (built-in demo experts; `guildhall init` finds real ones)" } else { "" };
    say(format!("  experts {}{label}", experts.join(", ")))?;
    say(format!(
        "try it:\n  curl -i {data}/v1/chat/completions -H 'content-type: application/json' \\\n    \
         -d '{{\"model\":\"auto\",\"messages\":[{{\"role\":\"user\",\"content\":\"Write a function that reverses a list\"}}]}}'"
    ))
}
