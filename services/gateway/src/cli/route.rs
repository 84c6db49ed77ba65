//! `guildhall route`: a decision without a gateway.

use super::{ConfigArgs, Failure, ort_dylib_path, say, say_json};
use crate::app::{App, Role, World};
use crate::decision::Reading;

/// Arguments of `route`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The prompt.
    prompt: String,
    /// The route that decides.
    #[arg(long, default_value = "auto")]
    model: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the whole decision record as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Decides about a prompt with the configuration's experts. The store is left alone: a running gateway may
/// hold it, and its registered experts are asked about through the admin API's `route`.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut config = args.config.load()?;
    let scratch = std::env::temp_dir().join(format!("guildhall-route-{}.redb", std::process::id()));
    config.store.path.clone_from(&scratch);
    let world = World { ort_dylib_path: ort_dylib_path(), seed: 0, token_bytes: [0; 24], role: Role::All };
    let app = App::build(config, &world);
    let _ = std::fs::remove_file(&scratch);
    let app = app?;
    let body = serde_json::json!({
        "model": args.model,
        "messages": [{"role": "user", "content": args.prompt}],
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let explained = runtime
        .block_on(app.pipeline.explain(body.to_string().into()))
        .map_err(|e| Failure::Usage(e.to_string()))?;
    if args.json {
        return say_json(&explained);
    }
    let decision = &explained.decision;
    let expert = decision.expert.as_ref().map_or("nobody", |e| e.as_str());
    say(format!("{} -> {expert}", args.model))?;
    if let Some(planned) = &decision.planned {
        say(format!("  basis       {:?}", planned.plan.basis))?;
        for scored in explained.probabilities.iter().take(3) {
            say(format!("  category    {:<26} {:.3}", scored.category, scored.probability))?;
        }
        for candidate in &planned.plan.candidates {
            say(format!(
                "  candidate   {:<26} {:.3}  {:?}",
                candidate.expert, candidate.score, candidate.reason
            ))?;
        }
        for rejected in &planned.plan.rejected {
            say(format!("  rejected    {:<26} it {}", rejected.expert, rejected.obstacle.describe()))?;
        }
    }
    match &decision.reading {
        Reading::Read { stage, tokens, truncated_tokens, forward_us, .. } => say(format!(
            "  read        {tokens} tokens by the {stage} in {:.1} ms, {truncated_tokens} of them skipped",
            *forward_us as f64 / 1000.0
        )),
        Reading::Failed { reason } => say(format!("  not read    {reason}")),
        Reading::NotNeeded => say("  not read    the policy does not look at prompts"),
    }
}
