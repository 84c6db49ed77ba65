//! `guildhall memory ...`.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use flate2::read::MultiGzDecoder;
use http::Method;
use serde_json::json;

use super::command::{self, Mode, Said, Version};
use super::{AdminClient, Ask, ServerArgs, show};
use crate::admin::segment;
use crate::cli::Failure;

/// Arguments of `memory`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

/// What to do with the past prompts that a running gateway remembers for policy `knn`.
#[derive(Debug, Subcommand)]
enum Command {
    /// List the past prompts.
    List,
    /// Show a past prompt with its embedding.
    Get {
        /// Its id.
        id: String,
    },
    /// Add past prompts, all of them or none.
    ///
    /// Each line is an object with `text`, or `embedding` and `encoder`, with `outcomes` by expert from 0 to 1, and
    /// with an `id` where it is to be replaced later.
    Add {
        /// JSON lines, plain or gzip.
        file: PathBuf,
        #[command(flatten)]
        mode: Mode,
    },
    /// Remove past prompts.
    Remove {
        /// The id of one.
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// Remove all of them.
        #[arg(long, conflicts_with_all = ["id", "if_match"])]
        all: bool,
        #[command(flatten)]
        version: Version,
        #[command(flatten)]
        mode: Mode,
    },
}

/// Runs the command against a running gateway.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    command::run(&args.server, async |client| execute(client, &args.command).await)
}

async fn execute(client: &AdminClient, command: &Command) -> Result<Said, Failure> {
    match command {
        Command::List => {
            let prompts = client.list("memory").await?;
            Ok(Said { text: show::memory(&prompts), json: json!({ "prompts": prompts }) })
        }
        Command::Get { id } => {
            let prompt = client.send(Ask::new(Method::GET, place(id))).await?;
            Ok(Said { text: show::yaml(&prompt)?, json: prompt })
        }
        Command::Add { file, mode } => {
            let ask = Ask::new(Method::POST, format!("/memory{}", mode.query()));
            let done = client.send(ask.with_lines(read(file)?)).await?;
            let mut text = format!(
                "{} {}, {} replaced; {} in all",
                done["added"],
                mode.said("added"),
                done["replaced"],
                done["prompts"]
            );
            if let Some(unknown) = done["unknown_experts"].as_array().filter(|unknown| !unknown.is_empty()) {
                let names: Vec<&str> = unknown.iter().filter_map(|name| name.as_str()).collect();
                text = format!(
                    "{text}\nnot registered, so that their outcomes do not count yet: {}",
                    names.join(", ")
                );
            }
            Ok(Said { text, json: done })
        }
        Command::Remove { id: Some(id), version, mode, .. } => {
            command::remove(client, place(id), id, version, mode, "removed").await
        }
        Command::Remove { mode, .. } => {
            let done = client.send(Ask::new(Method::DELETE, format!("/memory{}", mode.query()))).await?;
            Ok(Said { text: format!("{} {}", done["removed"], mode.said("removed")), json: done })
        }
    }
}

fn place(id: &str) -> String {
    format!("/memory/{}", segment(id))
}

/// A file as it is, or what it is when it is gzip.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |e: std::io::Error| Failure::Usage(format!("cannot read {}: {e}", path.display()));
    let bytes = std::fs::read(path).map_err(failed)?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).map_err(failed)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;
    use serde_json::Value;

    use super::*;
    use crate::admin::tests::fixture::TOKEN;
    use crate::cli::admin_client::tests::Running;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    async fn ran(gateway: &Running, words: &[&str]) -> Result<Said, Failure> {
        let fixed = ["memory", "--url", &gateway.url, "--token", TOKEN];
        let line =
            Line::try_parse_from(fixed.iter().chain(words)).map_err(|e| Failure::Usage(e.to_string()))?;
        execute(&AdminClient::new(&line.args.server)?, &line.args.command).await
    }

    async fn text(gateway: &Running, words: &[&str]) -> String {
        ran(gateway, words).await.unwrap_or_else(|e| panic!("{words:?}: {e}")).text
    }

    #[tokio::test]
    async fn past_prompts_are_added_listed_and_removed() {
        let gateway = Running::start().await;
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("a.jsonl"), folder.path().join("b.jsonl.gz"));
        let line = |id: &str, expert: &str| {
            json!({"id": id, "embedding": [1, 0, 0, 0], "outcomes": {expert: 1.0}}).to_string() + "\n"
        };
        std::fs::write(&plain, line("b/1", "general") + &line("a", "general")).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(line("c", "nobody").as_bytes()).unwrap();
        std::fs::write(&packed, gzip.finish().unwrap()).unwrap();

        let plain = plain.to_str().unwrap();
        let tried = text(&gateway, &["add", plain, "--dry-run"]).await;
        assert_eq!(tried, "2 could be added, 0 replaced; 2 in all");
        assert_eq!(text(&gateway, &["add", plain]).await, "2 added, 0 replaced; 2 in all");
        let unknown = text(&gateway, &["add", packed.to_str().unwrap()]).await;
        assert!(
            unknown.starts_with("1 added, 0 replaced; 3 in all\n") && unknown.ends_with(": nobody"),
            "{unknown}"
        );
        let listed = text(&gateway, &["list"]).await;
        let expected = "\
ID   SPACE  OUTCOMES      USED
a    tiny   general 1.00  yes
b/1  tiny   general 1.00  yes
c    tiny   nobody 1.00   yes";
        assert_eq!(listed, expected);
        assert!(text(&gateway, &["get", "b/1"]).await.contains("embedding:"));
        assert_eq!(text(&gateway, &["remove", "b/1"]).await, "b/1 removed");
        assert_eq!(text(&gateway, &["remove", "--all", "--dry-run"]).await, "2 could be removed");
        assert_eq!(text(&gateway, &["remove", "--all"]).await, "2 removed");
        assert_eq!(ran(&gateway, &["list"]).await.unwrap().json["prompts"], Value::Array(Vec::new()));
        assert!(matches!(ran(&gateway, &["remove"]).await, Err(Failure::Usage(_))));
        assert!(matches!(ran(&gateway, &["add", "/nowhere.jsonl"]).await, Err(Failure::Usage(_))));
        gateway.stop().await;
    }
}
