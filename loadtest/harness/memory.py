"""Resident memory after a million requests and with ten thousand streams at once: is it flat?"""

import resource
import time

from . import bodies
from .common import save, say, table
from .load import Happening, drive, kept
from .machine import record, sample
from .scenario import Stage, settled
from .scenarios import Scenario, small
from .verdict import broken, growth, is_flat

# Streams of twenty seconds, so that all are open together.
TOKENS, GAP_MS = 100, 200
STREAM_SECS = TOKENS * GAP_MS / 1000
# Memory may gain so many KiB over the last half, or 2 %, and still be called flat.
ALLOWANCE_KIB = 1024
# A second round of streams may take this much more than the first.
AGAIN = 1.05
# Each stream takes two sockets of the gateway; these are left for everything else.
SPARE_FILES = 200

MEMORY = Scenario(
    what="memory",
    loads=[],
    checks=[],
    mocks={"a": (), "slow": ("--gap", f"{GAP_MS}ms", "--tokens", str(TOKENS))},
    experts={"one": ("a",), "slow": ("slow",)},
    data_settings=", max_in_flight: 20000",
)


def most_streams(wanted):
    """As many as the limit of open files lets the gateway hold: two sockets each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = (hard - SPARE_FILES) // 2 if hard != resource.RLIM_INFINITY else wanted
    return min(wanted, possible)


class Watch:
    """Resident memory over time, and the most requests that were open at once."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.points = []
        self.at_once = 0

    def take(self):
        seen = sample(self.gateway.pid)
        if seen:
            self.points.append((time.monotonic(), seen["rss_kib"]))
            self.at_once = max(self.at_once, int(self.gateway.in_flight()))

    def every(self, seconds):
        return Happening(0, self.take, seconds, float("inf"))


def run(rig):
    options = rig.options
    kind = record("memory", options)
    streams = most_streams(options.streams)
    stage = Stage(rig, MEMORY)
    pid = stage.gateway.pid
    time.sleep(3)
    idle = sample(pid)["rss_kib"]
    phases = []

    def phase(name, **load):
        watch = Watch(stage.gateway)
        result = drive(rig, stage.gateway.address, [watch.every(0.5)], pids=pid, **load)
        if broken(result):
            say(f"{name}: {broken(result)} failed: {result['first_bad']}")
        left = settled(stage.gateway)
        steady = watch.points[2:]
        phases.append(
            {
                "name": name,
                "answers": sum(result["statuses"].values()),
                "failed": broken(result),
                "at_once": watch.at_once,
                "in_flight_after": left,
                "peak_rss_kib": max(rss for _, rss in watch.points),
                "after_rss_kib": sample(pid)["rss_kib"],
                "growth_kib": round(growth(steady)),
                "flat": is_flat(steady, ALLOWANCE_KIB),
                "result": kept(result),
            }
        )
        say(f"{name}: peak {phases[-1]['peak_rss_kib'] / 1024:.1f} MiB, gained {phases[-1]['growth_kib']} KiB in the last half")

    body = rig.write("slow.json", bodies.stream("slow-route", TOKENS))
    # The time is only a bound; the number of requests ends the phase.
    phase(f"{options.requests:,} requests", body=small(stage), conc=options.conc, requests=options.requests, secs=3600)
    ramp = min(10.0, streams / 500)
    for number in ("first", "second"):
        phase(
            f"{streams:,} streams at once, {number} time", body=body, conc=streams, requests=streams,
            warm_secs=ramp + 1, secs=STREAM_SECS, stagger_ms=int(ramp * 1000), timeout_secs=120,
        )  # fmt: skip
    time.sleep(3)
    first, second = phases[1]["peak_rss_kib"], phases[2]["peak_rss_kib"]
    kind |= {
        "idle_rss_kib": idle,
        "streams": streams,
        "streams_wanted": options.streams,
        "phases": phases,
        "after_rss_kib": sample(pid)["rss_kib"],
        "again": round(second / first, 3),
        # A stream's memory rises while streams open; what counts there is that the second time takes no more.
        "flat": phases[0]["flat"] and second <= first * AGAIN and not any(p["failed"] or p["in_flight_after"] for p in phases),
    }
    for line in tables(kind):
        say(line)
    save(options.results, "memory", kind)
    return kind["flat"]


def tables(kind):
    """The record as Markdown."""
    mib = lambda kib: f"{kib / 1024:.1f}"
    yield ""
    yield from table(
        ["phase", "answers", "failed", "open at once", "peak MiB", "after MiB", "gained in the last half, MiB"],
        [
            [p["name"], f"{p['answers']:,}", p["failed"], f"{p['at_once']:,}", mib(p["peak_rss_kib"]), mib(p["after_rss_kib"]), mib(p["growth_kib"])]
            for p in kind["phases"]
        ],
    )
    yield (
        f"\n{mib(kind['idle_rss_kib'])} MiB idle at the start, {mib(kind['after_rss_kib'])} MiB at the end. The second round of "
        f"streams took {kind['again']} times the first. {'Flat.' if kind['flat'] else 'NOT FLAT, or with failures.'}"
    )
    if kind["streams"] < kind["streams_wanted"]:
        yield (
            f"{kind['streams']:,} streams instead of {kind['streams_wanted']:,}: a stream takes two sockets of the gateway, and "
            "this machine's limit of open files allows no more."
        )
