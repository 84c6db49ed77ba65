"""What the gateway adds to a request, beside the least that a proxy can cost, in the same run.

The mock expert answers at once, so whatever is measured is the hop itself. Every figure is the median over
interleaved rounds; ratios to the floor are taken inside a round, where a noisy neighbour moves them least."""

import statistics
import time

from . import bodies
from .common import ROOT, Failure, look, median, ratio, save, say, table
from .load import drive, kept
from .machine import record, sample
from .rig import experts, static
from .verdict import broken

# Most that the client sends as an open loop from the CPU that it shares with the mock, in requests a second:
# beyond it the client's own queue would be measured.
MOST_OPEN = 6000
PACED_CHUNKS, ALONE_CHUNKS, BURST_CHUNKS = 100, 10, 500


class Way:
    """One way to send a request: where to, what, and whose CPU counts."""

    def __init__(self, name, address, pid, body, headers=(), threads=""):
        self.name = name
        self.address = address
        self.pid = pid
        self.body = body
        self.headers = list(headers)
        self.threads = threads


class Phase:
    """One kind of load, sent over several ways in turn."""

    def __init__(self, name, what, ways, conc=None, **load):
        self.name = name
        self.what = what
        self.ways = ways
        self.load = load if conc is None else {"conc": conc, **load}
        self.results = {way.name: [] for way in ways}

    def round(self, rig, turn):
        shift = turn % len(self.ways)
        for place, way in enumerate(self.ways[shift:] + self.ways[:shift]):
            load = dict(self.load)
            if callable(load.get("rate")):
                load["rate"] = load["rate"]()
            if way.headers:
                load["header"] = way.headers
            if way.threads:
                load |= {"threads_named": way.threads, "conc": rig.options.new_conc}
            # Far from every earlier number, so that no prompt is asked twice.
            number = (turn * len(self.ways) + place + 1) * 1_000_000
            result = drive(
                rig, way.address, body=way.body, pids=way.pid, label=way.name, first_number=number, **load
            )
            self.results[way.name].append(result)
            say(
                f"round {turn + 1}  {self.name:<8} {way.name:<22} {result['cpu_s_per_1k']:.4f} CPU s/1k  "
                f"{result['rps']:>8.0f}/s  p50 {result['latency']['p50_us']:>7.0f} us"
            )
            if broken(result) or result["not_started"] or not result["ok"]:
                raise Failure(f"a run with failed requests does not count: {result['first_bad']}")

    def middle(self, way, key):
        values = [look(result, key) for result in self.results.get(way, [])]
        return median(values)

    def times(self, way, base, key):
        """The ratios of two ways inside each round."""
        pairs = zip(self.results.get(way, []), self.results.get(base, []))
        ratios = [ratio(look(a, key), look(b, key)) for a, b in pairs]
        return [r for r in ratios if r is not None]

    def kept(self):
        results = {way: [kept(r) for r in rounds] for way, rounds in self.results.items()}
        return {"name": self.name, "what": self.what, "results": results}


class Mocks:
    """One mock that answers at once, one that streams with a gap, one that streams as fast as it can."""

    def __init__(self, rig):
        self.plain = rig.mock()
        self.paced = rig.mock("--gap", "10ms", "--tokens", str(PACED_CHUNKS), "--stamp")
        self.burst = rig.mock("--tokens", str(BURST_CHUNKS), "--stamp")


def config(mocks, log, router):
    model = f'router: {{load: always, bundle: "{ROOT / "router-models" / "default"}"}}' if router else "router: {load: never}"
    auto = "\n  - {id: auto, policy: {kind: coe, lambda: 0.0}, default: plain}" if router else ""
    return f"""
{model}
telemetry: {{access_log: {log}}}
{experts(plain=[mocks.plain.url()], paced=[mocks.paced.url()], burst=[mocks.burst.url()])}
{static("plain", "paced", "burst")}{auto}
"""


def hop(rig):
    """Measures everything and returns the record."""
    options = rig.options
    kind = record("hop", options)
    mocks = Mocks(rig)
    floors = {name: rig.floor(mock.address) for name, mock in vars(mocks).items()}
    idle = idle_memory(rig, mocks)
    ready = ready_times(rig, mocks)
    plain = rig.gateway(config(mocks, "'off'", router=False))
    write = lambda name, text: rig.write(f"{name}.json", text)
    small = write("small", bodies.sized("plain-route", bodies.KILOBYTE))

    def three(kind, body):
        """Direct, floor and static for one of the mocks."""
        mock, (floor, floor_address) = getattr(mocks, kind), floors[kind]
        return [
            Way("direct", mock.address, mock.process.pid, body),
            Way("floor", floor_address, floor.pid, body),
            Way("static", plain.address, plain.pid, body),
        ]

    ways = three("plain", small)
    light = ways[1:]
    guarded = guarded_way(rig, mocks, small)
    ways.append(guarded)
    light.append(guarded)
    router = None
    if options.router:
        router = rig.gateway(config(mocks, "'off'", router=True))
        known = write("known", bodies.sized("auto", bodies.KILOBYTE))
        new = write("new", bodies.new_prompt("auto"))
        with open(known) as text:
            if router.probe(text.read()).get("x-guildhall-path") != "upstream":
                raise Failure("the gateway did not ask an expert")
        ways.append(Way("router, known prompt", router.address, router.pid, known))
        ways.append(Way("router, new prompts", router.address, router.pid, new, threads="encoder"))

    alone = write("alone", bodies.stream("paced-route", ALONE_CHUNKS))
    paced = write("paced", bodies.stream("paced-route", PACED_CHUNKS))
    rapid = write("rapid", bodies.stream("burst-route", BURST_CHUNKS))
    secs = options.secs
    c64 = Phase("c64", f"{options.conc} connections, closed loop", ways, conc=options.conc, secs=secs)
    half = lambda: min(MOST_OPEN, c64.middle("static", "rps") / 2)
    phases = [
        c64,
        Phase("light", "100 requests a second, open loop", light, rate=100, secs=max(secs, 2.5) * 2),
        Phase(
            "half", f"half of what the static route can carry, {MOST_OPEN} a second at most, open loop, random arrivals",
            three("plain", small), rate=half, arrivals="poisson", secs=secs,
        ),
        Phase("alone", "one stream at a time, 10 chunks", three("paced", alone), conc=1, secs=secs),
        Phase(
            "paced", "16 streams, a chunk every 10 ms", three("paced", paced),
            conc=16, secs=max(secs, 3), stagger_ms=1000, warm_secs=1.5,
        ),
        Phase("burst", "8 streams as fast as they go", three("burst", rapid), conc=8, secs=secs),
    ]  # fmt: skip
    failures = router.metric("router_failures_total") if router else 0
    for turn in range(options.rounds):
        for phase in phases:
            phase.round(rig, turn)
    failures = router.metric("router_failures_total") - failures if router else 0
    if failures:
        raise Failure(f"the router was late or broken for {failures:.0f} requests; lower --new-conc")
    after = sample(plain.pid)
    kind |= {
        "rounds": options.rounds,
        "secs": secs,
        "phases": [phase.kept() for phase in phases],
        "figures": figures({phase.name: phase for phase in phases}),
        "skipped": [],
        "ready_s": ready,
        "idle_rss_kib": idle,
        "after_load_rss_kib": after["rss_kib"],
    }
    show(kind)
    save(options.results, "hop", kind)
    return kind


def guarded_way(rig, mocks, body):
    """The static route with key check, limits, metrics, decision record and access log."""
    gateway = rig.gateway(config(mocks, "stderr", router=False))
    keys = gateway.create_keys(1, **limits())
    return Way("keys, limits, log", gateway.address, gateway.pid, body, [f"authorization: Bearer {keys[0]}"])


def limits():
    """Limits of a key that count every request and refuse none."""
    return {"limits": {"requests_per_minute": 1_000_000_000, "input_tokens_per_minute": 1_000_000_000_000}}


def ready_times(rig, mocks):
    """Process start to /readyz, with and without the router model."""
    times = {}
    for router in [False, True] if rig.options.router else [False]:
        for _ in range(max(rig.options.rounds, 1)):
            gateway = rig.gateway(config(mocks, "'off'", router))
            times.setdefault("with_router" if router else "without_router", []).append(gateway.ready_s)
            gateway.process.terminate()
            gateway.process.wait()
    return times


def idle_memory(rig, mocks):
    """Resident memory some seconds after the start, nothing asked."""
    gateway = rig.gateway(config(mocks, "'off'", router=False))
    time.sleep(rig.options.idle_secs)
    kib = sample(gateway.pid)["rss_kib"]
    gateway.process.terminate()
    gateway.process.wait()
    return kib


def figures(phases):
    """The numbers that the bars are about: medians over the rounds' ratios, and the worst round."""

    def times(phase, way, key, base="floor"):
        ratios = phases[phase].times(way, base, key)
        return {"median": statistics.median(ratios), "worst": max(ratios)} if ratios else None

    def added_ms():
        pairs = zip(phases["half"].results["static"], phases["half"].results["direct"])
        added = [(a["latency"]["p99_us"] - b["latency"]["p99_us"]) / 1e3 for a, b in pairs]
        return {"median": statistics.median(added), "worst": max(added)} if added else None

    def besides_us():
        results = phases["c64"].results.get("router, new prompts", [])
        values = [(r["cpu_s_per_1k"] - r["named_cpu_s_per_1k"]) * 1e3 for r in results]
        return {"median": statistics.median(values), "worst": max(values)} if values else None

    cpu, chunk = "cpu_s_per_1k", "cpu_s_per_10k_events"
    return {
        "static_x_floor": times("c64", "static", cpu),
        "guarded_x_floor": times("c64", "keys, limits, log", cpu),
        "router_known_x_floor": times("c64", "router, known prompt", cpu),
        "router_new_besides_encoder_us": besides_us(),
        "light_x_floor": times("light", "static", cpu),
        "light_guarded_x_floor": times("light", "keys, limits, log", cpu),
        "first_byte_x_floor": times("alone", "static", "first_byte.p50_us"),
        "half_added_p99_ms": added_ms(),
        "paced_x_floor": times("paced", "static", chunk),
        "burst_x_floor": times("burst", "static", chunk),
    }


def show(result):
    for line in tables(result):
        say(line)


def tables(result):
    """The record as Markdown."""
    for phase in result["phases"]:
        streamed = phase["name"] in ("alone", "paced", "burst")
        yield f"\n**{phase['name']}**: {phase['what']}\n"
        floor = phase["results"]["floor"]
        key = "cpu_s_per_10k_events" if streamed else "cpu_s_per_1k"
        unit = "CPU s per 10,000 chunks" if streamed else "CPU s per 1,000 requests"
        rows = []
        for way, rounds in phase["results"].items():
            times = [r for a, b in zip(rounds, floor) if (r := ratio(a[key], b[key])) is not None]
            get = lambda path: median(look(r, path) for r in rounds)
            shown = f"{median(times):.2f} ({min(times):.2f}-{max(times):.2f})" if times else "-"
            row = [way, f"{get(key):.4f}", shown, f"{get('rps'):.0f}"]
            if streamed:
                row += [
                    f"{get('first_byte.p50_us'):.0f} / {get('first_byte.p99_us'):.0f}",
                    f"{get('chunk_delay.p50_us'):.0f} / {get('chunk_delay.p99_us'):.0f}",
                ]
            else:
                row += [f"{get('latency.p50_us'):.0f} / {get('latency.p99_us'):.0f}"]
            rows.append(row)
        last = ["first byte p50 / p99 us", "chunk delay p50 / p99 us"] if streamed else ["latency p50 / p99 us"]
        per = "streams/s" if streamed else "requests/s"
        yield from table(["way", unit, "x floor (range)", per, *last], rows)
    yield ""
    for name, seconds in result["ready_s"].items():
        yield f"Ready, {name.replace('_', ' ')}: {median(seconds):.3f} s (worst {max(seconds):.3f} s)."
    yield (
        f"Resident memory: {result['idle_rss_kib'] / 1024:.1f} MiB idle, "
        f"{result['after_load_rss_kib'] / 1024:.1f} MiB after the load above."
    )
    for skipped in result["skipped"]:
        yield f"Left out: {skipped}."
