"""Half load with faults for a long time: is anything lost, does anything grow?"""

import csv
import time

from . import bodies
from .common import save, say, table
from .load import Happening, drive, kept
from .machine import record, sample
from .scenario import Stage, settled
from .scenarios import CHATTY, IMPATIENT, Scenario, both
from .verdict import growth, is_flat, last_half, lost, silent

# One round of faults; then it begins again. (second, what, mock, values)
ROUND_SECS = 60.0
FAULTS = (
    (4, "kill", "a", ()),
    (8, "start", "a", ()),
    (14, "freeze", "b", ()),
    (17, "thaw", "b", ()),
    (24, "script", "c", ("reset",)),
    (27, "script", "c", ()),
    (32, "script", "a", ("reset-head",)),
    (35, "script", "a", ()),
    (40, "script", "b", ("status:503",)),
    (43, "script", "b", ()),
)
# Requests a second, half of them streams.
MOST_OPEN = 2000.0
CHURN = (48.0, 53.0, 0.25)

# What may be gained over the last half without being a leak: (allowance, unit). 2 % of the level is allowed anyway.
ALLOWED = {
    "rss_kib": (1024, "KiB"),
    "threads": (1, "threads"),
    "fds": (16, "files"),
    "sockets": (16, "sockets"),
    "in_flight": (16, "requests"),
    # Of the asynchronous runtime: one for each connection, and those that are always there.
    "tasks": (32, "tasks"),
}

SOAK = Scenario(
    what="half load with faults",
    loads=[],
    checks=[],
    mocks=CHATTY,
    experts={"one": ("a", "b", "c")},
    expert_settings=IMPATIENT,
)


def mix(stage):
    """Half plain, two fifths streamed, a tenth of clients that leave in the middle of a stream."""
    plain = ("plain", 5, bodies.sized("one-route", bodies.KILOBYTE), {})
    streamed = ("streamed", 4, bodies.stream("one-route", 20), {})
    leaving = ("leaving", 1, bodies.stream("one-route", 20), {"leave_after_ms": 60})
    return stage.mix("soak", [plain, streamed, leaving])


def half_load(stage):
    """Half of what is carried of this mix; bounded, because an open loop costs the client's CPU more."""
    found = drive(stage.rig, stage.gateway.address, conc=1000, stagger_ms=500, secs=min(stage.rig.options.secs, 4), mix=both(stage))
    say(f"saturation: {found['rps']:.0f} requests a second at 1,000 connections")
    return min(found["rps"] / 2, MOST_OPEN)


class Samples:
    """What the gateway holds over time, in a CSV file and in memory."""

    def __init__(self, stage, path):
        self.stage = stage
        self.rows = []
        self.began = time.monotonic()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, "w", newline="")
        self.writer = csv.writer(self.file, lineterminator="\n")
        self.writer.writerow(["second", *ALLOWED])

    def take(self):
        row = sample(self.stage.gateway.pid)
        if not row:
            return
        row["in_flight"] = int(self.stage.gateway.in_flight())
        row["tasks"] = int(self.stage.gateway.metric("tasks"))
        row["second"] = round(time.monotonic() - self.began, 1)
        self.rows.append(row)
        self.writer.writerow([row["second"], *(row[name] for name in ALLOWED)])
        self.file.flush()

    def points(self, name):
        return [(row["second"], row[name]) for row in self.rows]


def schedule(stage, seconds):
    """All faults of all whole rounds, and the churn. A fault is never left on at the end."""
    happenings = []
    for number in range(int(seconds // ROUND_SECS)):
        start = number * ROUND_SECS
        for second, action, mock, values in FAULTS:
            act = lambda action=action, mock=mock, values=values: getattr(stage.mocks[mock], action)(*values)
            happenings.append(Happening(start + second, act))
        happenings.append(Happening(start + CHURN[0], stage.churn, CHURN[2], start + CHURN[1]))
    return happenings


def run(rig):
    options = rig.options
    kind = record("soak", options)
    stage = Stage(rig, SOAK)
    seconds = options.minutes * 60
    rate = options.rate or half_load(stage)
    happenings = schedule(stage, seconds)
    say(f"{rate:.0f} requests a second for {options.minutes:g} minutes, {len(happenings)} faults and changes")
    samples = Samples(stage, options.results / "soak.csv")
    happenings.append(Happening(0, samples.take, options.every, seconds))
    result = drive(
        rig, stage.gateway.address, happenings, mix=mix(stage), rate=f"{rate:.1f}", arrivals="poisson",
        secs=seconds, pids=stage.gateway.pid, max_in_flight=5000, slice_secs=10, timeout_secs=30,
    )  # fmt: skip
    left = settled(stage.gateway)
    samples.file.close()
    levels = {name: level(samples.points(name), *ALLOWED[name]) for name in ALLOWED}
    figures = {
        "lost": lost(result),
        "silent": silent(result),
        "error_events": result["failures"].get("error_event", 0),
        "not_started": result["not_started"],
        "in_flight_after": left,
        "changes": stage.counts.get("changes", 0),
        "refused_changes": stage.counts.get("refused changes", 0),
    }
    nothing = ("lost", "silent", "not_started", "in_flight_after", "refused_changes")
    kind |= {
        "minutes": options.minutes,
        "rate": round(rate, 1),
        "faults": len(FAULTS) * int(seconds // ROUND_SECS),
        "result": kept(result),
        "figures": figures,
        "levels": levels,
        "first_bad": result["first_bad"],
        "held": all(entry["flat"] for entry in levels.values()) and not any(figures[name] for name in nothing),
    }
    for line in tables(kind):
        say(line)
    save(options.results, "soak", kind)
    return kind["held"]


def level(points, allowance, unit):
    half = last_half(points)
    return {
        "first": points[0][1] if points else None,
        "middle": half[0][1] if half else None,
        "last": half[-1][1] if half else None,
        "most": max((value for _, value in points), default=None),
        "growth": round(growth(points), 2),
        "unit": unit,
        "flat": bool(points) and is_flat(points, allowance),
    }


def tables(kind):
    """The record as Markdown."""
    figures = kind["figures"]
    yield (
        f"\n{kind['result']['ok']:,} good answers of {kind['result']['started']:,} in {kind['minutes']:g} minutes at "
        f"{kind['rate']:g} requests a second, with {kind['faults']} faults and {figures['changes']} changes of experts; "
        f"{kind['result']['left']:,} clients left in the middle of a stream."
    )
    yield (
        f"Lost before a first byte: {figures['lost']}. Streams that broke off in silence: {figures['silent']}. "
        f"Streams ended by an error event because their expert failed: {figures['error_events']}. "
        f"In progress afterwards: {figures['in_flight_after']:g}.\n"
    )
    yield from table(
        ["what", "first", "at half time", "last", "most", "gained in the last half", ""],
        [
            [name, e["first"], e["middle"], e["last"], e["most"], f"{e['growth']:g} {e['unit']}", "flat" if e["flat"] else "NOT FLAT"]
            for name, e in kind["levels"].items()
        ],
    )
