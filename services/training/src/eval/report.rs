//! A router's evaluation for people: text for a terminal, Markdown for a page.

use std::fmt::{self, Write as _};

use super::{Cost, RouterEval, Stages};

/// Confused pairs that people are shown.
const PAIRS: usize = 10;
/// Sources that people are shown in a terminal, the worst first.
const SOURCES: usize = 10;

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn maybe(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), percent)
}

fn micros(cost: Option<&Cost>) -> String {
    cost.and_then(|cost| cost.cpu_us).map_or("-".to_owned(), |cpu| format!("{cpu:.0}"))
}

impl fmt::Display for RouterEval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28} {:>8}", "rows", self.rows)?;
        writeln!(f, "{:<28} {:>8}", "accuracy", percent(self.accuracy))?;
        writeln!(f, "{:<28} {:>8.3}", "macro F1", self.macro_f1)?;
        writeln!(f, "{:<28} {:>8.3}", "calibration error", self.ece)?;
        for (share, accuracy) in self.selective.iter().rev() {
            writeln!(f, "{:<28} {:>8}", format!("accuracy, surest {share}"), percent(*accuracy))?;
        }
        if let Some(robustness) = self.robustness {
            let label = format!("robustness ({} rows)", self.perturbed_rows);
            let kinds = self.robustness_by_kind.iter();
            let kinds: Vec<String> =
                kinds.map(|(name, share)| format!("{name} {}", percent(*share))).collect();
            writeln!(f, "{label:<28} {:>8}  ({})", percent(robustness), kinds.join(", "))?;
        }
        stages(f, &self.stages)?;
        writeln!(f, "\n{:<28} {:>8} {:>8} {:>10}", "category", "rows", "recall", "precision")?;
        for (name, category) in &self.per_category {
            let (recall, precision) = (maybe(category.recall), maybe(category.precision));
            writeln!(f, "{name:<28} {:>8} {recall:>8} {precision:>10}", category.rows)?;
        }
        if !self.confusions.is_empty() {
            writeln!(f, "\n{:<28} {:<28} {:>8}", "category", "taken for", "rows")?;
        }
        for pair in self.confusions.iter().take(PAIRS) {
            writeln!(f, "{:<28} {:<28} {:>8}", pair.category, pair.taken_for, pair.rows)?;
        }
        if self.per_source.len() > 1 {
            writeln!(f, "\n{:<57} {:>8} {:>8}", "source, the worst first", "rows", "accuracy")?;
            let mut sources: Vec<_> = self.per_source.iter().collect();
            sources.sort_by(|a, b| a.1.accuracy.total_cmp(&b.1.accuracy));
            for (name, source) in sources.into_iter().take(SOURCES) {
                writeln!(f, "{name:<57} {:>8} {:>8}", source.rows, percent(source.accuracy))?;
            }
        }
        Ok(())
    }
}

fn stages(f: &mut fmt::Formatter<'_>, stages: &Stages) -> fmt::Result {
    writeln!(f, "\n{:<28} {:>8} {:>8} {:>10} {:>10}", "stage", "decides", "accuracy", "CPU, us", "p99, us")?;
    let mut line = |name: &str, decides: f64, accuracy: f64, cost: Option<&Cost>| {
        let p99 = cost.map_or("-".to_owned(), |cost| format!("{:.0}", cost.p99_us));
        let (decides, accuracy, cpu) = (percent(decides), percent(accuracy), micros(cost));
        writeln!(f, "{name:<28} {decides:>8} {accuracy:>8} {cpu:>10} {p99:>10}")
    };
    if let Some(first) = &stages.first {
        line("first stage alone", 1.0, first.accuracy, first.cost.as_ref())?;
    }
    line("encoder alone", 1.0, stages.encoder.accuracy, stages.encoder.cost.as_ref())?;
    if let Some(cascade) = &stages.cascade {
        let name = format!("cascade from {:.3} on", cascade.threshold);
        line(&name, cascade.coverage, cascade.accuracy, cascade.cost.as_ref())?;
    }
    Ok(())
}

impl RouterEval {
    /// A page with everything that was measured.
    pub fn markdown(&self) -> String {
        let mut page = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_markdown(&mut page);
        page
    }

    fn write_markdown(&self, page: &mut String) -> fmt::Result {
        writeln!(page, "# Router evaluation\n\n| measure | value |\n|---|---|")?;
        writeln!(page, "| rows | {} |\n| accuracy | {} |", self.rows, percent(self.accuracy))?;
        writeln!(page, "| macro F1 | {:.3} |\n| calibration error | {:.3} |", self.macro_f1, self.ece)?;
        for (share, accuracy) in self.selective.iter().rev() {
            writeln!(page, "| accuracy on the surest {share} | {} |", percent(*accuracy))?;
        }
        writeln!(page, "| robustness | {} |", maybe(self.robustness))?;
        for (name, share) in &self.robustness_by_kind {
            writeln!(page, "| robustness, {name} | {} |", percent(*share))?;
        }
        self.write_stages(page)?;
        writeln!(page, "\n## Categories\n\n| category | rows | recall | precision |\n|---|---|---|---|")?;
        for (name, category) in &self.per_category {
            let (recall, precision) = (maybe(category.recall), maybe(category.precision));
            writeln!(page, "| {name} | {} | {recall} | {precision} |", category.rows)?;
        }
        writeln!(page, "\n## Confused pairs\n\n| category | taken for | rows |\n|---|---|---|")?;
        for pair in &self.confusions {
            writeln!(page, "| {} | {} | {} |", pair.category, pair.taken_for, pair.rows)?;
        }
        writeln!(page, "\n## Sources\n\n| source | rows | accuracy |\n|---|---|---|")?;
        for (name, source) in &self.per_source {
            let name = name.replace('|', "\\|");
            writeln!(page, "| {name} | {} | {} |", source.rows, percent(source.accuracy))?;
        }
        Ok(())
    }

    fn write_stages(&self, page: &mut String) -> fmt::Result {
        let Stages { first, encoder, cascade } = &self.stages;
        writeln!(
            page,
            "\n## Stages\n\n| stage | decides | accuracy | CPU, us | p50, us | p99, us |\n|---|---|---|---|---|---|"
        )?;
        let mut line = |name: &str, decides: f64, accuracy: f64, cost: Option<&Cost>| {
            let waits = cost.map_or("- | -".to_owned(), |c| format!("{:.0} | {:.0}", c.p50_us, c.p99_us));
            let (decides, accuracy) = (percent(decides), percent(accuracy));
            writeln!(page, "| {name} | {decides} | {accuracy} | {} | {waits} |", micros(cost))
        };
        if let Some(first) = first {
            line("first stage alone", 1.0, first.accuracy, first.cost.as_ref())?;
        }
        line("encoder alone", 1.0, encoder.accuracy, encoder.cost.as_ref())?;
        let Some(cascade) = cascade else { return Ok(()) };
        let name = format!("cascade from {:.3} on", cascade.threshold);
        line(&name, cascade.coverage, cascade.accuracy, cascade.cost.as_ref())?;
        writeln!(
            page,
            "\n## Cascade\n\n| threshold | first stage decides | accuracy | CPU, us |\n|---|---|---|---|"
        )?;
        for point in &cascade.curve {
            let cpu = point.cpu_us.map_or("-".to_owned(), |cpu| format!("{cpu:.0}"));
            let (coverage, accuracy) = (percent(point.coverage), percent(point.accuracy));
            writeln!(page, "| {:.3} | {coverage} | {accuracy} | {cpu} |", point.threshold)?;
        }
        Ok(())
    }
}
