//! Experts for people to read.

use serde_json::Value;

use crate::cli::Failure;

/// Skills named in a row of the table.
const SKILLS: usize = 3;

/// One line per expert, in columns.
pub(super) fn table(experts: &[Value]) -> String {
    let head = ["ID", "KIND", "OWNER", "STATE", "BEST AT"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(experts.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    let line = |row: &[String; 5]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        line.push_str(&row[4]);
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(expert: &Value) -> [String; 5] {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let status = &expert["status"];
    [
        text(&expert["id"]),
        text(&expert["backend"]["kind"]),
        text(&expert["origin"]),
        text(&status["availability"]),
        best(&expert["skills"]),
    ]
}

/// The categories with the highest weights.
fn best(skills: &Value) -> String {
    let mut named: Vec<(&str, f64)> = skills
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(category, weight)| Some((category.as_str(), weight.as_f64()?)))
        .collect();
    named.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let more = named.len().saturating_sub(SKILLS);
    let shown = named.iter().take(SKILLS).map(|(category, weight)| format!("{category} {weight:.2}"));
    let mut parts: Vec<String> = shown.collect();
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    if parts.is_empty() { "-".into() } else { parts.join(", ") }
}

/// An expert as YAML, in the form that a configuration file has.
pub(super) fn expert_text(expert: &Value) -> Result<String, Failure> {
    let text =
        serde_saphyr::to_string(expert).map_err(|e| Failure::Other(anyhow::Error::msg(e.to_string())))?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_has_columns() {
        let skills = json!({"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.1});
        let experts = [
            json!({"id": "long-name", "backend": {"kind": "llm"}, "origin": "admin", "status": {"availability": "ready"}, "skills": skills}),
            json!({"id": "x", "backend": {"kind": "constant"}, "origin": "file", "status": {"availability": "draining"}, "skills": {}}),
        ];
        let expected = "\
ID         KIND      OWNER  STATE     BEST AT
long-name  llm       admin  ready     b 0.90, c 0.70, a 0.50, 1 more
x          constant  file   draining  -";
        assert_eq!(table(&experts), expected);
        assert_eq!(table(&[]), "ID  KIND  OWNER  STATE  BEST AT");
    }
}
