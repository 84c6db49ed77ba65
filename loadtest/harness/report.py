"""Writes loadtest/REPORT.md from the results: what was measured, on what, with which command, and what it says."""

import json

from . import hop, memory, peers, residency, scenario, soak
from .bars import BARS
from .common import ROOT, Failure, say, table

TARGET = ROOT / "loadtest" / "REPORT.md"

SECTIONS = (
    ("hop", "The cost of a hop", "Medians over the rounds; ratios are taken inside each round.", hop.tables),
    ("peers", "Beside other gateways", "The same mock, bodies and features; each started afresh in every round.", peers.tables),
    ("memory", "Memory", "Resident memory of the gateway's process.", memory.tables),
    ("residency", "More experts than fit", residency.__doc__.strip().partition("\n\n")[2], residency.tables),
    ("soak", "Soak", soak.__doc__.strip(), soak.tables),
)


def load(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def machine(result):
    m = result["machine"]
    virtual = "a virtual machine" if m["virtualised"] else "no virtual machine"
    return (
        f"{m['cpu']} ({m['family']}), {m['cores']} cores, {m['ram_gib']} GiB, {m['kernel']}, {virtual}; "
        f"{m['placement']}; load {m['load_before']} before; {m['when']}."
    )


def told(result):
    """The command and the versions, as every section shows them."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [f"    {result['command']}", "", f"{machine(result)} {versions}.", ""]


def bars(results):
    rows = []
    for bar in BARS:
        figure, words = bar.verdict(results)
        shown = bar.shown(figure["median"]) if figure else "-"
        worst = bar.shown(figure["worst"]) if figure else "-"
        rows.append([bar.measure, shown, worst, bar.shown(bar.must), bar.shown(bar.aim), words])
    yield from table(["measure", "median", "worst round", "must reach", "aim", "verdict"], rows)


def scenarios(results):
    for name in scenario.NAMES:
        result = results.get(f"scenario-{name}")
        if not result:
            continue
        yield from ["", f"### {name}", ""]
        if "skipped" in result:
            yield f"Left out: {result['skipped']}."
            continue
        yield from [f"{result['what'][0].upper()}{result['what'][1:]}.", "", *told(result)]
        yield from scenario.tables(result["checks"])


def text(results):
    lines = [
        "# Load report",
        "",
        "Written by `make load-report` from `loadtest/results/`; do not edit. How each figure is taken stands in",
        "[README.md](README.md). Absolute figures belong to the machine named beside them; ratios to the floor, a bare",
        "hyper proxy measured in the same rounds, are what carries over.",
        "",
        "## Bars",
        "",
        *bars(results),
    ]
    for name, title, words, tables in SECTIONS:
        if name in results:
            lines += ["", f"## {title}", "", words, "", *told(results[name]), *tables(results[name])]
    found = list(scenarios(results))
    if found:
        lines += ["", "## Scenarios", "", "Thresholds are counts or ratios inside one run.", *found]
    return "\n".join(line.rstrip() for line in "\n".join(lines).split("\n")) + "\n"


def write(options):
    results = load(options.results)
    if not results:
        raise Failure(f"there are no results in {options.results}; run the other commands first")
    TARGET.write_text(text(results))
    say(f"wrote {TARGET}")
    return True
