//! The result for people: a table, Markdown, a picture of cost against quality.

use std::fmt::{self, Write as _};

use super::{PolicyEval, RoutingEval, TARGETS};

/// One or more sets, in the order in which they were measured.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a>(pub &'a [RoutingEval]);

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const MARGIN: f64 = 60.0;
/// Colours that people who see few colours can tell apart.
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#555555"];

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn maybe(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// The cells of one router's row.
fn cells(name: &str, policy: &PolicyEval, cost_digits: usize) -> Vec<String> {
    let [low, high] = policy.score_interval;
    let costs = TARGETS.map(|(share, _)| maybe(policy.cost_at[share], cost_digits));
    let mut cells = vec![
        name.to_owned(),
        format!("{:.4} ({low:.3} to {high:.3})", policy.score),
        percent(policy.gap_closed),
        maybe(policy.apgr, 3),
        maybe(policy.cpt50.map(|share| 100.0 * share), 1),
        maybe(policy.cpt80.map(|share| 100.0 * share), 1),
    ];
    cells.extend(costs);
    cells
}

impl RoutingEval {
    fn rows_of_table(&self) -> Vec<Vec<String>> {
        let head = ["router", "score (95 %)", "gap closed", "APGR", "CPT50 %", "CPT80 %"];
        let costs = TARGETS.map(|(share, _)| format!("cost at {share}"));
        let head: Vec<String> = head.iter().map(|&word| word.to_owned()).chain(costs).collect();
        // USD per call are small numbers.
        let digits = if self.cost_unit == Some("USD per call") { 6 } else { 1 };
        let policies = self.references.iter().chain(&self.policies);
        std::iter::once(head).chain(policies.map(|(name, policy)| cells(name, policy, digits))).collect()
    }

    fn headline(&self) -> String {
        format!(
            "{}: {} rows, learnt from {}; best single {} {:.4}, random {:.4}, true domain {:.4}, oracle {:.4}; domain \
             found {}; cost in {}",
            self.set,
            self.rows,
            self.learnt_from,
            self.best_single_model,
            self.best_single,
            self.random,
            self.true_domain,
            self.oracle,
            percent(self.domain_accuracy),
            self.cost_unit.unwrap_or("nothing known"),
        )
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, set) in self.0.iter().enumerate() {
            let gap = if index > 0 { "\n" } else { "" };
            writeln!(f, "{gap}{}", set.headline())?;
            let rows = set.rows_of_table();
            let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
            for row in &rows {
                let cells: Vec<String> = row
                    .iter()
                    .enumerate()
                    .map(|(column, cell)| format!("{cell:<w$}", w = width(column)))
                    .collect();
                writeln!(f, "{}", cells.join("  ").trim_end())?;
            }
        }
        Ok(())
    }
}

impl Report<'_> {
    /// The tables in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for set in self.0 {
            let mut rows = set.rows_of_table();
            let rule = vec!["---".to_owned(); rows[0].len()];
            rows.insert(1, rule);
            // Writing to a string does not fail.
            let _ = writeln!(text, "## {}\n\n{}\n", set.set, set.headline());
            for row in rows {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
            text.push('\n');
        }
        text
    }

    /// Score against cost as SVG, one picture below the other; sets of unknown cost are left out.
    pub fn svg(&self) -> String {
        let priced: Vec<&RoutingEval> = self.0.iter().filter(|set| set.cost_unit.is_some()).collect();
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            HEIGHT * priced.len().max(1) as f64
        );
        for (index, set) in priced.into_iter().enumerate() {
            let _ = writeln!(svg, "<g transform=\"translate(0 {})\">", HEIGHT * index as f64);
            picture(&mut svg, set);
            svg.push_str("</g>\n");
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// One set's curves, with axes and a legend.
fn picture(svg: &mut String, set: &RoutingEval) {
    let curves = || set.policies.iter().chain(set.references.iter().filter(|(name, _)| *name != "oracle"));
    let points = || curves().flat_map(|(_, policy)| &policy.curve);
    let range = |axis: usize| {
        let values = points().map(|point| point[axis]);
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        if high > low { (low, high) } else { (low - 0.5, low + 0.5) }
    };
    let ((left, right), (bottom, top)) = (range(0), range(1));
    let x = |cost: f64| MARGIN + (cost - left) / (right - left) * (WIDTH - 4.0 * MARGIN);
    let y = |score: f64| HEIGHT - MARGIN - (score - bottom) / (top - bottom) * (HEIGHT - 2.0 * MARGIN);
    let (unit, name) = (set.cost_unit.unwrap_or_default(), &set.set);
    let _ = writeln!(
        svg,
        "<text x=\"{MARGIN}\" y=\"24\" font-size=\"14\">{}: score against {unit}</text>",
        escape(name)
    );
    let (x0, x1, y0, y1) = (x(left), x(right), y(bottom), y(top));
    let _ = writeln!(svg, "<path d=\"M{x0} {y1}V{y0}H{x1}\" fill=\"none\" stroke=\"black\"/>");
    for step in 0..=4 {
        let part = f64::from(step) / 4.0;
        let (cost, score) = (left + part * (right - left), bottom + part * (top - bottom));
        let digits = if right < 1.0 { 4 } else { 1 };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{cost:.digits$}</text><text x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\">{score:.3}</text>",
            x(cost),
            y0 + 18.0,
            x0 - 6.0,
            y(score) + 4.0
        );
    }
    for (index, (name, policy)) in curves().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dash = if index < COLOURS.len() { "none" } else { "5 3" };
        let line: Vec<String> =
            policy.curve.iter().map(|[cost, score]| format!("{:.1},{:.1}", x(*cost), y(*score))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"{dash}\"/>",
            line.join(" ")
        );
        let at = MARGIN + 18.0 * index as f64;
        let _ = writeln!(
            svg,
            "<path d=\"M{0} {at}h20\" stroke=\"{colour}\" stroke-width=\"3\" stroke-dasharray=\"{dash}\"/><text x=\"{1}\" \
             y=\"{2}\">{name}</text>",
            x1 + 20.0,
            x1 + 46.0,
            at + 4.0
        );
    }
}

/// Text as XML takes it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
