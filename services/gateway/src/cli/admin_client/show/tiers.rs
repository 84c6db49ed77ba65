//! Pools for people to read.

use serde_json::Value;

use super::{moment, table, text};

/// One line per pool.
pub(in super::super) fn pools(pools: &[Value]) -> String {
    table(["ID", "STATE", "READY", "WAITING", "NEAREST TIER", "DRIVERS"], pools, |pool| {
        let experts = list(&pool["experts"]);
        let ready = experts.iter().filter(|expert| expert["phase"] == "hot").count();
        [
            text(&pool["id"]),
            if pool["draining"] == true { "draining" } else { "open" }.into(),
            format!("{ready} of {}", experts.len()),
            number(&pool["waiting"]),
            list(&pool["tiers"]).first().map_or_else(|| "-".into(), filled),
            problems(pool).first().map_or_else(|| "answer".into(), Clone::clone),
        ]
    })
}

/// A pool: its tiers, its experts, and what its drivers cannot tell.
pub(in super::super) fn pool(pool: &Value) -> String {
    let tiers =
        table(["TIER", "USED", "PROMISED", "UNACCOUNTED", "CAPACITY"], list(&pool["tiers"]), |tier| {
            let (bytes, source) = (amount(&tier["capacity_bytes"]), text(&tier["source"]));
            [
                text(&tier["tier"]),
                amount(&tier["used_bytes"]),
                amount(&tier["reserved_bytes"]),
                amount(&tier["unaccounted_bytes"]),
                format!("{bytes} {source}"),
            ]
        });
    let head = ["EXPERT", "PHASE", "TIER", "PIN", "LEASES", "WAITING", "WAIT", "PROBLEM"];
    let experts = table(head, list(&pool["experts"]), |expert| {
        [
            text(&expert["id"]),
            text(&expert["phase"]),
            text(&expert["tier"]),
            text(&expert["pin"]),
            number(&expert["leases"]),
            number(&expert["waiting"]),
            seconds(&expert["wait_ms"]),
            text(&expert["failure"]["cause"]),
        ]
    });
    let state = if pool["draining"] == true { "takes nothing new" } else { "takes requests" };
    let head = format!(
        "{} {state}: {} under way, {} waiting",
        text(&pool["id"]),
        number(&pool["running"]),
        number(&pool["waiting"])
    );
    let mut parts = vec![head, tiers, experts];
    let problems = problems(pool);
    if !problems.is_empty() {
        parts.push(problems.join("\n"));
    }
    parts.join("\n\n")
}

/// What would be done, a line for each step.
pub(in super::super) fn plan(plan: &Value) -> String {
    let expert = text(&plan["expert"]);
    let when = if plan["at_once"] == true {
        "would be served at once".to_owned()
    } else {
        format!("would wait about {}", seconds(&plan["wait_ms"]))
    };
    let steps = list(&plan["actions"]).iter().map(|step| {
        format!("\n  {} {}: {}", text(&step["action"]), text(&step["expert"]), text(&step["why"]))
    });
    format!("a request for {expert} {when}{}", steps.collect::<String>())
}

/// One line per decision. Moments are UTC.
pub(in super::super) fn residency_decisions(decisions: &[Value]) -> String {
    table(["NUMBER", "WHEN", "ACTION", "EXPERT", "FROM", "TO", "WHY"], decisions, |decision| {
        [
            number(&decision["number"]),
            decision["at_ms"].as_u64().map_or_else(|| "-".into(), moment),
            text(&decision["action"]),
            text(&decision["expert"]),
            text(&decision["from"]),
            text(&decision["to"]),
            text(&decision["why"]),
        ]
    })
}

fn problems(pool: &Value) -> Vec<String> {
    let drivers = list(&pool["drivers"]).iter();
    let silent = drivers.filter_map(|driver| {
        let kind = text(&driver["kind"]);
        match driver["error"].as_str() {
            Some(error) => Some(format!("{kind} does not answer: {error}")),
            None if driver["answered_ms_ago"].is_null() => Some(format!("{kind} has not been asked yet")),
            None => None,
        }
    });
    silent.collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), |number| number.to_string())
}

fn seconds(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".into(), |ms| format!("{:.1} s", ms / 1e3))
}

/// A tier with how much of it is taken.
fn filled(tier: &Value) -> String {
    format!(
        "{} {} of {} {}",
        text(&tier["tier"]),
        amount(&tier["used_bytes"]),
        amount(&tier["capacity_bytes"]),
        text(&tier["source"])
    )
}

/// Bytes in the unit that suits them; small numbers, such as places of a bank, as they are.
fn amount(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else { return "-".into() };
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pool_is_told_with_its_sources_and_its_problems() {
        let shown = json!({
            "id": "gpu0", "draining": false, "waiting": 2, "running": 1,
            "tiers": [
                {"tier": "hbm", "capacity_bytes": 12_u64 << 30, "used_bytes": 6_u64 << 30, "reserved_bytes": 0,
                 "unaccounted_bytes": 512 << 20, "source": "measured"},
                {"tier": "slot", "capacity_bytes": 4, "used_bytes": 1, "reserved_bytes": 0, "unaccounted_bytes": 0,
                 "source": "declared"},
            ],
            "experts": [
                {"id": "a", "phase": "hot", "tier": "hbm", "pin": "hard", "leases": 1, "waiting": 0, "wait_ms": 0},
                {"id": "b", "phase": "failed", "tier": "dram", "pin": "none", "leases": 0, "waiting": 2,
                 "wait_ms": 1500, "failure": {"cause": "out of memory"}},
            ],
            "drivers": [{"kind": "ollama", "answered_ms_ago": 10, "error": "gone: connection refused"}],
        });
        let expected = "\
gpu0 takes requests: 1 under way, 2 waiting

TIER  USED     PROMISED  UNACCOUNTED  CAPACITY
hbm   6.0 GiB  0         512.0 MiB    12.0 GiB measured
slot  1        0         0            4 declared

EXPERT  PHASE   TIER  PIN   LEASES  WAITING  WAIT   PROBLEM
a       hot     hbm   hard  1       0        0.0 s  -
b       failed  dram  none  0       2        1.5 s  out of memory

ollama does not answer: gone: connection refused";
        assert_eq!(pool(&shown), expected);
        let expected = "\
ID    STATE  READY   WAITING  NEAREST TIER                      DRIVERS
gpu0  open   1 of 2  2        hbm 6.0 GiB of 12.0 GiB measured  ollama does not answer: gone: connection refused";
        assert_eq!(pools(&[shown]), expected);
    }

    #[test]
    fn a_plan_is_told_step_by_step() {
        let planned = json!({"expert": "b", "at_once": false, "wait_ms": 1250, "actions": [
            {"action": "demote", "expert": "a", "why": "nobody waits for it"},
        ]});
        assert_eq!(plan(&planned), "a request for b would wait about 1.2 s\n  demote a: nobody waits for it");
        let ready = json!({"expert": "a", "at_once": true, "wait_ms": 0, "actions": []});
        assert_eq!(plan(&ready), "a request for a would be served at once");
    }
}
