//! The forms in which metrics are asked for.

use std::collections::HashSet;
use std::fmt::Write;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::Metrics;

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `OpenMetrics` 1.0.0. The only one that has exemplars.
    OpenMetrics,
    /// The older format of Prometheus, 0.0.4, which everything reads.
    Text,
}

impl Format {
    /// What a scraper asks for by `Accept`: `OpenMetrics` where it is named and not liked less than plain text,
    /// and the older format otherwise, as other exporters do it.
    pub(crate) fn negotiate(accept: &str) -> Self {
        let mut best = (0.0, Self::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "application/openmetrics-text" => Self::OpenMetrics,
                "text/plain" | "text/*" => Self::Text,
                _ => continue,
            };
            let (mut quality, mut known) = (1.0, true);
            for (key, value) in parts.filter_map(|part| part.split_once('=')) {
                match (key.trim(), value.trim()) {
                    ("q", value) => quality = value.parse().unwrap_or(0.0),
                    ("version", value) if kind == Self::OpenMetrics => {
                        known = matches!(value, "0.0.1" | "1.0.0");
                    }
                    _ => {}
                }
            }
            if known
                && (quality > best.0 || (quality >= best.0 && kind == Self::OpenMetrics))
                && quality > 0.0
            {
                best = (quality, kind);
            }
        }
        best.1
    }

    /// The value of `Content-Type`.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All metrics in a text format.
///
/// # Errors
/// When a metric cannot be written; none of ours is of that kind.
pub(crate) fn exposition(
    registry: &Registry,
    metrics: &Metrics,
    format: Format,
) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    text::encode_registry(&mut out, registry)?;
    if format == Format::Text {
        out = older(&out)?;
    }
    metrics.duration.write(&mut out, format)?;
    metrics.first_token.write(&mut out, format)?;
    if format == Format::OpenMetrics {
        text::encode_eof(&mut out)?;
    }
    Ok(out)
}

/// The older format of the same metrics. In it, counters are declared under the name that their samples have, and
/// there are no units.
fn older(text: &str) -> Result<String, std::fmt::Error> {
    let counters: HashSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let declared = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        match declared {
            Some(("UNIT", _)) => {}
            Some((keyword, rest)) => {
                let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
                let suffix = if counters.contains(name) { "_total" } else { "" };
                writeln!(out, "# {keyword} {name}{suffix} {rest}")?;
            }
            None => writeln!(out, "{line}")?,
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_ask() {
        for (accept, wanted) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, */*;q=0.1", Format::Text),
            ("text/plain", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics),
            ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4", Format::OpenMetrics),
            (
                "text/plain;version=0.0.4;q=0.5, Application/OpenMetrics-Text;version=1.0.0;q=0.6",
                Format::OpenMetrics,
            ),
            (
                "text/plain;version=0.0.4;q=0.6, application/openmetrics-text;version=1.0.0;q=0.5",
                Format::Text,
            ),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;version=2.0.0", Format::Text),
            // As Prometheus 2 asks.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(Format::negotiate(accept), wanted, "{accept}");
        }
    }

    #[test]
    fn the_older_format_declares_counters_by_their_samples_names() {
        let text = "# HELP a_seconds A b.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total{x=\"# y\"} 1\n# HELP g G.\n# TYPE g gauge\ng 2\n";
        let older = older(text).unwrap();
        assert_eq!(
            older,
            "# HELP a_seconds_total A b.\n# TYPE a_seconds_total counter\na_seconds_total{x=\"# y\"} 1\n# HELP g G.\n# TYPE g gauge\ng 2\n"
        );
    }
}
