#!/usr/bin/env python3
"""Measures Guildhall: what a hop costs, how it behaves when things go wrong, how it stands beside its peers.

Python's standard library only; Linux, because CPU time and memory come from /proc. With two CPUs or more the
gateway has CPU 0 for itself; mocks and the client share CPU 1.

Build first: cargo build --release -p gateway -p mock-expert -p loadtest --bins   (or: make load)
"""

import argparse
import os
import pathlib
import signal
import sys

from harness import hop, memory, peers, report, residency, scenario, soak
from harness.bars import missed
from harness.common import RESULTS, ROOT, Failure, say
from harness.rig import Rig


def parser():
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--bin", type=pathlib.Path, default=target, help="folder of the built programs")
    shared.add_argument("--gateway", type=pathlib.Path, help="the gateway's program, where it lies elsewhere")
    shared.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder for the JSON results")
    shared.add_argument("--secs", type=float, help="measured seconds of each phase")
    shared.add_argument("--rounds", type=int, help="interleaved rounds")
    shared.add_argument("--conc", type=int, default=64, help="connections of closed loops")
    main = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, text, secs=4.0, rounds=3):
        added = commands.add_parser(name, help=text, description=text, parents=[shared])
        added.set_defaults(default_secs=secs, default_rounds=rounds)
        return added

    one = command("hop", "cost of a request beside a bare proxy")
    one.add_argument("--new-conc", type=int, default=16, help="connections when every prompt is new")
    one.add_argument("--idle-secs", type=float, default=5.0, help="seconds before idle memory is read")
    one.add_argument("--no-router", dest="router", action="store_false", help="leave out what needs the router model")
    one.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    one = command("scenario", "behaviour under load and faults, with thresholds", secs=20.0, rounds=1)
    one.add_argument("names", nargs="+", metavar="NAME", help=f"all, or some of: {', '.join(scenario.NAMES)}")
    one = command("peers", "side by side with other gateways")
    one.add_argument("--install", action="store_true", help="install them into .guildhall/peers and stop there")
    one.add_argument("--only", type=lambda text: text.split(","), help="names, separated by commas")
    one = command("soak", "half load with faults for a long time", rounds=1)
    one.add_argument("--minutes", type=float, default=30.0)
    one.add_argument("--rate", type=float, help="requests a second; half of what is measured first when absent")
    one.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    one = command("memory", "a million requests, then ten thousand streams at once", rounds=1)
    one.add_argument("--requests", type=int, default=1_000_000)
    one.add_argument("--streams", type=int, default=10_000)
    one = command("residency", "a recorded sequence of experts, more than fit, beside first come, first served, LRU", rounds=1)
    one.add_argument("--trace", type=pathlib.Path, help="JSON lines or a table, as for `guildhall sim tiers`")
    one.add_argument("--skip", type=int, default=0, help="requests of the trace to leave out first")
    one.add_argument("--requests", type=int, default=3000)
    one.add_argument("--hbm", type=int, default=8, help="experts that fit")
    one.add_argument("--rate", type=float, default=50.0, help="requests a second")
    command("report", "write loadtest/REPORT.md from the results")
    return main


def run(options):
    """Does what was asked; False when a threshold was missed."""
    if options.command == "report":
        return report.write(options)
    if options.command == "peers" and options.install:
        return peers.install(options)
    with Rig(options) as rig:
        if options.command == "hop":
            result = hop.hop(rig)
            return not options.check or not missed({"hop": result})
        if options.command == "scenario":
            return scenario.run(rig, options.names)
        return {"peers": peers.run, "soak": soak.run, "memory": memory.run, "residency": residency.run}[options.command](rig)


def main():
    options = parser().parse_args()
    options.secs = options.secs or options.default_secs
    options.rounds = options.rounds or options.default_rounds
    options.gateway = options.gateway or options.bin / "guildhall"
    options.pinned = hasattr(os, "sched_setaffinity") and {0, 1} <= os.sched_getaffinity(0)
    if options.pinned:
        # Inherited by everything that is not placed elsewhere; CPU 0 is the gateway's alone.
        os.sched_setaffinity(0, {1})
    else:
        say("This machine cannot give the gateway a CPU of its own: ratios will be less sharp.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        held = run(options)
    except Failure as failure:
        sys.exit(f"run.py: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
