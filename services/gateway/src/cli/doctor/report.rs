//! What was looked at and what came of it, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// As it should be, or not needed.
    Ok,
    /// The gateway works, and somebody should look at this.
    Warning,
    /// The gateway does not start, or some requests fail.
    Failure,
}

/// What a check is about; reports are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Section {
    Configuration,
    Machine,
    Router,
    Store,
    Listeners,
    Access,
    Experts,
    Pools,
    Routes,
    Gateway,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) section: Section,
    /// What was looked at.
    pub(super) name: String,
    pub(super) status: Status,
    /// What was found.
    pub(super) detail: String,
    /// What to do about it; null where nothing is to be done.
    pub(super) remedy: Option<String>,
}

impl Section {
    pub(super) fn ok(self, name: impl Into<String>, detail: impl Into<String>) -> Check {
        let (name, detail) = (name.into(), one_line(&detail.into()));
        Check { section: self, name, status: Status::Ok, detail, remedy: None }
    }

    pub(super) fn warning(
        self,
        name: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Check {
        let remedy = Some(one_line(&remedy.into()));
        Check { status: Status::Warning, remedy, ..self.ok(name, detail) }
    }

    pub(super) fn failure(
        self,
        name: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Check {
        Check { status: Status::Failure, ..self.warning(name, detail, remedy) }
    }

    /// A failure told by an error. Errors here say what is wrong, and after a semicolon what to do.
    pub(super) fn error(self, name: &str, error: &str, otherwise: &str) -> Check {
        match error.split_once("; ") {
            Some((detail, remedy)) => self.failure(name, detail, remedy),
            None => self.failure(name, error, otherwise),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Configuration => "Configuration",
            Self::Machine => "Machine",
            Self::Router => "Router model",
            Self::Store => "Store",
            Self::Listeners => "Listeners",
            Self::Access => "Access",
            Self::Experts => "Experts",
            Self::Pools => "Pools",
            Self::Routes => "Routes",
            Self::Gateway => "Running gateway",
        }
    }
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }

    /// Green, yellow, bold red.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "32",
            Self::Warning => "33",
            Self::Failure => "1;31",
        }
    }
}

/// All checks.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether nothing failed.
    ok: bool,
    checks: Vec<Check>,
}

/// How a report is shown to people.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    pub(super) colour: bool,
    /// Where lines are broken; without it they never are, which suits `grep`.
    pub(super) columns: Option<usize>,
}

/// Where the third column begins is a matter of the longest name, up to this.
const WIDEST_NAME: usize = 24;
/// Narrower columns than this are not worth keeping aligned.
const NARROWEST: usize = 20;

impl Report {
    pub(super) fn new(mut checks: Vec<Check>) -> Self {
        checks.sort_by_key(|check| check.section);
        Self { ok: checks.iter().all(|check| check.status != Status::Failure), checks }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.ok
    }

    /// The report for people; `subject` is what was looked at.
    pub(super) fn render(&self, subject: &str, style: Style) -> String {
        let name_width = self.checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
        let name_width = name_width.min(WIDEST_NAME);
        let mut out = format!("{subject}\n");
        let mut section = None;
        for check in &self.checks {
            if section != Some(check.section) {
                section = Some(check.section);
                let _ = write!(out, "\n{}\n", paint(check.section.title(), "1", style));
            }
            let status = paint(&format!("{:<7}", check.status.word()), check.status.colour(), style);
            let head = format!("  {status}  {:<name_width$}  ", check.name);
            let indent = 2 + 7 + 2 + name_width + 2;
            out.push_str(&head);
            out.push_str(&wrap(&check.detail, indent, style.columns));
            out.push('\n');
            if let Some(remedy) = &check.remedy {
                let _ = write!(out, "{:indent$}{} ", "", paint("->", "36", style));
                out.push_str(&wrap(remedy, indent + 3, style.columns));
                out.push('\n');
            }
        }
        let _ = write!(out, "\n{}", self.summary(style));
        out
    }

    fn summary(&self, style: Style) -> String {
        let count = |status| self.checks.iter().filter(|c| c.status == status).count();
        let (failures, warnings) = (count(Status::Failure), count(Status::Warning));
        let told = |n: usize, one: &str, status: Status| {
            let text = format!("{n} {one}{}", if n == 1 { "" } else { "s" });
            if n > 0 { paint(&text, status.colour(), style) } else { text }
        };
        format!(
            "{} checks: {}, {}",
            self.checks.len(),
            told(failures, "failure", Status::Failure),
            told(warnings, "warning", Status::Warning)
        )
    }
}

fn paint(text: &str, colour: &str, style: Style) -> String {
    if style.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Breaks a text between words so that it fits beside an indent.
fn wrap(text: &str, indent: usize, columns: Option<usize>) -> String {
    let Some(width) = columns.map(|c| c.saturating_sub(indent)).filter(|w| *w >= NARROWEST) else {
        return text.to_owned();
    };
    let mut out = String::with_capacity(text.len());
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            let _ = write!(out, "\n{:indent$}", "");
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

/// A text without line breaks, and without anything that a terminal would obey: parts of it may come from
/// files and from other servers.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().filter(|c| !c.is_control()));
    }
    out
}

/// A number of bytes for people.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if n < 1024 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// The first names of a list and how many more there are.
pub(super) fn some_of<'a>(names: impl IntoIterator<Item = &'a str>, most: usize) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let shown = names[..names.len().min(most)].join(", ");
    if names.len() > most { format!("{shown} and {} more", names.len() - most) } else { shown }
}

/// A number with the noun that it counts.
pub(super) fn counted(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Section::Experts.failure("coder", "http://a/v1 does not answer", "start its server"),
            Section::Machine.ok("cores", "8"),
            Section::Machine.warning("open files", "1024 are too few\nfor this", "raise them: ulimit -n 9"),
        ])
    }

    #[test]
    fn people_see_aligned_lines_by_section_and_a_sum() {
        let text = report().render("guildhall.yaml", Style::default());
        insta::assert_snapshot!(text, @r"
        guildhall.yaml

        Machine
          ok       cores       8
          warning  open files  1024 are too few for this
                               -> raise them: ulimit -n 9

        Experts
          failure  coder       http://a/v1 does not answer
                               -> start its server

        3 checks: 1 failure, 1 warning
        ");
        assert!(!text.contains('\x1b'));
        let style = Style { colour: true, columns: Some(45) };
        let text = report().render("guildhall.yaml", style);
        assert!(text.contains("\x1b[1;31mfailure\x1b[0m"), "{text}");
        assert!(text.contains("1024 are too few for\n                       this"), "{text}");
    }

    #[test]
    fn programs_see_one_object() {
        let value = serde_json::to_value(report()).unwrap();
        assert_eq!(value["ok"], false);
        assert_eq!(
            value["checks"][0],
            serde_json::json!({"section": "machine", "name": "cores", "status": "ok", "detail": "8", "remedy": null})
        );
        assert_eq!(value["checks"][2]["remedy"], "start its server");
        assert_eq!(Report::new(Vec::new()).summary(Style::default()), "0 checks: 0 failures, 0 warnings");
    }

    #[test]
    fn an_error_is_parted_into_what_is_wrong_and_what_to_do() {
        let check = Section::Router.error("bundle", "x is damaged; copy it again; really", "-");
        assert_eq!(
            (&*check.detail, check.remedy.as_deref()),
            ("x is damaged", Some("copy it again; really"))
        );
        assert_eq!(Section::Router.error("bundle", "odd", "look").remedy.as_deref(), Some("look"));
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_command_the_terminal() {
        assert_eq!(Section::Experts.ok("e", "a\x1b[2Jb\r\nc").detail, "a[2Jb c");
    }

    #[test]
    fn sizes_and_lists_are_short() {
        assert_eq!(
            (bytes(1_023), bytes(1_536), bytes(3 << 40)),
            ("1023 B".into(), "1.5 KiB".into(), "3.0 TiB".into())
        );
        assert_eq!(some_of(["a", "b", "c"], 2), "a, b and 1 more");
        assert_eq!(some_of(["a"], 2), "a");
    }
}
