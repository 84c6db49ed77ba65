"""A recorded sequence of experts, replayed through the gateway in front of engines that sleep, more than fit.

One process for each expert (`mock-expert`, with the routes of vLLM's sleep mode), Poisson arrivals from a seed, and each
way of deciding in turn: the same requests at the same moments. What is held against each other are loads, waits and what
was lost; the engines' own records say how many were awake at a time.
"""

import csv
import gzip
import http.client
import json
import os
import pathlib
import queue
import random
import re
import statistics
import threading
import time

from .common import Failure, save, say, table
from .machine import record
from .rig import http as call

ANSWER_MS = 50
WAKE_MS = 150
GB = 10**9

# The first is what the paper on Composition of Experts does: first come, first served, the least recently used goes.
POLICIES = {
    "FCFS LRU": "{order: kept, prefetch: false, victims: recency, executors: 8, bound_us: 60000000}",
    "guildhall, order kept": "{order: kept, executors: 8}",
    "guildhall": "{executors: 8}",
}


def read(path, skip, count):
    """The experts of a trace's requests, in order: JSON lines with `expert`, or a table with `model` (and `loras`)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        if ".csv" in path.name:
            rows = (row for row in csv.DictReader(file) if row.get("model"))
            names = ["-".join(filter(None, ["m" + row["model"], row.get("loras")])) for row in rows]
        else:
            names = [json.loads(line)["expert"] for line in file if line.strip()]
    names = names[skip : skip + count]
    if not names:
        raise Failure(f"{path} has no requests after the first {skip}")
    return [re.sub(r"[^a-zA-Z0-9.-]+", "-", name) for name in names]


def default_trace():
    data = os.environ.get("GUILDHALL_DATA")
    return pathlib.Path(data) / "traces" / "gentd26_requests.csv.gz" if data else None


def configuration(mocks, hbm, policy):
    size = json.dumps({"hbm": 10 * GB, "dram": 10 * GB})
    experts = "\n".join(
        f"  - {{id: {name}, backend: {{kind: llm, endpoints: [{{url: '{mock.url()}'}}], model: {name}}}}}"
        for name, mock in mocks.items()
    )
    pool = "\n".join(f"      - {{id: {name}, bytes: {size}, answer_ms: {ANSWER_MS}}}" for name in mocks)
    engines = "\n".join(f"            {name}: {{url: 'http://{mock.address}'}}" for name, mock in mocks.items())
    return f"""
router: {{load: never}}
telemetry: {{log: warn, access_log: off}}
experts:
{experts}
routes:
  - {{id: auto, policy: {{kind: static, order: [{{expert: {next(iter(mocks))}}}]}}}}
pools:
  - id: gpu0
    tiers: [{{tier: hbm, capacity: {hbm * 10}GB}}, {{tier: dram, capacity: {len(mocks) * 10}GB}}]
    links: [{{from: dram, to: hbm, bytes_per_second: {10 * GB / (WAKE_MS / 1000):.0f}}}]
    policy: {policy}
    experts:
{pool}
    drivers:
      - driver:
          kind: vllm_sleep
          engines:
{engines}
"""


class Client:
    """Sends requests at their moments, on connections that are used again."""

    def __init__(self, address):
        self.host, port = address.split(":")
        self.port = int(port)
        self.free = queue.SimpleQueue()
        # Status, and the seconds that were waited for weights.
        self.results = []

    def send(self, name):
        try:
            connection = self.free.get_nowait()
        except queue.Empty:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "hello"}]})
        try:
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            weights = re.search(r"weights;dur=([0-9.]+)", answer.headers.get("server-timing", ""))
            self.results.append((answer.status, float(weights[1]) / 1000 if weights else 0.0))
            self.free.put(connection)
        except (OSError, http.client.HTTPException) as error:
            self.results.append((0, 0.0))
            say(f"  a request failed: {error}")

    def replay(self, names, arrivals):
        threads = []
        began = time.monotonic()
        for name, at in zip(names, arrivals):
            time.sleep(max(0.0, began + at - time.monotonic()))
            thread = threading.Thread(target=self.send, args=(name,))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        return time.monotonic() - began


def most_awake(spans):
    """The most engines that held memory at a time."""
    now = time.time_ns()
    edges = [(span["from_ns"], 1) for span in spans] + [(span["to_ns"] or now, -1) for span in spans]
    most = held = 0
    for _, step in sorted(edges):
        held += step
        most = max(most, held)
    return most


def engines(mocks):
    """What the engines saw."""
    return {name: json.loads(call("GET", f"http://{mock.address}/__stats")[1])["sleep"] for name, mock in mocks.items()}


def one(rig, mocks, name, policy, names, arrivals):
    for mock in mocks.values():
        call("POST", f"http://{mock.address}/sleep?level=1&mode=wait")
    before = engines(mocks)
    gateway = rig.gateway(configuration(mocks, rig.options.hbm, policy))
    client = Client(gateway.address)
    took = client.replay(names, arrivals)
    gateway.process.terminate()
    gateway.process.wait()
    after = engines(mocks)
    spans = [span for m in mocks for span in after[m]["awake"][len(before[m]["awake"]) :]]
    waits = sorted(wait for status, wait in client.results if status == 200)
    if not waits:
        raise Failure(f"{name}: no request was answered")
    result = {
        "loads_per_1000": 1000 * sum(after[m]["wakes"] - before[m]["wakes"] for m in mocks) / len(names),
        "hit_rate": sum(wait < 0.001 for wait in waits) / len(waits),
        "wait_ms_mean": 1000 * statistics.fmean(waits),
        "wait_s_p99": waits[int(0.99 * (len(waits) - 1))],
        "wait_s_longest": waits[-1],
        "not_answered": len(names) - len(waits),
        "met_asleep": sum(after[m]["waited"] - before[m]["waited"] for m in mocks),
        "most_awake": most_awake(spans),
        "took_s": took,
    }
    say(f"  {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in result.items()))
    return result


def run(rig):
    """Replays; False when a request was lost, more engines were awake than fit, or loads were not saved."""
    options = rig.options
    path = options.trace or default_trace()
    if path is None:
        say("skipped: no trace; give --trace FILE, or the folder with traces/ in GUILDHALL_DATA")
        return True
    names = read(path, options.skip, options.requests)
    experts = sorted(set(names))
    chance = random.Random(7)
    arrivals, at = [], 0.0
    for _ in names:
        at += chance.expovariate(options.rate)
        arrivals.append(at)
    say(f"{len(names)} requests of {path.name} for {len(experts)} experts, {options.hbm} fit, {options.rate:g} a second")
    asleep = ["--wakes-in", f"{WAKE_MS}ms", "--asleep", "--latency", f"{ANSWER_MS}ms", "--tokens", "20"]
    mocks = {name: rig.mock(*asleep) for name in experts}
    results = {name: one(rig, mocks, name, policy, names, arrivals) for name, policy in POLICIES.items()}
    result = {
        **record("residency", options),
        "trace": path.name,
        "skip": options.skip,
        "requests": len(names),
        "experts": len(experts),
        "hbm_experts": options.hbm,
        "rate": options.rate,
        "answer_ms": ANSWER_MS,
        "wake_ms": WAKE_MS,
        "policies": results,
    }
    save(options.results, "residency", result)
    for line in tables(result):
        say(line)
    sound = all(
        one["not_answered"] == 0 and one["most_awake"] <= options.hbm and one["met_asleep"] == 0
        for one in results.values()
    )
    return sound and results["guildhall"]["loads_per_1000"] <= results["FCFS LRU"]["loads_per_1000"]


def tables(result):
    """The result as the report shows it."""
    rows = [
        ("loads per 1,000 requests", "loads_per_1000", "{:.1f}"),
        ("requests whose expert was ready", "hit_rate", "{:.1%}"),
        ("wait for weights, mean (ms)", "wait_ms_mean", "{:.0f}"),
        ("the same, 99 % (s)", "wait_s_p99", "{:.2f}"),
        ("the same, longest (s)", "wait_s_longest", "{:.2f}"),
        ("not answered", "not_answered", "{}"),
        ("requests that met a sleeping engine", "met_asleep", "{}"),
        ("engines that held memory at a time, at most", "most_awake", "{}"),
    ]
    policies = result["policies"].values()
    cells = [[text, *(form.format(one[key]) for one in policies)] for text, key, form in rows]
    yield (
        f"{result['requests']} requests of {result['trace']} for {result['experts']} experts, {result['rate']:g} a second; "
        f"{result['hbm_experts']} fit. An answer takes {result['answer_ms']} ms and waking up {result['wake_ms']} ms "
        "(both declared to the mocks); all else is measured."
    )
    yield ""
    yield from table(["", *result["policies"]], cells)
