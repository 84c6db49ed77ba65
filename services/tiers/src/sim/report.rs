//! Outcomes as a table and as a picture.

use std::fmt::Write;

use super::Outcome;

const ROW: f64 = 18.0;
const LABEL: f64 = 170.0;
const BAR: f64 = 260.0;
const VALUE: f64 = 60.0;
const TOP: f64 = 46.0;

/// What a bar stands for.
type Value = fn(&Outcome) -> f64;

/// Outcomes as CSV, with a heading.
pub fn csv(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "trace,policy,hbm_experts,requests,loads_per_1000,hit_rate,stall_ms_per_request,p99_wait_s,capacity,offered_load\n",
    );
    for o in outcomes {
        let _infallible = writeln!(
            text,
            "{},{},{},{},{:.3},{:.4},{:.3},{:.4},{:.3},{}",
            o.trace.replace([',', '"', '\n'], "_"),
            o.policy,
            o.hbm_experts,
            o.requests,
            o.loads_per_1000,
            o.hit_rate,
            o.stall_ms_per_request,
            o.p99_wait_s,
            o.capacity,
            o.offered_load
        );
    }
    text
}

/// Loads and capacities as bars, one line for each outcome.
pub fn svg(outcomes: &[Outcome]) -> String {
    let panels: [(&str, Value, usize); 2] = [
        ("loads per 1,000 requests (fewer is better)", |o| o.loads_per_1000, 1),
        ("capacity (more is better)", |o| o.capacity, 2),
    ];
    let panel = BAR + VALUE;
    let (width, height) = (LABEL + 2.0 * panel, TOP + ROW * outcomes.len() as f64 + 8.0);
    let title = outcomes.first().map_or_else(String::new, |o| {
        format!("{}, {} experts on the accelerator, simulated", escape(&o.trace), o.hbm_experts)
    });
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/><text x=\"8\" y=\"18\" \
         font-weight=\"bold\">{title}</text>\n"
    );
    for (at, (heading, value, digits)) in panels.into_iter().enumerate() {
        let left = LABEL + at as f64 * panel;
        let most = outcomes.iter().map(value).fold(f64::MIN_POSITIVE, f64::max);
        let _infallible = writeln!(text, "<text x=\"{left}\" y=\"38\" fill=\"#555\">{heading}</text>");
        for (row, outcome) in outcomes.iter().enumerate() {
            let (y, value) = (TOP + row as f64 * ROW, value(outcome));
            let length = value / most * (BAR - 8.0);
            let colour = if outcome.policy.starts_with("guildhall") { "#c2410c" } else { "#64748b" };
            let _infallible = writeln!(
                text,
                "<rect x=\"{left}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{value:.digits$}</text>",
                ROW - 4.0,
                left + length + 4.0,
                y + 11.0
            );
        }
    }
    for (row, outcome) in outcomes.iter().enumerate() {
        let y = TOP + row as f64 * ROW + 11.0;
        let _infallible = writeln!(text, "<text x=\"8\" y=\"{y}\">{}</text>", escape(&outcome.policy));
    }
    text.push_str("</svg>\n");
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
