//! `guildhall tiers ...`.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::command::{self, Said};
use super::{AdminClient, Ask, ServerArgs, show};
use crate::admin::segment;
use crate::cli::Failure;

/// Arguments of `tiers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    command: Command,
}

/// What to do with the pools of a running gateway. Nothing of it outlasts a restart of the gateway.
#[derive(Debug, Subcommand)]
enum Command {
    /// List the pools.
    List,
    /// Show a pool: its tiers, its experts and their drivers.
    Show {
        /// The pool's id.
        pool: String,
    },
    /// Say what would be done for a request for an expert that came now; nothing is.
    Plan {
        /// The pool's id.
        pool: String,
        /// The expert's id.
        expert: String,
    },
    /// List what was decided and why, newest first.
    Decisions {
        /// The pool's id.
        pool: String,
        /// At most so many, up to 1000.
        #[arg(long, default_value = "50")]
        limit: u32,
        /// Only decisions older than the one with this number.
        #[arg(long, value_name = "NUMBER")]
        before: Option<u64>,
    },
    /// Bring an expert nearer.
    Promote(Move),
    /// Take an expert farther away, unless it is in use or pinned.
    Demote(Move),
    /// Keep an expert where it is.
    Pin {
        /// The pool's id.
        pool: String,
        /// The expert's id.
        expert: String,
        /// For so long; without it until it is unpinned.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        ttl: Option<u64>,
    },
    /// Let a pinned expert go.
    Unpin {
        /// The pool's id.
        pool: String,
        /// The expert's id.
        expert: String,
    },
    /// Let no more requests in, and take the experts home when those under way have ended.
    Drain {
        /// The pool's id.
        pool: String,
    },
    /// Let requests into a drained pool again.
    Resume {
        /// The pool's id.
        pool: String,
    },
    /// Ask the drivers what is where.
    Reconcile {
        /// The pool's id.
        pool: String,
    },
}

#[derive(Debug, clap::Args)]
struct Move {
    /// The pool's id.
    pool: String,
    /// The expert's id.
    expert: String,
    /// Where to: slot, hbm, dram, disk or remote.
    tier: String,
    /// How long to wait for it, up to 600; it stays wanted after that.
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    wait: u64,
}

/// Runs the command against a running gateway.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    command::run(&args.server, async |client| execute(client, &args.command).await)
}

async fn execute(client: &AdminClient, command: &Command) -> Result<Said, Failure> {
    match command {
        Command::List => {
            let pools = client.list("tiers").await?;
            Ok(Said { text: show::pools(&pools), json: json!({ "pools": pools }) })
        }
        Command::Show { pool } => {
            let pool = client.send(Ask::new(Method::GET, place(pool))).await?;
            Ok(Said { text: show::pool(&pool), json: pool })
        }
        Command::Plan { pool, expert } => {
            let path = format!("{}/plan?expert={}", place(pool), segment(expert));
            let plan = client.send(Ask::new(Method::GET, path)).await?;
            Ok(Said { text: show::plan(&plan), json: plan })
        }
        Command::Decisions { pool, limit, before } => {
            let before = before.map_or_else(String::new, |before| format!("&before={before}"));
            let path = format!("{}/decisions?limit={limit}{before}", place(pool));
            let page = client.send(Ask::new(Method::GET, path)).await?;
            let decisions = page["items"].as_array().map_or_else(Vec::new, Clone::clone);
            Ok(Said { text: show::residency_decisions(&decisions), json: page })
        }
        Command::Promote(wish) => go(client, "promote", wish).await,
        Command::Demote(wish) => go(client, "demote", wish).await,
        Command::Pin { pool, expert, ttl } => {
            let kind = match ttl {
                Some(ttl) => json!({"kind": "soft", "ttl_s": ttl}),
                None => json!({"kind": "hard"}),
            };
            let ask = Ask::new(Method::PUT, format!("{}/pin", member(pool, expert))).with_body(&kind);
            let shown = client.send(ask).await?;
            let how = ttl.map_or_else(|| "until it is unpinned".to_owned(), |ttl| format!("for {ttl} s"));
            Ok(Said { text: format!("{expert} stays in {} {how}", word(&shown["tier"])), json: shown })
        }
        Command::Unpin { pool, expert } => {
            let shown =
                client.send(Ask::new(Method::DELETE, format!("{}/pin", member(pool, expert)))).await?;
            Ok(Said { text: format!("{expert} may go"), json: shown })
        }
        Command::Drain { pool } => {
            let shown = client.send(Ask::new(Method::POST, format!("{}/drain", place(pool)))).await?;
            let text = match shown["running"].as_u64() {
                Some(0) | None => format!("{pool} takes nothing new"),
                Some(running) => format!("{pool} takes nothing new; {running} under way"),
            };
            Ok(Said { text, json: shown })
        }
        Command::Resume { pool } => {
            let shown = client.send(Ask::new(Method::POST, format!("{}/resume", place(pool)))).await?;
            Ok(Said { text: format!("{pool} takes requests again"), json: shown })
        }
        Command::Reconcile { pool } => {
            let ask = Ask::new(Method::POST, format!("{}/reconcile", place(pool)));
            let shown = client.send(ask.patiently()).await?;
            Ok(Said { text: show::pool(&shown), json: shown })
        }
    }
}

async fn go(client: &AdminClient, action: &str, wish: &Move) -> Result<Said, Failure> {
    let Move { pool, expert, tier, wait } = wish;
    let ask = Ask::new(Method::POST, format!("{}/{action}", member(pool, expert)));
    let ask = ask.with_body(&json!({"tier": tier, "wait_s": wait})).patiently();
    let shown = client.send(ask).await?;
    let (now, phase) = (word(&shown["tier"]), word(&shown["phase"]));
    let text = if now == tier {
        format!("{expert} is in {now} ({phase})")
    } else {
        format!("{expert} is still in {now} ({phase}), and wanted in {tier}")
    };
    Ok(Said { text, json: shown })
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn place(pool: &str) -> String {
    format!("/tiers/{}", segment(pool))
}

fn member(pool: &str, expert: &str) -> String {
    format!("{}/experts/{}", place(pool), segment(expert))
}
