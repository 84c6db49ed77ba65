//! Objects for people to read.

mod tiers;

use serde_json::Value;

use crate::cli::Failure;

pub(super) use tiers::{plan, pool, pools, residency_decisions};

/// Skills named in a row of the table.
const SKILLS: usize = 3;

/// One line per expert.
pub(super) fn experts(experts: &[Value]) -> String {
    table(["ID", "KIND", "OWNER", "STATE", "BEST AT"], experts, |expert| {
        [
            text(&expert["id"]),
            text(&expert["backend"]["kind"]),
            text(&expert["origin"]),
            text(&expert["status"]["availability"]),
            best(&expert["skills"]),
        ]
    })
}

/// One line per key. Moments are UTC.
pub(super) fn keys(keys: &[Value]) -> String {
    table(["ID", "TEAM", "OWNER", "STATE", "ENDS", "LIMITS"], keys, |key| {
        [
            text(&key["id"]),
            text(&key["team"]),
            text(&key["origin"]),
            text(&key["status"]),
            key["expires_ms"].as_u64().map_or_else(|| "-".into(), moment),
            limits(&key["limits"]),
        ]
    })
}

/// One line per team.
pub(super) fn teams(teams: &[Value]) -> String {
    table(["ID", "OWNER", "STATE", "LIMITS"], teams, |team| {
        let state = if team["disabled"] == true { "disabled" } else { "active" };
        [text(&team["id"]), text(&team["origin"]), state.into(), limits(&team["limits"])]
    })
}

/// One line per router model.
pub(super) fn bundles(bundles: &[Value]) -> String {
    table(["ID", "OWNER", "ROLE", "ABOUT"], bundles, |bundle| {
        let role = match bundle["shadow"].as_f64() {
            _ if bundle["active"] == true => "active".into(),
            Some(share) => format!("shadow {}%", share * 100.0),
            None if bundle["previous"] == true => "previous".into(),
            None => "-".into(),
        };
        let problem = bundle["problem"].as_str().map(|problem| format!("PROBLEM: {problem}"));
        let about = problem.unwrap_or_else(|| text(&bundle["description"]));
        [text(&bundle["id"]), text(&bundle["origin"]), role, about]
    })
}

/// One line per past prompt.
pub(super) fn memory(prompts: &[Value]) -> String {
    table(["ID", "SPACE", "OUTCOMES", "USED"], prompts, |prompt| {
        let used = if prompt["unused_because"].is_null() { "yes" } else { "no" };
        [text(&prompt["id"]), text(&prompt["encoder"]), best(&prompt["outcomes"]), used.into()]
    })
}

/// A moment to the second, as RFC 3339 has it.
pub(super) fn moment(ms: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(ms));
    // The formatter ends with the year 9999.
    let shown = time.filter(|_| ms < 253_402_300_800_000).map(humantime::format_rfc3339_seconds);
    shown.map_or_else(|| format!("{ms} ms"), |shown| shown.to_string())
}

fn limits(limits: &Value) -> String {
    let named = limits.as_object().into_iter().flatten();
    let shown: Vec<String> = named.map(|(name, value)| format!("{name} {value}")).collect();
    if shown.is_empty() { "-".into() } else { shown.join(", ") }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

/// A head and one line per object, in columns.
fn table<const N: usize>(head: [&str; N], objects: &[Value], row: impl Fn(&Value) -> [String; N]) -> String {
    let rows: Vec<[String; N]> =
        std::iter::once(head.map(str::to_owned)).chain(objects.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
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

/// An object as YAML, in the form that a configuration file has.
pub(super) fn yaml(object: &Value) -> Result<String, Failure> {
    let text =
        serde_saphyr::to_string(object).map_err(|e| Failure::Other(anyhow::Error::msg(e.to_string())))?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_has_columns() {
        let skills = json!({"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.1});
        let listed = [
            json!({"id": "long-name", "backend": {"kind": "llm"}, "origin": "admin", "status": {"availability": "ready"}, "skills": skills}),
            json!({"id": "x", "backend": {"kind": "constant"}, "origin": "file", "status": {"availability": "draining"}, "skills": {}}),
        ];
        let expected = "\
ID         KIND      OWNER  STATE     BEST AT
long-name  llm       admin  ready     b 0.90, c 0.70, a 0.50, 1 more
x          constant  file   draining  -";
        assert_eq!(experts(&listed), expected);
        assert_eq!(experts(&[]), "ID  KIND  OWNER  STATE  BEST AT");
    }

    #[test]
    fn bundles_are_told_with_what_they_do() {
        let bundle = |id: &str, active: bool, previous: bool| json!({"id": id, "origin": "admin", "active": active, "previous": previous, "shadow": null, "problem": null, "description": "about it"});
        let mut listed = [bundle("a@1", true, false), bundle("a@2", false, true), bundle("a@3", false, true)];
        listed[1]["shadow"] = 0.25.into();
        listed[2]["problem"] = "cut off".into();
        let expected = "\
ID   OWNER  ROLE        ABOUT
a@1  admin  active      about it
a@2  admin  shadow 25%  about it
a@3  admin  previous    PROBLEM: cut off";
        assert_eq!(bundles(&listed), expected);
    }

    #[test]
    fn keys_and_teams_are_told_with_their_limits() {
        let key = json!({
            "id": "ci", "team": "red", "origin": "admin", "status": "active", "expires_ms": 1_798_761_600_000_u64,
            "limits": {"requests_per_minute": 600, "usd_per_day": 5.0},
        });
        let expected = "\
ID  TEAM  OWNER  STATE   ENDS                  LIMITS
ci  red   admin  active  2027-01-01T00:00:00Z  requests_per_minute 600, usd_per_day 5.0";
        assert_eq!(keys(&[key]), expected);
        let team = json!({"id": "red", "origin": "file", "disabled": true, "limits": {}});
        assert_eq!(teams(&[team]), "ID   OWNER  STATE     LIMITS\nred  file   disabled  -");
        assert_eq!(moment(u64::MAX), "18446744073709551615 ms");
    }
}
