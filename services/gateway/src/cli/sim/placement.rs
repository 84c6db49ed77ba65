use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;
use tiers::placement::{Fleet, Placement, advise};
use tiers::sim::{Contestant, Cost, SimError, Trace, loads_per_1000};

use super::{Failure, clear_progress, say, say_json, show_progress};

/// Arguments of `sim placement`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Recorded requests, as for `sim tiers`.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// How many nodes there are.
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u16).range(1..=256))]
    nodes: u16,
    /// How many experts fit on the accelerator of each node.
    #[arg(long, value_name = "EXPERTS", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    hbm: u16,
    /// How much more than an equal share of the requests a node may get, in percent of that share.
    #[arg(long, value_name = "PERCENT", default_value_t = 25, value_parser = clap::value_parser!(u16).range(..=1000))]
    imbalance: u16,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    trace: String,
    nodes: u16,
    hbm_experts: u16,
    /// Requests of the first half, and of the second.
    learnt_from: usize,
    counted_on: usize,
    source: &'static str,
    placements: Vec<Counted>,
    advice: Vec<Vec<Advised>>,
}

/// What a placement comes to.
#[derive(Serialize)]
struct Counted {
    placement: &'static str,
    /// Loads per 1,000 requests, where always the least recently used goes.
    lru: f64,
    /// Likewise by our decisions.
    guildhall: f64,
    /// The share of the requests that the busiest node gets.
    busiest_node: f64,
}

/// An expert of a node.
#[derive(Serialize)]
struct Advised {
    expert: String,
    /// Its part of the first half's requests, on all nodes.
    share: f64,
    /// How many nodes serve it.
    nodes: usize,
}

/// Advises.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let trace = Trace::read(&args.trace).map_err(|error| Failure::Usage(error.to_string()))?;
    let (first, second) = trace.experts.split_at(trace.experts.len() / 2);
    let (nodes, experts) = (usize::from(args.nodes), trace.expert_count);
    let fleet = Fleet { nodes, places: usize::from(args.hbm), imbalance: f64::from(args.imbalance) / 100.0 };
    show_progress(&format!("{}: looking for a placement", trace.name));
    let advised = advise(first, experts, &fleet).map_err(|error| Failure::Usage(error.to_string()))?;
    let placements = [
        ("everywhere", Placement::everywhere(experts, nodes)),
        ("hashed", Placement::hashed(experts, nodes)),
        ("in-turn", Placement::in_turn(experts, nodes)),
        ("advised", advised.clone()),
    ];
    let counted: Result<Vec<Counted>, SimError> =
        placements.iter().map(|(name, placement)| count(name, placement, second, fleet.places)).collect();
    clear_progress();
    let report = Report {
        trace: trace.name.clone(),
        nodes: args.nodes,
        hbm_experts: args.hbm,
        learnt_from: first.len(),
        counted_on: second.len(),
        source: "simulated",
        placements: counted.map_err(anyhow::Error::from)?,
        advice: advice(&trace, first, &advised),
    };
    if args.json { say_json(&report) } else { say(table(&report)) }
}

fn count(
    name: &'static str,
    placement: &Placement,
    requests: &[u32],
    places: usize,
) -> Result<Counted, SimError> {
    let nodes: Vec<Trace> = placement
        .split(requests)
        .into_iter()
        .filter(|share| !share.is_empty())
        .map(|share| Trace::from_order("node", share))
        .collect();
    let all = requests.len().max(1) as f64;
    let loads = |contestant| {
        let of = |node: &Trace| {
            let loads = loads_per_1000(node, contestant, places, &Cost::default())?;
            Ok(loads * node.experts.len() as f64 / all)
        };
        nodes.iter().map(of).sum::<Result<f64, SimError>>()
    };
    let busiest = nodes.iter().map(|node| node.experts.len()).max().unwrap_or(0);
    Ok(Counted {
        placement: name,
        lru: loads(Contestant::Lru)?,
        guildhall: loads(Contestant::Guildhall)?,
        busiest_node: busiest as f64 / all,
    })
}

/// The experts of each node that were asked for, most popular first.
fn advice(trace: &Trace, requests: &[u32], placement: &Placement) -> Vec<Vec<Advised>> {
    let mut counts = vec![0_usize; trace.expert_count];
    for expert in requests {
        counts[*expert as usize] += 1;
    }
    let name = |expert: u32| match trace.names.get(expert as usize) {
        Some(name) => name.clone(),
        None => format!("expert-{expert}"),
    };
    let of = |mut node: Vec<u32>| {
        node.retain(|expert| counts[*expert as usize] > 0);
        node.sort_by_key(|expert| (std::cmp::Reverse(counts[*expert as usize]), *expert));
        let advised = |expert: u32| Advised {
            expert: name(expert),
            share: counts[expert as usize] as f64 / requests.len().max(1) as f64,
            nodes: placement.homes(expert).len(),
        };
        node.into_iter().map(advised).collect()
    };
    placement.by_node().into_iter().map(of).collect()
}

fn table(report: &Report) -> String {
    /// Experts of a node that the table names.
    const NAMED: usize = 8;
    let mut text = format!(
        "{}: {} nodes with {} places; learnt from {} requests, counted on the {} after them; simulated\n\n{:12} {:>10} {:>10} {:>14}",
        report.trace,
        report.nodes,
        report.hbm_experts,
        report.learnt_from,
        report.counted_on,
        "placement",
        "lru",
        "guildhall",
        "busiest node %"
    );
    for counted in &report.placements {
        let _infallible = write!(
            text,
            "\n{:12} {:>10.1} {:>10.1} {:>14.1}",
            counted.placement,
            counted.lru,
            counted.guildhall,
            100.0 * counted.busiest_node
        );
    }
    text.push_str("\n\nLoads per 1,000 requests. What to keep on each node:\n");
    for (node, experts) in (1..).zip(&report.advice) {
        let named = experts.iter().take(NAMED).map(|one| {
            let copies = if one.nodes > 1 { format!(" on {} nodes", one.nodes) } else { String::new() };
            format!("{} ({:.1} %{copies})", one.expert, 100.0 * one.share)
        });
        let named: Vec<String> = named.collect();
        let more = experts.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _infallible = write!(text, "\n{node}: {}{more}", named.join(", "));
    }
    text
}
