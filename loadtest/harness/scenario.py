"""Runs scenarios: starts what one names, drives its loads in order, checks its thresholds."""

import json
import time

from .common import Failure, save, say, table
from .load import Happening, drive, kept
from .machine import record
from .rig import experts, free_port, static
from .scenarios import SCENARIOS

NAMES = tuple(SCENARIOS)


class Stage:
    """A scenario's processes, and what its loads and faults may refer to."""

    def __init__(self, rig, scenario):
        self.rig = rig
        self.scenario = scenario
        self.mocks = {name: rig.mock(*options) for name, options in scenario.mocks.items()}
        first = next(iter(self.mocks.values()))
        self.direct = first.address, first.process.pid
        self.floor = None
        if scenario.with_floor:
            process, address = rig.floor(first.address)
            self.floor = address, process.pid
        self.port = free_port()
        self.gateway = None
        self.keys = None
        self.counts = {}
        if not scenario.late_start:
            self.start_gateway()

    def start_gateway(self):
        endpoints = {name: [self.mocks[m].url() for m in mocks] for name, mocks in self.scenario.experts.items()}
        with_limits = {name: (urls, self.scenario.expert_settings) for name, urls in endpoints.items()}
        config = f"""
router: {{load: never}}
telemetry: {{log: warn}}
upstream: {{allow_private: ["127.0.0.0/8"]}}
{experts(**with_limits)}
{static(*endpoints)}
"""
        self.gateway = self.rig.gateway(config, self.port, self.scenario.data_settings)

    def restart_gateway(self):
        if self.gateway:
            self.gateway.process.terminate()
            self.gateway.process.wait()
        self.start_gateway()

    def need_keys(self, count):
        self.keys = self.gateway.create_keys(count)
        if self.keys is None:
            raise Skip("this build has no API keys (POST /admin/v1/keys answers 404)")

    def churn(self):
        """Adds or removes one of three guests, in turn."""
        number = self.counts.get("changes", 0)
        guest = f"guest-{number // 2 % 3}"
        if number % 2 == 0:
            url = next(iter(self.mocks.values())).url()
            spec = {"id": guest, "backend": {"kind": "llm", "endpoints": [{"url": url}]}}
            status, text = self.gateway.admin("POST", "experts", spec)
        else:
            status, text = self.gateway.admin("DELETE", f"experts/{guest}")
        self.counts["changes"] = number + 1
        if not 200 <= status < 300:
            self.counts["refused changes"] = self.counts.get("refused changes", 0) + 1
            say(f"  a change answers {status}: {text[:200]}")

    def mix(self, name, parts):
        """Writes a mix file; parts are (name, weight, body, more fields)."""
        entries = []
        for part, weight, body, more in parts:
            file = self.rig.write(f"{name}-{part}.json", body)
            entries.append({"name": part, "weight": weight, "file": file, **more})
        return self.rig.write(f"{name}-mix.json", json.dumps(entries))


class Skip(Exception):
    """The scenario cannot be run with this build; the message says why."""


def one(rig, name):
    """Runs one scenario and returns its record."""
    scenario = SCENARIOS[name]
    say(f"\n{name}: {scenario.what}")
    kind = record(f"scenario {name}", rig.options)
    stage = Stage(rig, scenario)
    results = {}
    try:
        if scenario.prepare:
            scenario.prepare(stage)
        for load in scenario.loads:
            results[load.name] = run_load(stage, load, results)
    except Skip as reason:
        say(f"  skipped: {reason}")
        return kind | {"skipped": str(reason)}
    finally:
        processes = [m.process for m in stage.mocks.values()] + ([stage.gateway.process] if stage.gateway else [])
        for process in processes:
            process.kill()
    figures, checks = {}, []
    for check in scenario.checks:
        value = check.read(results, stage)
        figures[check.name] = value
        held = value is not None and (check.most is None or value <= check.most) and (check.least is None or value >= check.least)
        checks.append({"name": check.name, "value": value, "most": check.most, "least": check.least, "held": held})
    for line in tables(checks):
        say(line)
    return kind | {
        "what": scenario.what,
        "secs": rig.options.secs,
        "results": {name: kept(result) for name, result in results.items()},
        "figures": figures,
        "checks": checks,
        "held": all(check["held"] for check in checks),
    }


def run_load(stage, load, results):
    settings = {key: value(results) if callable(value) else value for key, value in load.settings.items()}
    secs = stage.rig.options.secs
    if load.body:
        made = load.body(stage)
        settings["mix" if made.endswith("-mix.json") else "body"] = made
    if load.keys:
        settings["keys"] = stage.rig.write("keys.txt", "\n".join(stage.keys[: load.keys]))
    if "rate" in settings:
        settings["rate"] = schedule(settings["rate"], secs)
    if load.before:
        load.before(stage)
    if load.through == "gateway":
        address = f"127.0.0.1:{stage.port}"
        pid = stage.gateway.pid if stage.gateway else None
    else:
        address, pid = getattr(stage, load.through)
    if pid:
        settings["pids"] = pid
    happenings = [
        Happening(at * secs, lambda act=act: act(stage), every, until and until * secs)
        for at, act, every, until in load.faults
    ]
    result = drive(stage.rig, address, happenings, secs=secs, **settings)
    if load.after:
        load.after(stage)
    if stage.gateway and load.through == "gateway":
        result["in_flight_after"] = settled(stage.gateway)
    lost = sum(v for k, v in result["statuses"].items() if k != "200") + result["errors"]
    say(
        f"  {load.name:<12} {result['ok']:>8} good, {lost} not, {result['not_started']} not sent, "
        f"{result['rps']:.0f}/s, p50 {result['latency']['p50_us']:.0f} us, p99 {result['latency']['p99_us']:.0f} us"
        + (f"  first failure: {result['first_bad'][:160]}" if result["first_bad"] else "")
    )
    return result


def schedule(rate, secs):
    """A rate, or a list of (rate, share of the window), as gwload writes it."""
    if isinstance(rate, list):
        return ",".join(f"{max(r, 1):.1f}@{share * secs:.3f}" for r, share in rate)
    return f"{max(rate, 1):.1f}"


def settled(gateway, patience=10.0):
    """Requests that the gateway still counts as in progress when nobody asks any more."""
    deadline = time.monotonic() + patience
    while (left := gateway.in_flight()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def tables(checks):
    rows = []
    for check in checks:
        bound = f"at most {check['most']:g}" if check["most"] is not None else f"at least {check['least']:g}"
        shown = "-" if check["value"] is None else f"{check['value']:.4g}"
        rows.append([check["name"], shown, bound, "holds" if check["held"] else "MISSED"])
    yield from table(["threshold", "measured", "bound", ""], rows)


def run(rig, names):
    names = NAMES if "all" in names else names
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise Failure(f"there is no scenario {', '.join(unknown)}; there are {', '.join(NAMES)}")
    held = True
    for name in names:
        result = one(rig, name)
        held &= result.get("held", True)
        save(rig.options.results, f"scenario-{name}", result)
    return held
