"""Side by side with other gateways: the same mock, the same bodies, the same features on both sides.

`peers --install` puts those that come from package registries into .guildhall/peers, each in an environment of
its own. A peer that is not there is left out, and the result says so."""

import json
import os
import pathlib
import secrets
import shutil
import subprocess
import time

from . import bodies
from .common import HOST, ROOT, Failure, median, ratio, save, say, table
from .load import drive, kept
from .machine import output, record, sample
from .rig import Rig, experts, free_port, http, static, stop
from .verdict import broken

HOME = ROOT / ".guildhall" / "peers"
READY_WITHIN = 90.0
KEY = "sk-load-" + secrets.token_hex(16)

LITELLM, VLLM_ROUTER = "litellm[proxy]==1.106.2", "vllm-router==0.1.17"
# Portkey with the versions of its own lock file: with newer ones every stream fails.
PORTKEY = ("@portkey-ai/gateway@1.15.2", "@hono/node-server@1.13.5", "hono@4.9.7", "@hono/node-ws@1.2.0")
# Portkey listens on all addresses and has no option for it.
ONLY_LOCAL = """
const net = require('net');
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (typeof args[0] === 'object' && args[0] !== null && args[0].port !== undefined) {
    args[0] = { ...args[0], host: '127.0.0.1' };
  } else if (typeof args[0] === 'number') {
    const callback = args.find((a) => typeof a === 'function');
    args = callback ? [args[0], '127.0.0.1', callback] : [args[0], '127.0.0.1'];
  }
  return listen.apply(this, args);
};
"""


class Peer:
    """A gateway that can be started in front of a mock. The three methods are all that differs between peers."""

    name = ""
    # Rows that can be measured without a database: without and with a check of API keys.
    rows = (False,)
    path = "/v1/chat/completions"
    # Streams at once in the paced phase; fewer where one core cannot carry them.
    streams = 16
    # Longer windows for one that answers a few requests a second.
    patience = 1
    # The model's name that clients send.
    model = "plain-route"

    def missing(self):
        """Why it cannot be run here; empty when it can."""
        return ""

    def version(self):
        return ""

    def start(self, rig, mock, keyed):
        """Starts it; returns its process, address and headers."""
        raise NotImplementedError


class Direct(Peer):
    name = "direct"

    def start(self, rig, mock, keyed):
        return mock.process, mock.address, []


class Floor(Peer):
    name = "bare hyper proxy"

    def start(self, rig, mock, keyed):
        process, address = rig.floor(mock.address)
        return process, address, []


class Guildhall(Peer):
    name = "Guildhall"
    rows = (False, True)

    def version(self):
        return output("git", "describe", "--always", "--dirty", "--exclude=*")

    def start(self, rig, mock, keyed):
        config = f"router: {{load: never}}\ntelemetry: {{log: warn}}\n{experts(plain=[mock.url()])}\n{static('plain')}\n"
        gateway = rig.gateway(config)
        if not keyed:
            return gateway.process, gateway.address, []
        keys = gateway.create_keys(1)
        if keys is None:
            raise Failure("this build has no API keys")
        return gateway.process, gateway.address, [f"authorization: Bearer {keys[0]}"]


class Nginx(Peer):
    name = "nginx"
    rows = (False, True)

    def missing(self):
        return "" if shutil.which("nginx") else "nginx is not installed (apt-get install nginx-light)"

    def version(self):
        said = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr
        return said.strip().rpartition("/")[2]

    def start(self, rig, mock, keyed):
        port = free_port()
        folder = pathlib.Path(rig.path(f"nginx-{port}"))
        folder.mkdir()
        check = f'if ($http_authorization != "Bearer {KEY}") {{ return 401; }}' if keyed else ""
        temps = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        # Passes through, keeps connections on both sides, buffers nothing.
        file = rig.write(
            f"nginx-{port}.conf",
            f"""
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; {temps}
  keepalive_requests 1000000000; keepalive_timeout 600s; client_body_buffer_size 256k;
  upstream mock {{ server {mock.address}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {HOST}:{port};
    location / {{ {check} proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
""",
        )
        process = rig.start(0, "nginx", "-p", folder, "-e", folder / "error.log", "-c", file, stderr=subprocess.DEVNULL)
        return process, f"{HOST}:{port}", [f"authorization: Bearer {KEY}"] if keyed else []


class VllmRouter(Peer):
    name = "vllm-router"
    program = HOME / "vllm-router" / "bin" / "vllm-router"

    def missing(self):
        return "" if self.program.exists() else "not installed (peers --install)"

    def version(self):
        return installed(HOME / "vllm-router", "vllm-router")

    def start(self, rig, mock, keyed):
        port = free_port()
        command = [
            self.program, "--worker-urls", f"http://{mock.address}", "--policy", "round_robin", "--host", HOST,
            "--port", port, "--prometheus-port", free_port(), "--log-level", "warning",
        ]  # fmt: skip
        return quiet(rig, self, command), f"{HOST}:{port}", []


class Litellm(Peer):
    name = "LiteLLM proxy"
    # It refuses to start without a master key.
    rows = (True,)
    patience = 4
    streams = 2
    program = HOME / "litellm" / "bin" / "litellm"

    def missing(self):
        return "" if self.program.exists() else "not installed (peers --install)"

    def version(self):
        return installed(HOME / "litellm", "litellm")

    def start(self, rig, mock, keyed):
        port = free_port()
        entry = {"model": "openai/mock", "api_base": mock.url(), "api_key": "none"}
        # JSON is YAML.
        settings = {"model_list": [{"model_name": self.model, "litellm_params": entry}], "general_settings": {"master_key": KEY}}
        file = rig.write(f"litellm-{port}.yaml", json.dumps(settings))
        command = [
            self.program, "--config", file, "--host", HOST, "--port", port, "--num_workers", "1", "--telemetry", "False",
        ]  # fmt: skip
        environment = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        return quiet(rig, self, command, environment), f"{HOST}:{port}", [f"authorization: Bearer {KEY}"]


class Portkey(Peer):
    name = "Portkey gateway"
    folder = HOME / "portkey"

    def missing(self):
        if not shutil.which("node"):
            return "node is not installed"
        return "" if self.entry().exists() else "not installed (peers --install)"

    def entry(self):
        return self.folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"

    def version(self):
        package = self.entry().parent.parent / "package.json"
        return json.loads(package.read_text())["version"] + ", node " + output("node", "--version").lstrip("v")

    def start(self, rig, mock, keyed):
        port = free_port()
        only_local = rig.write("only-local.js", ONLY_LOCAL)
        command = ["node", "-r", only_local, self.entry(), "--headless", f"--port={port}"]
        headers = ["x-portkey-provider: openai", f"x-portkey-custom-host: http://{mock.address}/v1", "authorization: Bearer none"]
        return quiet(rig, self, command, {"NODE_ENV": "production"}), f"{HOST}:{port}", headers


PEERS = [Direct(), Floor(), Guildhall(), Nginx(), VllmRouter(), Portkey(), Litellm()]


def quiet(rig, peer, command, environment=()):
    """Starts a peer with what it says in a file that is shown when it does not become ready."""
    with open(rig.path(f"{peer.name}.log"), "wb") as log:
        return rig.start(0, *command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=dict(os.environ, **dict(environment)))


def installed(environment, package):
    code = f"import importlib.metadata as m; print(m.version('{package}'))"
    return output(environment / "bin" / "python", "-c", code)


def install(options):
    """Installs what comes from registries; one that cannot be installed does not stop the others."""
    HOME.mkdir(parents=True, exist_ok=True)
    done = True
    for folder, package in (("litellm", LITELLM), ("vllm-router", VLLM_ROUTER)):
        place = HOME / folder
        done &= attempt(package, ["python3", "-m", "venv", place], [place / "bin" / "python", "-m", "pip", "install", "--quiet", package])
    if shutil.which("npm"):
        place = HOME / "portkey"
        place.mkdir(exist_ok=True)
        done &= attempt(PORTKEY[0], ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", place, *PORTKEY])
    else:
        say("Portkey gateway: npm is not installed, left out")
    for peer in PEERS:
        say(f"{peer.name:<18} {peer.missing() or 'ready ' + peer.version()}")
    return done


def attempt(name, *commands):
    say(f"installing {name}")
    for command in commands:
        if subprocess.run([str(part) for part in command]).returncode != 0:
            say(f"{name} could not be installed; its message is above")
            return False
    return True


def wait_until_ready(rig, peer, process, address, headers, body):
    """Seconds from now to the first good answer."""
    began = time.monotonic()
    pairs = dict(header.split(": ", 1) for header in headers)
    said = ""
    while time.monotonic() - began < READY_WITHIN and process.poll() is None:
        status, said = http("POST", f"http://{address}{peer.path}", json.loads(body), pairs)
        if status == 200:
            return time.monotonic() - began
        time.sleep(0.02)
    log = pathlib.Path(rig.path(f"{peer.name}.log"))
    raise Failure(f"did not become ready: {said[:300]}\n{log.read_text(errors='replace')[-1000:] if log.exists() else ''}")


def measure(rig, peer, keyed, options):
    """Starts a peer afresh, measures all phases, stops it."""
    with Rig(options) as own:
        mock = own.mock("--gap", "10ms")
        began = time.monotonic()
        process, address, headers = peer.start(own, mock, keyed)
        small = bodies.sized(peer.model, bodies.KILOBYTE)
        wait_until_ready(own, peer, process, address, headers, small)
        ready = time.monotonic() - began
        time.sleep(1)
        idle = family(process.pid)
        files = {
            "small": own.write("small.json", small),
            "alone": own.write("alone.json", bodies.sized(peer.model, bodies.KILOBYTE, stream=True, max_tokens=10)),
            "paced": own.write("paced.json", bodies.sized(peer.model, bodies.KILOBYTE, stream=True, max_tokens=40)),
        }

        def load(body, **more):
            result = drive(
                own, address, body=files[body], path=peer.path, header=headers, pids=process.pid, timeout_secs=60, **more
            )
            if broken(result) or not result["ok"]:
                raise Failure(f"a run with failed requests does not count: {result['first_bad']}")
            return kept(result)

        secs = options.secs
        phases = {
            "c64": load("small", conc=options.conc, secs=secs * peer.patience),
            "c1": load("small", conc=1, secs=secs / 2),
            "alone": load("alone", conc=1, secs=secs),
            "paced": load("paced", conc=peer.streams, secs=max(secs, 3), stagger_ms=400, warm_secs=1.0),
        }
        rate = min(100.0, phases["c64"]["rps"] / 2)
        phases["light"] = load("small", rate=f"{rate:.1f}", secs=max(secs, 2.5) * 2, max_in_flight=64)
        after = family(process.pid)
        stop(process)
        return {"ready_s": round(ready, 3), "idle_rss_kib": idle, "after_rss_kib": after, "phases": phases}


def family(pid):
    """Resident memory of a process and its descendants."""
    children = [int(p) for p in output("pgrep", "-P", str(pid)).split()]
    return sample(pid).get("rss_kib", 0) + sum(family(child) for child in children)


def run(rig):
    options = rig.options
    kind = record("peers", options)
    skipped, chosen = [], []
    for peer in PEERS:
        reason = peer.missing()
        if options.only and peer.name.lower() not in [name.lower() for name in options.only]:
            reason = "not asked for"
        if reason:
            say(f"{peer.name}: left out, {reason}")
            skipped.append(f"{peer.name}: {reason}")
        else:
            chosen += [(peer, keyed) for keyed in peer.rows]
    rounds = {title(peer, keyed): [] for peer, keyed in chosen}
    for turn in range(options.rounds):
        shift = turn * len(chosen) // max(options.rounds, 1)
        for peer, keyed in chosen[shift:] + chosen[:shift]:
            name = title(peer, keyed)
            if name not in rounds:
                continue
            try:
                found = measure(rig, peer, keyed, options)
            except Failure as failure:
                say(f"{name}: {failure}")
                skipped.append(f"{name}: {str(failure).splitlines()[0]}")
                del rounds[name]
                continue
            rounds[name].append(found)
            c64 = found["phases"]["c64"]
            say(f"round {turn + 1}  {name:<28} {c64['cpu_s_per_1k']:.4f} CPU s/1k  {c64['rps']:>8.0f}/s  ready {found['ready_s']:.2f} s")
    kind["versions"] |= {peer.name: peer.version() for peer, _ in chosen if peer.version()}
    kind |= {"rounds": options.rounds, "secs": options.secs, "peers": rounds, "skipped": skipped}
    for line in tables(kind):
        say(line)
    save(options.results, "peers", kind)
    return True


def title(peer, keyed):
    return f"{peer.name}, key check" if keyed else peer.name


def tables(kind):
    """The record as Markdown."""
    floor = kind["peers"].get(Floor.name, [])

    def times(rounds, phase, key):
        pairs = zip(rounds, floor)
        ratios = [ratio(a["phases"][phase][key], b["phases"][phase][key]) for a, b in pairs]
        ratios = [r for r in ratios if r is not None]
        return f"{median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})" if ratios else "-"

    def middle(rounds, phase, *path):
        def get(found):
            for name in (phase, *path):
                found = found[name]
            return found

        return median(get(r["phases"]) for r in rounds)

    rows = []
    for name, rounds in kind["peers"].items():
        if not rounds:
            continue
        per = "cpu_s_per_1k"
        rows.append(
            [
                name,
                f"{middle(rounds, 'c64', per):.4f}",
                times(rounds, "c64", per),
                f"{middle(rounds, 'c64', 'rps'):,.0f}",
                times(rounds, "light", per),
                times(rounds, "paced", "cpu_s_per_10k_events"),
                f"{middle(rounds, 'c1', 'latency', 'p50_us'):,.0f} / {middle(rounds, 'c1', 'latency', 'p99_us'):,.0f}",
                f"{middle(rounds, 'alone', 'first_byte', 'p50_us'):,.0f}",
                f"{median(r['idle_rss_kib'] for r in rounds) / 1024:.0f} / {median(r['after_rss_kib'] for r in rounds) / 1024:.0f}",
                f"{median(r['ready_s'] for r in rounds):.2f}",
            ]
        )
    head = [
        "gateway", "CPU s / 1,000 requests", "x floor (range)", "requests/s, one core", "light, x floor", "paced chunk, x floor",
        "alone p50 / p99 us", "first byte p50 us", "MiB idle / after", "ready s",
    ]  # fmt: skip
    yield ""
    yield from table(head, rows)
    yield ""
    for skipped in kind["skipped"]:
        yield f"Left out: {skipped}."
