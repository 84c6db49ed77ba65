//! The configuration file: whether it can be used, and what in it is asking for trouble.

use std::path::{Path, PathBuf};

use experts::{ExpertSpec, Limits};

use super::report::{Check, Section, counted, some_of};
use crate::config::{Config, ConfigError};
use crate::problem::Problem;

const HERE: Section = Section::Configuration;

/// A file that was read, with its permission bits where the system has some.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) mode: Option<u32>,
}

impl Source {
    pub(super) fn of(path: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).ok().map(|found| found.permissions().mode());
        Self { path: path.to_owned(), mode }
    }

    /// Whether every user of the machine may read it.
    fn is_open(&self) -> bool {
        self.mode.is_some_and(|mode| mode & 0o004 != 0)
    }
}

/// The files with private keys that a configuration names.
pub(super) fn private_keys(config: &Config) -> Vec<PathBuf> {
    let listeners = [&config.data.tls, &config.admin.tls].into_iter().flatten().map(|tls| &tls.key_file);
    let upstreams = config.experts.iter().filter_map(|e| e.backend.upstream()?.tls.as_ref());
    listeners.chain(upstreams.filter_map(|tls| tls.client_key_file.as_ref())).cloned().collect()
}

/// A file that cannot be used: each of its problems.
pub(super) fn unusable(file: &Path, error: &ConfigError) -> Vec<Check> {
    match error {
        ConfigError::Invalid(problems) => refused(&file.display().to_string(), problems),
        ConfigError::Yaml(problem) => {
            let remedy = format!("correct the place, then run: guildhall check-config {}", file.display());
            // What follows the first line is a picture of the place, for wide and tall spaces.
            let first = problem.lines().next().unwrap_or_default();
            vec![HERE.failure("file", format!("{}: not valid YAML: {first}", file.display()), remedy)]
        }
        ConfigError::Read { .. } => {
            let remedy = "name a file that this user can read with --config, or make one: guildhall init";
            vec![HERE.failure("file", error.to_string(), remedy)]
        }
    }
}

fn refused(file: &str, problems: &[Problem]) -> Vec<Check> {
    let check =
        |problem: &Problem| HERE.error("file", &problem.to_string(), &format!("correct it in {file}"));
    problems.iter().map(check).collect()
}

/// A file that was read. `problems` are those of its parts with each other; `secrets` the files, the
/// configuration's first, and `literals` the places in it where a secret stands itself.
pub(super) fn checks(
    file: Option<&Path>,
    config: &Config,
    problems: &[Problem],
    secrets: &[Source],
    literals: &[String],
) -> Vec<Check> {
    let shown = file.map_or_else(|| "built-in demo".to_owned(), |file| file.display().to_string());
    let mut checks = refused(&shown, problems);
    if checks.is_empty() {
        let (experts, routes) = (config.experts.len(), config.routes.len());
        checks.push(HERE.ok(
            "file",
            format!("{shown} is valid: {}, {}", counted(experts, "expert"), counted(routes, "route")),
        ));
    }
    checks.extend(file.map(|_| secrecy(secrets, literals)));
    checks.extend(timeouts(config));
    checks
}

fn secrecy(files: &[Source], literals: &[String]) -> Check {
    let (config, referred) = files.split_first().map_or((None, files), |(first, rest)| (Some(first), rest));
    let open: Vec<String> =
        referred.iter().filter(|f| f.is_open()).map(|f| f.path.display().to_string()).collect();
    let told = config.filter(|config| config.is_open() && !literals.is_empty());
    if let Some(config) = told {
        let file = config.path.display();
        let places = some_of(literals.iter().map(String::as_str), 3);
        let remedy = format!("chmod 600 {file}, or refer to the secrets: ${{NAME}} or file:PATH");
        return HERE.warning(
            "secrets",
            format!("{file} can be read by everybody and holds {places}"),
            remedy,
        );
    }
    if !open.is_empty() {
        let files = open.join(" ");
        let detail = format!("{} can be read by everybody", some_of(open.iter().map(String::as_str), 3));
        return HERE.warning("secrets", detail, format!("chmod 600 {files}"));
    }
    HERE.ok(
        "secrets",
        if literals.is_empty() { "none in the file itself" } else { "in the file, which others cannot read" },
    )
}

/// Times that cannot take effect because a longer one contains them.
fn timeouts(config: &Config) -> Vec<Check> {
    let mut found: Vec<(String, String)> = Vec::new();
    for expert in &config.experts {
        let own = futile(expert).into_iter();
        found.extend(own.map(|what| (format!("experts.{}.limits", expert.id), what)));
    }
    for route in &config.routes {
        if let Some(whole) = route.timeout_ms.filter(|whole| *whole <= config.router.deadline_ms) {
            let reads = route.reads_prompts();
            if reads {
                let deadline = config.router.deadline_ms;
                let what = format!("timeout_ms {whole} is over before router.deadline_ms {deadline} is");
                found.push((format!("routes.{}", route.id), what));
            }
        }
    }
    if found.is_empty() {
        return vec![HERE.ok("time-outs", "agree with each other")];
    }
    let warn = |(place, what): (String, String)| {
        HERE.warning("time-outs", format!("{place}: {what}"), "lower the inner time or raise the outer one")
    };
    found.into_iter().map(warn).collect()
}

/// An expert's times that its longer ones make void. One that was left at its default contradicts nobody: the
/// shorter one applies.
fn futile(expert: &ExpertSpec) -> Vec<String> {
    let (limits, default) = (expert.limits, Limits::default());
    let pairs = [
        (
            ("first_byte_timeout_ms", limits.first_byte_timeout_ms, default.first_byte_timeout_ms),
            ("timeout_ms", limits.timeout_ms),
        ),
        (
            ("idle_timeout_ms", limits.idle_timeout_ms, default.idle_timeout_ms),
            ("timeout_ms", limits.timeout_ms),
        ),
        (
            ("connect_timeout_ms", limits.connect_timeout_ms, default.connect_timeout_ms),
            ("first_byte_timeout_ms", limits.first_byte_timeout_ms),
        ),
    ];
    let void =
        pairs.into_iter().filter(|((_, inner, default), (_, outer))| inner > outer && inner != default);
    void.map(|((name, inner, _), (within, outer))| format!("{name} {inner} is above {within} {outer}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    fn config(text: &str) -> Config {
        crate::config::parse(text, &|_| None).unwrap()
    }

    fn source(path: &str, mode: u32) -> Source {
        Source { path: path.into(), mode: Some(mode) }
    }

    #[test]
    fn each_problem_is_a_failure_with_its_place() {
        let text = "data: {max_in_flight: 0}\nrouter: {deadline_ms: 0}\n";
        let error = crate::config::parse(text, &|_| None).unwrap_err();
        let checks = unusable(Path::new("g.yaml"), &error);
        assert_eq!(checks.len(), 2);
        assert!(checks.iter().all(|c| c.status == Status::Failure));
        assert!(checks[0].detail.starts_with("data.max_in_flight: "), "{checks:?}");
        assert_eq!(checks[1].remedy.as_deref(), Some("correct it in g.yaml"));
        let error = crate::config::parse("a: [", &|_| None).unwrap_err();
        let checks = unusable(Path::new("g.yaml"), &error);
        assert!(checks[0].detail.starts_with("g.yaml: not valid YAML: "), "{checks:?}");
        assert!(checks[0].remedy.as_ref().unwrap().ends_with("guildhall check-config g.yaml"));
    }

    #[test]
    fn secrets_that_everybody_can_read_are_told() {
        let literal = ["admin.token".to_owned()];
        let status = |files: &[Source], literals: &[String]| secrecy(files, literals).status;
        assert_eq!(status(&[source("g", 0o100_644)], &literal), Status::Warning);
        assert_eq!(status(&[source("g", 0o100_640)], &literal), Status::Ok);
        assert_eq!(status(&[source("g", 0o100_644)], &[]), Status::Ok);
        let files = [source("g", 0o100_600), source("k", 0o100_644)];
        assert_eq!(secrecy(&files, &[]).remedy.as_deref(), Some("chmod 600 k"));
    }

    #[test]
    fn times_that_contradict_each_other_are_told() {
        let found = |limits: &str| {
            let text =
                format!("experts: [{{id: a, backend: {{kind: constant, text: x}}, limits: {limits}}}]");
            timeouts(&config(&text)).into_iter().map(|c| c.detail).collect::<Vec<_>>()
        };
        assert_eq!(found("{}"), ["agree with each other"]);
        assert_eq!(found("{timeout_ms: 30000}"), ["agree with each other"]);
        assert_eq!(
            found("{timeout_ms: 30000, first_byte_timeout_ms: 40000}"),
            ["experts.a.limits: first_byte_timeout_ms 40000 is above timeout_ms 30000"]
        );
        let text = "router: {deadline_ms: 500}\nroutes: [{id: auto, policy: {kind: coe}, timeout_ms: 400}]";
        assert_eq!(timeouts(&config(text))[0].status, Status::Warning);
    }
}
