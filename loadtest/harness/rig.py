"""The processes of a run: started on their CPUs, stopped together."""

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from .common import HOST, ROOT, Failure

# The router model is loaded and checked first; on a slow or busy machine that takes a while.
READY_WITHIN = 120.0


def free_port():
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def http(method, url, payload=None, headers=(), patience=10.0):
    """Status and text; status 0 when nobody answers."""
    data = None if payload is None else json.dumps(payload).encode()
    request = urllib.request.Request(url, data, dict(headers), method=method)
    if data is not None:
        request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=patience) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


class Rig:
    """Starts programs and ends them when it is left."""

    def __init__(self, options):
        self.options = options
        self.processes = []
        self.scratch = tempfile.TemporaryDirectory(prefix="guildhall-load-")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            stop(process)
        self.scratch.cleanup()

    def path(self, name):
        return os.path.join(self.scratch.name, name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def binary(self, name):
        path = self.options.gateway if name == "guildhall" else self.options.bin / name
        if not path.exists():
            raise Failure(f"{path} is missing; `make load` builds it")
        return str(path)

    def start(self, cpu, *command, **options):
        """Starts a program in a process group of its own. Everything but what is measured inherits CPU 1."""
        aside = self.options.pinned and cpu != 1
        # Placed before it counts how many CPUs it has.
        place = (lambda: os.sched_setaffinity(0, {cpu})) if aside else None
        process = subprocess.Popen(
            [str(part) for part in command], preexec_fn=place, start_new_session=True, **options
        )
        self.processes.append(process)
        return process

    def start_listening(self, cpu, *command):
        """Starts a program that prints the address it listens on."""
        process = self.start(cpu, *command, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise Failure(f"{command[0]} did not start; its message is above")
        return process, line.split()[-1]

    def mock(self, *options):
        return Mock(self, options)

    def floor(self, upstream):
        """The bare hyper proxy in front of `upstream`."""
        command = [self.binary("floor-proxy"), "--listen", f"{HOST}:0", "--upstream", upstream]
        return self.start_listening(0, *command)

    def gateway(self, config, port=None, data_settings=""):
        return Gateway(self, config, port, data_settings)


class Mock:
    """A mock expert that can be killed, started again at the same address, stopped and scripted."""

    def __init__(self, rig, options):
        self.rig = rig
        self.options = options
        self.address = f"{HOST}:0"
        self.start()

    def start(self):
        command = [self.rig.binary("mock-expert"), "--listen", self.address, "--record", "0", *self.options]
        self.process, self.address = self.rig.start_listening(1, *command)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def freeze(self):
        """The process stops running: connections are accepted by the kernel and nothing is ever answered."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def script(self, *faults):
        """Each fault strikes every request from now on; none: all is well again."""
        status, text = http("POST", f"http://{self.address}/__script", [{"fault": fault} for fault in faults])
        if status != 200:
            raise Failure(f"the mock refuses its script: {text}")

    def requests(self):
        return json.loads(http("GET", f"http://{self.address}/__stats")[1])["requests"]

    def url(self):
        return f"http://{self.address}/v1"


class Gateway:
    """A running Guildhall."""

    def __init__(self, rig, config, port=None, data_settings=""):
        data, admin = port or free_port(), free_port()
        number = len(rig.processes)
        self.token = secrets.token_urlsafe(24)
        self.address = f"{HOST}:{data}"
        self.admin_url = f"http://{HOST}:{admin}"
        self.log = rig.path(f"guildhall-{number}.log")
        text = f"""
data: {{listen: "{self.address}"{data_settings}}}
admin: {{listen: "{HOST}:{admin}", token: "{self.token}"}}
store: {{path: "{rig.path(f"store-{number}.redb")}"}}
{config}"""
        file = rig.write(f"guildhall-{number}.yaml", text)
        with open(self.log, "wb") as log:
            began = time.monotonic()
            self.process = rig.start(
                0, rig.binary("guildhall"), "serve", "--config", file, stdout=log, stderr=log, cwd=ROOT
            )
        self._wait(admin)
        self.ready_s = time.monotonic() - began

    def _wait(self, admin):
        """Polls /readyz every millisecond over plain sockets: the time is a result."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline and self.process.poll() is None:
            if is_ready(admin):
                return
            time.sleep(0.001)
        with open(self.log, errors="replace") as said:
            raise Failure("guildhall did not become ready:\n" + said.read()[-2000:])

    @property
    def pid(self):
        return self.process.pid

    def admin(self, method, path, payload=None):
        """A call of the admin API."""
        headers = {"authorization": f"Bearer {self.token}"}
        return http(method, f"{self.admin_url}/admin/v1/{path}", payload, headers)

    def metric(self, name):
        """The sum of a metric over its labels; 0 while it has none."""
        _, text = http("GET", f"{self.admin_url}/metrics")
        values = re.findall(rf"^guildhall_{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in values)

    def in_flight(self):
        return self.metric("in_flight_requests")

    def create_keys(self, count, **fields):
        """API keys that may do everything; None where this build has no keys."""
        keys = []
        for number in range(count):
            status, text = self.admin("POST", "keys", {"id": f"load-{number}", **fields})
            if status in (404, 405):
                return None
            if status not in (200, 201):
                raise Failure(f"creating a key answers {status}: {text[:300]}")
            keys.append(json.loads(text)["key"])
        return keys

    def probe(self, text, key=None):
        """One request; returns the answer's headers."""
        headers = {"content-type": "application/json"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        url = f"http://{self.address}/v1/chat/completions"
        request = urllib.request.Request(url, text.encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                answer.read()
                return answer.headers
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:500]
            raise Failure(f"the gateway answers {error.code}: {said}") from None


def is_ready(port):
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1) as stream:
        stream.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return stream.recv(64).startswith(b"HTTP/1.1 200")
    return False


def stop(process, patience=10.0):
    """Ends a process and what it started, politely at first."""
    if process.poll() is not None:
        return
    for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number == signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
    process.wait()


def experts(**members):
    """The configuration's experts: id = the URLs of its endpoints, or (URLs, more settings as YAML)."""
    lines = ["experts:"]
    for name, value in members.items():
        urls, more = value if isinstance(value, tuple) else (value, "")
        endpoints = ", ".join(f'{{url: "{url}"}}' for url in urls)
        skills = "skills: {coding: 0.9, math: 0.5, science_engineering: 0.5}"
        lines.append(f"  - {{id: {name}, backend: {{kind: llm, endpoints: [{endpoints}]}}, {skills}{more}}}")
    return "\n".join(lines)


def static(*names):
    """Routes without routing: each named as its expert with `-route`."""
    rows = [
        f"  - {{id: {name}-route, policy: {{kind: static, order: [{{expert: {name}}}]}}, default: {name}}}"
        for name in names
    ]
    return "\n".join(["routes:", *rows])
