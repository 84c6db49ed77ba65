//! As much of `PromQL` and the exposition format as it takes to say which metrics and labels a query uses.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::str::Chars;

/// Names of recorded metrics.
pub(super) type Recorded = BTreeSet<String>;

/// The labels of a series.
type Labels = BTreeMap<String, String>;

/// Labels that a scrape adds.
const OF_SCRAPE: [&str; 2] = ["job", "instance"];

/// What a gateway shows at `/metrics`.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    /// The series of each name.
    series: BTreeMap<String, Vec<Labels>>,
    /// Names as they are declared, and their types.
    types: BTreeMap<String, String>,
}

impl Exposition {
    pub(super) fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').unwrap();
                all.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let mut selector = Query::parse(line).selectors;
                let Selector { metric, matchers } = selector.remove(0);
                let labels = matchers.into_iter().map(|(label, _, value)| (label, value)).collect();
                all.series.entry(metric).or_default().push(labels);
            }
        }
        all
    }

    /// Type and labels of each metric; counters are named as queries name them.
    pub(super) fn families(&self) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let family = |(name, kind): (&String, &String)| {
            let name = if kind == "counter" { format!("{name}_total") } else { name.clone() };
            let sample = if kind == "histogram" { format!("{name}_count") } else { name.clone() };
            let labels = self.series.get(&sample)?[0].keys().cloned().collect();
            Some((name, (kind.clone(), labels)))
        };
        self.types.iter().filter_map(family).collect()
    }
}

/// A metric with what is asked of its labels: label, operator, value.
#[derive(Debug)]
struct Selector {
    metric: String,
    matchers: Vec<(String, String, String)>,
}

/// What a query uses.
#[derive(Debug, Default)]
pub(super) struct Query {
    selectors: Vec<Selector>,
    /// Labels that it groups or joins by.
    pub(super) groups: BTreeSet<String>,
}

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let mut query = Self::default();
        let mut rest = text.chars().peekable();
        while let Some(&next) = rest.peek() {
            match next {
                '"' => drop(string(&mut rest)),
                '[' => drop(rest.by_ref().find(|c| *c == ']')),
                '0'..='9' | '$' => {
                    rest.next();
                    word(&mut rest);
                }
                c if is_name(c) => query.name(&mut rest),
                _ => drop(rest.next()),
            }
        }
        query
    }

    fn name(&mut self, rest: &mut Peekable<Chars<'_>>) {
        let name = word(rest);
        let next = skip_space(rest);
        match name.as_str() {
            "by" | "on" | "without" | "ignoring" | "group_left" | "group_right" => {
                let labels: String = rest.by_ref().skip(1).take_while(|c| *c != ')').collect();
                let labels = labels.split(',').map(|label| label.trim().to_owned());
                self.groups.extend(labels.filter(|label| !label.is_empty()));
            }
            // Unlike functions, aggregations may stand before `by`.
            "and" | "or" | "unless" | "bool" | "offset" | "sum" | "min" | "max" | "avg" | "count" => {}
            _ if next == Some('(') => {}
            _ => {
                let matchers = if next == Some('{') { matchers(rest) } else { Vec::new() };
                self.selectors.push(Selector { metric: name, matchers });
            }
        }
    }

    /// What does not fit to what there is. `unseen` are metrics that are known not to show.
    pub(super) fn problems(&self, there: &Exposition, recorded: &Recorded, unseen: &[&str]) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut known: BTreeSet<String> = OF_SCRAPE.map(str::to_owned).into();
        if self.selectors.is_empty() {
            wrong.push("no metric is asked for".to_owned());
        }
        for Selector { metric, matchers } in &self.selectors {
            if unseen.contains(&metric.as_str()) {
                return Vec::new();
            }
            if let Some((level, _)) = metric.split_once(':').filter(|_| recorded.contains(metric)) {
                known.extend(level.split('_').map(str::to_owned));
                continue;
            }
            // Made by Prometheus.
            if metric == "up" {
                continue;
            }
            let Some(series) = there.series.get(metric) else {
                wrong.push(format!("there is no metric {metric}"));
                continue;
            };
            known.extend(series.iter().flat_map(BTreeMap::keys).cloned());
            for (label, operator, value) in matchers {
                let has = |labels: &Labels| match labels.get(label) {
                    Some(found) => operator != "=" || found == value,
                    None => OF_SCRAPE.contains(&label.as_str()),
                };
                if !series.iter().any(has) {
                    wrong.push(format!("no series of {metric} has {label}{operator}\"{value}\""));
                }
            }
        }
        let unknown = self.groups.difference(&known);
        wrong.extend(unknown.map(|label| format!("nothing that is asked for has the label `{label}`")));
        wrong
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':')
}

fn word(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(c) = rest.next_if(|c| is_name(*c)) {
        word.push(c);
    }
    word
}

fn skip_space(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    while rest.next_if(char::is_ascii_whitespace).is_some() {}
    rest.peek().copied()
}

/// The text between quotation marks.
fn string(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::new();
    let mut inside = rest.skip(1);
    while let Some(c) = inside.next() {
        match c {
            '"' => break,
            '\\' => text.extend(inside.next()),
            _ => text.push(c),
        }
    }
    text
}

/// What stands in curly brackets.
fn matchers(rest: &mut Peekable<Chars<'_>>) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    rest.next();
    while skip_space(rest).is_some_and(|c| c != '}') {
        let label = word(rest);
        let mut operator = String::new();
        while let Some(c) = rest.next_if(|c| matches!(c, '=' | '!' | '~')) {
            operator.push(c);
        }
        all.push((label, operator, string(rest)));
        rest.next_if_eq(&',');
    }
    rest.next();
    all
}

#[test]
fn a_query_is_taken_apart() {
    let query = Query::parse(
        r#"sum by (route, le) (rate(a_bucket{job=~"$job", status="5\"0"}[5m])) / on (job) group_left () b > 3e6 and up offset 1h"#,
    );
    let metrics: Vec<&str> = query.selectors.iter().map(|selector| selector.metric.as_str()).collect();
    assert_eq!(metrics, ["a_bucket", "b", "up"]);
    assert_eq!(query.selectors[0].matchers[1], ("status".into(), "=".into(), "5\"0".into()));
    assert_eq!(query.groups.iter().collect::<Vec<_>>(), ["job", "le", "route"]);
}

#[test]
fn what_does_not_exist_is_found() {
    let text = "# TYPE a counter\na_total{status=\"200\"} 1\n# TYPE c histogram\nc_count 3\nc_bucket{le=\"+Inf\"} 3\n";
    let there = Exposition::parse(text);
    let problems = |expr: &str| Query::parse(expr).problems(&there, &Recorded::new(), &[]);
    let empty: &[String] = &[];
    assert_eq!(problems(r#"sum by (job, status) (rate(a_total{status="200"}[5m]))"#), empty);
    assert_eq!(problems("histogram_quantile(0.9, sum by (le) (c_bucket))"), empty);
    assert_eq!(problems(r#"a_total{status="502"}"#), [r#"no series of a_total has status="502""#]);
    assert_eq!(problems(r#"a_total{code=~".+"}"#), [r#"no series of a_total has code=~".+""#]);
    assert_eq!(problems("sum by (route) (a_total)"), ["nothing that is asked for has the label `route`"]);
    assert_eq!(problems("rate(b_total[5m])"), ["there is no metric b_total"]);
    assert_eq!(there.families().keys().collect::<Vec<_>>(), ["a_total", "c"]);
}
