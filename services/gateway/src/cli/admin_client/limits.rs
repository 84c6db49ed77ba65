//! What keys and teams have alike, out of flags.

use serde_json::{Map, Value, json};

/// Limits and access.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Shared {
    /// Whose it is or what it is for.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The routes that may be used, by comma; all when not given.
    #[arg(long, value_name = "ROUTE", value_delimiter = ',')]
    routes: Option<Vec<String>>,
    /// The experts that may answer, by comma; all when not given.
    #[arg(long, value_name = "EXPERT", value_delimiter = ',')]
    experts: Option<Vec<String>>,
    /// Requests within any minute.
    #[arg(long, value_name = "N")]
    rpm: Option<u64>,
    /// Requests per day (UTC).
    #[arg(long, value_name = "N")]
    rpd: Option<u64>,
    /// Prompt and answer tokens within any minute.
    #[arg(long, value_name = "N")]
    tpm: Option<u64>,
    /// Prompt and answer tokens per day (UTC).
    #[arg(long, value_name = "N")]
    tpd: Option<u64>,
    /// Dollars per day (UTC).
    #[arg(long, value_name = "USD")]
    usd_per_day: Option<f64>,
    /// Dollars per calendar month (UTC).
    #[arg(long, value_name = "USD")]
    usd_per_month: Option<f64>,
    /// Dollars in all.
    #[arg(long, value_name = "USD")]
    usd_total: Option<f64>,
    /// Requests in progress at a time.
    #[arg(long, value_name = "N")]
    concurrent: Option<u32>,
    /// Requests that may wait for one of the `--concurrent` places.
    #[arg(long, value_name = "N")]
    queue: Option<u32>,
    /// Take these settings away, by the names that `get` shows, such as `team` or `limits.usd_per_day`.
    #[arg(long, value_name = "SETTING", value_delimiter = ',')]
    unset: Vec<String>,
}

impl Shared {
    /// The settings that are given, as a merge patch.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let given = [
            ("description", self.description.as_ref().map(|text| json!(text))),
            ("routes", self.routes.as_ref().map(|names| json!(names))),
            ("experts", self.experts.as_ref().map(|names| json!(names))),
            ("limits.requests_per_minute", self.rpm.map(Value::from)),
            ("limits.requests_per_day", self.rpd.map(Value::from)),
            ("limits.tokens_per_minute", self.tpm.map(Value::from)),
            ("limits.tokens_per_day", self.tpd.map(Value::from)),
            ("limits.usd_per_day", self.usd_per_day.map(Value::from)),
            ("limits.usd_per_month", self.usd_per_month.map(Value::from)),
            ("limits.usd_total", self.usd_total.map(Value::from)),
            ("limits.concurrent", self.concurrent.map(Value::from)),
            ("limits.queue", self.queue.map(Value::from)),
        ];
        let taken = self.unset.iter().map(|name| (name.as_str(), Value::Null));
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in given.chain(taken) {
            put(&mut fields, name, value);
        }
        fields
    }
}

/// Sets the field of a dotted name.
fn put(fields: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        None => drop(fields.insert(name.to_owned(), value)),
        Some((outer, inner)) => {
            let slot = fields.entry(outer).or_insert_with(|| json!({}));
            if let Value::Object(fields) = slot {
                put(fields, inner, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_a_merge_patch() {
        let shared = Shared {
            routes: Some(vec!["auto".into()]),
            rpm: Some(600),
            usd_per_day: Some(5.5),
            unset: vec!["team".into(), "limits.usd_total".into()],
            ..Shared::default()
        };
        let expected = json!({
            "routes": ["auto"], "team": null,
            "limits": {"requests_per_minute": 600, "usd_per_day": 5.5, "usd_total": null},
        });
        assert_eq!(Value::Object(shared.fields()), expected);
        assert!(Shared::default().fields().is_empty());
    }
}
