//! `guildhall check-config FILE`.

use std::path::PathBuf;

use super::{Failure, say, say_json};
use crate::config::Config;

/// Arguments of `check-config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Checks a file as `serve` would before it opens a socket; the router bundle's categories are checked when
/// the bundle can be found.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let env = |name: &str| std::env::var(name).ok();
    let checked = crate::config::load(&args.file, &env).map_err(|e| e.to_string()).and_then(|loaded| {
        let config = loaded.config;
        let problems = crate::catalog::check_file(&config, categories(&config).as_deref());
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
    });
    match checked {
        Ok(config) if args.json => say_json(&serde_json::json!({
            "valid": true, "experts": config.experts.len(), "routes": config.routes.len(),
        })),
        Ok(config) => say(format!(
            "{} is valid: {} experts, {} routes",
            args.file.display(),
            config.experts.len(),
            config.routes.len()
        )),
        Err(problems) => {
            if args.json {
                say_json(
                    &serde_json::json!({"valid": false, "problems": problems.lines().collect::<Vec<_>>()}),
                )?;
            }
            Err(Failure::Usage(format!("{}:\n{problems}", args.file.display())))
        }
    }
}

/// The bundle's categories, without loading its model.
pub(super) fn categories(config: &Config) -> Option<Vec<String>> {
    let directory = crate::app::find_bundle(&config.router.bundle).ok()?;
    let bundle = encoder::Bundle::open(&directory).ok()?;
    Some(bundle.manifest.categories.into_iter().map(|c| c.name).collect())
}
