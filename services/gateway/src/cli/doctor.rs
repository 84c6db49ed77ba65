//! `guildhall doctor`: looks at everything that a gateway needs, and says what is wrong and how to mend it.
//!
//! Each file in `doctor/` looks at one thing in two steps: facts are gathered, and a pure function judges them.
//! Nothing is changed by looking: no folder is made, no store written, no model asked for an answer.

mod access;
mod certificates;
mod configuration;
mod experts;
mod gateway;
mod listeners;
mod machine;
mod plane;
mod pools;
mod report;
mod router;
mod routes;
mod store;

use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::configuration::Source;
use self::gateway::Running;
use self::listeners::{Listener, Place};
use self::machine::{Machine, Wanted};
use self::report::{Check, Report, Style};
use super::link::{Own, OwnArgs};
use super::{ConfigArgs, Failure, clear_progress, ort_dylib_path, say, say_json, show_progress};
use crate::app::wants_router;
use crate::config::{Config, Loaded};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// How long one server may take to answer.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
    /// Look at this machine alone: look no name up and call no expert.
    #[arg(long)]
    offline: bool,
    /// The admin token of a running gateway, to compare what it uses with the file; `admin.token` goes before it.
    #[arg(long, env = "GUILDHALL_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    #[command(flatten)]
    own: OwnArgs,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "must be a number of seconds".to_owned())?;
    if (0.1..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("must lie in 0.1..=600".to_owned())
    }
}

/// Looks at everything and reports. A configuration that `check-config` would refuse is exit code 2, any other
/// failure 1.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let machine = Machine::of_process(now);
    let own = args.own.read()?;
    let (checks, usable) = match args.config.read() {
        Ok(loaded) => examine(args, own.as_ref(), loaded, &machine)?,
        Err(error) => {
            let file = args.config.config.as_deref().unwrap_or("-".as_ref());
            let mut checks = configuration::unusable(file, &error);
            checks.extend(machine.checks(wanted(&Config::default(), false)));
            (checks, false)
        }
    };
    clear_progress();
    let report = Report::new(checks);
    if args.json {
        say_json(&report)?;
    } else {
        let file = args.config.config.as_ref();
        let subject = file.map_or("the built-in demo configuration".to_owned(), |f| f.display().to_string());
        let subject = format!("guildhall {} doctor, {subject}", env!("CARGO_PKG_VERSION"));
        say(report.render(&subject, style()))?;
    }
    match (usable, report.is_ok()) {
        (false, _) => Err(Failure::Told(2)),
        (true, false) => Err(Failure::Told(1)),
        (true, true) => Ok(()),
    }
}

fn style() -> Style {
    let out = io::stdout();
    if !out.is_terminal() {
        return Style::default();
    }
    let columns = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
    // https://no-color.org
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Style { colour, columns: columns.filter(|c| *c > 0) }
}

fn wanted(config: &Config, router: bool) -> Wanted {
    let encoder = &config.router.encoder;
    // Left to itself, the encoder takes no more sessions than there are cores.
    let threads = encoder.sessions.max(1) * encoder.intra_op_threads;
    Wanted { max_in_flight: config.data.max_in_flight, router_threads: if router { threads } else { 0 } }
}

/// All checks of a configuration that could be read, and whether its parts fit together.
fn examine(
    args: &Args,
    own: Option<&Own>,
    loaded: Loaded,
    machine: &Machine,
) -> Result<(Vec<Check>, bool), Failure> {
    let Loaded { mut config, files } = loaded;
    let in_file = config.clone();
    args.config.override_library(&mut config);
    let reads = wants_router(&config);
    let mut checks = machine.checks(wanted(&config, reads));
    let categories = if reads {
        show_progress("loading the router model");
        let router = router::Router::try_out(&config.router, ort_dylib_path().as_deref());
        checks.extend(router.checks(&config.router));
        router.bundle.ok().map(|bundle| bundle.categories)
    } else {
        checks.push(router::not_needed());
        super::check_config::categories(&config)
    };
    let file = args.config.config.as_deref();
    let problems = crate::catalog::check_file(&config, categories.as_deref());
    let keys = configuration::private_keys(&config);
    let sources: Vec<Source> = files.iter().chain(&keys).map(|path| Source::of(path)).collect();
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    let literals = crate::config::literal_secrets(&text);
    checks.extend(configuration::checks(file, &config, &problems, &sources, &literals));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    show_progress("asking the running gateway and the experts");
    runtime.block_on(async {
        let running = listening(args, own, &config, machine.now, &mut checks).await;
        let store = store::Store::at(&config.store.path);
        checks.extend(store.checks(&config.store.path, running.is_some()));
        let stored_keys = running.as_ref().and_then(|running| running.has_keys).or(store.has_keys());
        checks.push(access::callers(&config, stored_keys));
        match &running {
            Some(running) => checks.extend(running.checks(&in_file)),
            None => checks.push(gateway::none_at(admin(&config))),
        }
        let found = outside(args, &config, machine.now, &mut checks).await;
        let dead = experts::dead(&config.experts, &found);
        let categories = categories.unwrap_or_default();
        checks.extend(routes::checks(&config, &categories, &dead));
        checks.extend(found);
    });
    Ok((checks, problems.is_empty()))
}

fn data(config: &Config) -> Listener<'_> {
    Listener { setting: "data.listen", address: config.data.listen, tls: config.data.tls.as_ref() }
}

fn admin(config: &Config) -> Listener<'_> {
    Listener { setting: "admin.listen", address: config.admin.listen, tls: config.admin.tls.as_ref() }
}

/// Checks both listeners, and gives the gateway that has them already, if one has and answers.
async fn listening(
    args: &Args,
    own: Option<&Own>,
    config: &Config,
    now: u64,
    checks: &mut Vec<Check>,
) -> Option<Running> {
    let (data, admin) = (data(config), admin(config));
    let configured = config.admin.token.as_ref().map(::experts::Secret::expose);
    let token = configured.or(args.token.as_deref()).filter(|t| !t.is_empty());
    let (mut data_place, mut admin_place) =
        (listeners::try_out(data.address), listeners::try_out(admin.address));
    let mut running = None;
    if admin_place == Place::Taken
        && let Some(plane) = admin.plane(own)
    {
        running = gateway::ask(&plane, token, args.timeout).await;
        if let Some(running) = &running {
            admin_place = Place::Served(running.describe());
        } else if plane.has_the_key(args.timeout).await {
            admin_place = Place::Served(
                "a guildhall that wants a client's certificate (--client-cert, --client-key)".to_owned(),
            );
        }
    }
    if data_place == Place::Taken
        && let Some(plane) = data.plane(own)
        && (plane.has_the_key(args.timeout).await || gateway::is_data_plane(&plane, args.timeout).await)
    {
        let who = running.as_ref().map_or_else(|| "a guildhall".to_owned(), Running::describe);
        data_place = Place::Served(who);
    }
    checks.extend([data.check(&data_place), admin.check(&admin_place)]);
    let tls = [("data.tls", data.tls), ("admin.tls", admin.tls)];
    checks.extend(tls.into_iter().filter_map(|(name, tls)| Some(certificates::listener(name, tls?, now))));
    checks.extend(listeners::exposure(admin));
    running
}

/// Asks the issuers of tokens and the experts. The experts' checks are the result.
async fn outside(args: &Args, config: &Config, now: u64, checks: &mut Vec<Check>) -> Vec<Check> {
    let client = match ::experts::Client::new(&config.upstream) {
        Ok(client) => client,
        Err(error) => {
            let (error, otherwise) = (format!("upstream.{error}"), "correct the section upstream");
            return vec![report::Section::Experts.error("client", &error, otherwise)];
        }
    };
    let issuers = &config.auth.jwt;
    checks.extend(access::issuers(issuers, &client, args.offline, args.timeout).await);
    checks.extend(pools::registered(&config.pools, &config.experts));
    if !args.offline {
        checks.extend(pools::checks(&config.pools, args.timeout).await);
    }
    if args.offline {
        experts::offline(&config.experts, &client, now)
    } else {
        experts::checks(&config.experts, &client, args.timeout, now).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_sane_number_of_seconds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "601", "NaN", "inf", "5s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
