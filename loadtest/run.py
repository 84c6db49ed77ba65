#!/usr/bin/env python3
"""Load scenarios. Standard library only.

usage: loadtest/run.py hop [--rounds 3] [--secs 4] [--check] [--out FILE] ...

hop   What the gateway adds to a request. The mock expert answers at once; requests go to it directly, through
      a bare hyper proxy (the floor), through the gateway's route without routing (policy static), and through
      its route with routing (policy coe), once with a prompt that the decision cache knows and once with
      prompts that are all different. Rounds are interleaved. On Linux with two CPUs the proxy or gateway has
      CPU 0 for itself; the mock and the client share CPU 1.

Build first: cargo build --release -p gateway -p mock-expert -p loadtest --bins   (or: make load)
"""

import argparse
import json
import os
import pathlib
import platform
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"

# What must hold: the hop without routing against the floor, and what routing costs besides the encoder.
MOST_TIMES_FLOOR = 1.5
MOST_BESIDES_ENCODER_US = 150.0

SYSTEM = "You are a careful assistant that answers briefly and says so when it does not know."
QUESTION = (
    "Explain in a few sentences what an LLM router gateway does, how it decides between a small and a large model "
    "for one prompt, what it must keep in mind about latency, cost and quality, and how it should act when one of "
    "the backends is slow or fails. "
)


class Failure(Exception):
    """The run cannot go on or does not count; the message says why."""


def body(model, text):
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    request = {"model": model, "messages": messages, "temperature": 0.2, "max_tokens": 256}
    return json.dumps(request, separators=(",", ":"))


def kilobyte(model):
    """The usual request of 1,024 bytes."""
    bare = len(body(model, ""))
    return body(model, (QUESTION * 8)[: 1024 - bare])


class Rig:
    """The processes of a scenario, stopped together."""

    def __init__(self, binaries, pinned):
        self.binaries = binaries
        self.pinned = pinned
        self.folder = tempfile.TemporaryDirectory(prefix="guildhall-load-")
        self.processes = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def binary(self, name):
        path = self.binaries / name
        if not path.exists():
            raise Failure(f"{path} is missing; build it as the head of this file says")
        return str(path)

    def on(self, cpu):
        """Puts a process on its CPU before it counts how many it has."""
        return (lambda: os.sched_setaffinity(0, {cpu})) if self.pinned else None

    def start(self, cpu, *command, **options):
        process = subprocess.Popen(command, preexec_fn=self.on(cpu), **options)
        self.processes.append(process)
        return process

    def start_listening(self, cpu, *command):
        """Starts a program that prints the address it listens on."""
        process = self.start(cpu, *command, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise Failure(f"{command[0]} did not start; its message is above")
        return process, line.split()[-1]

    def start_gateway(self, config):
        """Starts the gateway and waits until it is ready."""
        data, admin = free_port(), free_port()
        text = f"""
data: {{listen: "{HOST}:{data}"}}
admin: {{listen: "{HOST}:{admin}", token: "{secrets.token_urlsafe(24)}"}}
store: {{path: "{self.path("store.redb")}"}}
{config}"""
        file = self.write("guildhall.yaml", text)
        log = open(self.path("guildhall.log"), "wb")
        process = self.start(
            0, self.binary("guildhall"), "serve", "--config", file, stdout=log, stderr=log, cwd=ROOT
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if get(f"http://{HOST}:{admin}/readyz")[0] == 200:
                return process, f"{HOST}:{data}", f"http://{HOST}:{admin}"
            time.sleep(0.05)
        with open(self.path("guildhall.log"), errors="replace") as said:
            raise Failure("guildhall did not become ready:\n" + said.read()[-2000:])


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def counter(admin, name):
    """The sum of a counter over its labels; 0 while it has none."""
    _, text = get(f"{admin}/metrics")
    values = re.findall(rf"^\w*{name}_total(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for value in values)


def probe(address, text):
    """One request; returns the answer's headers."""
    request = urllib.request.Request(
        f"http://{address}/v1/chat/completions", text.encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.headers
    except urllib.error.HTTPError as error:
        raise Failure(f"{address} answers {error.code}: {error.read().decode(errors='replace')[:500]}") from None


class Peer:
    """One way to send a request: where to, what, and whose CPU counts."""

    def __init__(self, name, address, file, process, connections, threads=""):
        self.name = name
        self.address = address
        self.file = file
        self.process = process
        self.connections = connections
        self.threads = threads
        self.results = []

    def measure(self, rig, options, number):
        command = [
            rig.binary("gwload"), "--addr", self.address, "--body", self.file, "--label", self.name,
            "--conc", str(self.connections), "--secs", str(options.secs), "--warm-secs", str(options.warm_secs),
            "--pids", str(self.process.pid), "--first-number", str(number),
        ]  # fmt: skip
        if self.threads:
            command += ["--threads-named", self.threads]
        ran = subprocess.run(command, preexec_fn=rig.on(1), capture_output=True, text=True, timeout=300)
        if ran.returncode != 0:
            raise Failure(f"gwload failed: {ran.stderr.strip()}")
        result = json.loads(ran.stdout)
        self.results.append(result)
        return result

    def middle(self, key):
        return statistics.median(result[key] for result in self.results)

    def broken(self):
        return [r for r in self.results if r["bad"] or r["errors"] or r["hung"] or not r["ok"]]


def hop_config(mock):
    bundle = ROOT / "router-models" / "default"
    expert = "backend: {kind: llm, endpoints: [{url: \"http://%s/v1\"}]}, skills: {%s}"
    return f"""
router: {{load: always, bundle: "{bundle}"}}
telemetry: {{log: warn}}
experts:
  - {{id: one, {expert % (mock, "coding: 0.9, math: 0.5")}}}
  - {{id: two, {expert % (mock, "coding: 0.5, math: 0.9")}}}
routes:
  - id: plain
    policy: {{kind: static, order: [{{expert: one}}]}}
    default: one
  - id: auto
    policy: {{kind: coe, lambda: 0.0}}
    default: one
"""


def hop(options):
    with Rig(options.bin, options.pinned) as rig:
        mock, mock_address = rig.start_listening(
            1, rig.binary("mock-expert"), "--listen", f"{HOST}:0", "--record", "0"
        )
        floor, floor_address = rig.start_listening(
            0, rig.binary("floor-proxy"), "--listen", f"{HOST}:0", "--upstream", mock_address
        )
        gateway, address, admin = rig.start_gateway(hop_config(mock_address))
        plain = rig.write("plain.json", kilobyte("plain"))
        known = rig.write("known.json", kilobyte("auto"))
        # Short, so that the encoder does not hide the rest; gwload puts a running number in.
        new = rig.write("new.json", body("auto", "How do I sort a list of ######## numbers in Python?"))
        peers = [
            Peer("direct", mock_address, plain, mock, options.conc),
            Peer("floor", floor_address, plain, floor, options.conc),
            Peer("static", address, plain, gateway, options.conc),
            Peer("auto, known prompt", address, known, gateway, options.conc),
            Peer("auto, new prompts", address, new, gateway, options.new_conc, threads="encoder"),
        ]
        for file, path in ((plain, "upstream"), (known, "upstream"), (new, "upstream")):
            with open(file) as text:
                headers = probe(address, text.read())
            if headers.get("x-guildhall-path") != path:
                raise Failure(f"the gateway took the path {headers.get('x-guildhall-path')}, not {path}")
        failures = counter(admin, "router_failures")
        for turn in range(options.rounds):
            shift = turn % len(peers)
            for place, peer in enumerate(peers[shift:] + peers[:shift]):
                # Far from every earlier number, so that no prompt is asked twice.
                number = (turn * len(peers) + place + 1) * 1_000_000
                result = peer.measure(rig, options, number)
                say(
                    f"round {turn + 1}  {peer.name:<19} {result['cpu_s_per_1k']:.4f} CPU s/1k  "
                    f"{result['rps']:>8.0f} req/s  p50 {result['p50_us']:>8.0f} us"
                    + (f"  FAILED: {result['first_bad']}" if peer.results[-1] in peer.broken() else "")
                )
        failures = counter(admin, "router_failures") - failures
        return hop_report(options, peers, failures)


def ratios(peer, floor):
    """The ratio to the floor inside each round: what a noisy neighbour moves least."""
    return [a["cpu_s_per_1k"] / b["cpu_s_per_1k"] for a, b in zip(peer.results, floor.results)]


def hop_report(options, peers, router_failures):
    _, floor, static, known, new = peers
    if any(peer.broken() for peer in peers):
        raise Failure("a run with failed requests does not count; see above")
    if router_failures:
        raise Failure(f"the router was late or broken for {router_failures:.0f} requests; lower --new-conc")
    say(f"\nhop: {options.rounds} rounds of {options.secs} s, {machine(options)}\n")
    say("| what | connections | CPU s per 1,000 requests | x floor (range) | req/s | p50 us | p99 us |")
    say("|---|---|---|---|---|---|---|")
    for peer in peers:
        times = ratios(peer, floor)
        say(
            f"| {peer.name} | {peer.connections} | {peer.middle('cpu_s_per_1k'):.4f} "
            f"| {statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f}) | {peer.middle('rps'):.0f} "
            f"| {peer.middle('p50_us'):.0f} | {peer.middle('p99_us'):.0f} |"
        )
    times = statistics.median(ratios(static, floor))
    # Seconds per thousand requests are milliseconds per request.
    encoder = new.middle("named_cpu_s_per_1k") * 1e3
    besides = statistics.median(r["cpu_s_per_1k"] - r["named_cpu_s_per_1k"] for r in new.results) * 1e3
    cached = known.middle("cpu_s_per_1k") * 1e3
    say(f"\nnew prompts: {encoder:.0f} us of CPU per request in the encoder's threads, {besides:.0f} us besides")
    checks = [
        (f"without routing at most {MOST_TIMES_FLOOR} x floor", times, f"{times:.2f} x", MOST_TIMES_FLOOR),
        (
            f"with routing at most {MOST_BESIDES_ENCODER_US:.0f} us besides the encoder, new prompts",
            besides, f"{besides:.0f} us", MOST_BESIDES_ENCODER_US,
        ),
        (
            f"with routing at most {MOST_BESIDES_ENCODER_US:.0f} us, known prompt",
            cached, f"{cached:.0f} us", MOST_BESIDES_ENCODER_US,
        ),
    ]  # fmt: skip
    held = True
    for what, value, shown, most in checks:
        say(f"{'holds ' if value <= most else 'MISSED'}  {what}: {shown}")
        held &= value <= most
    if options.out:
        with open(options.out, "a") as file:
            for peer in peers:
                for turn, result in enumerate(peer.results):
                    file.write(json.dumps({"scenario": "hop", "round": turn, **result}) + "\n")
    return held


def machine(options):
    place = "gateway alone on CPU 0" if options.pinned else "not pinned"
    return f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {place}"


def say(text):
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
    parser.add_argument("scenario", choices=["hop"])
    parser.add_argument("--bin", type=pathlib.Path, default=target, help="folder of the programs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--secs", type=float, default=4.0, help="measured seconds of each run")
    parser.add_argument("--warm-secs", type=float, default=1.0)
    parser.add_argument("--conc", type=int, default=64, help="connections")
    parser.add_argument("--new-conc", type=int, default=16, help="connections when every prompt is new")
    parser.add_argument("--out", help="append every run's result to this file, one JSON object a line")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    options = parser.parse_args()
    can_pin = hasattr(os, "sched_setaffinity") and {0, 1} <= os.sched_getaffinity(0)
    options.pinned = can_pin
    if not can_pin:
        say("This machine cannot give the gateway a CPU of its own: ratios will be less sharp.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        held = hop(options)
    except Failure as failure:
        sys.exit(f"run.py: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1 if options.check and not held else 0)


if __name__ == "__main__":
    main()
