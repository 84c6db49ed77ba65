"""The scenarios. Each says what runs, what is sent, what goes wrong and what must hold.

Thresholds are counts, or ratios between two loads of the same run; times of day and machines do not matter.
Times of faults are shares of a load's window, so that a short run has them too."""

from dataclasses import dataclass, field
from typing import Any, Callable

from . import bodies
from .common import ratio
from .verdict import broken, later_failures, lost, pooled, silent


@dataclass
class Load:
    """One run of gwload. Settings are its options; a function gets the results so far."""

    name: str
    body: Callable[[Any], str]
    settings: dict
    through: str = "gateway"
    keys: int = 0
    # (share of the window, what to do, and where repeated: seconds between, share at which it ends)
    faults: list = field(default_factory=list)
    before: Callable[[Any], None] | None = None
    after: Callable[[Any], None] | None = None


@dataclass
class Check:
    """A figure and its bound."""

    name: str
    read: Callable[[dict, Any], float | None]
    most: float | None = None
    least: float | None = None


@dataclass
class Scenario:
    """Everything about one scenario."""

    what: str
    loads: list[Load]
    checks: list[Check]
    # Names and options of mock-expert processes, and which of them are endpoints of which expert.
    mocks: dict[str, tuple] = field(default_factory=lambda: {"a": ()})
    experts: dict[str, tuple] = field(default_factory=lambda: {"one": ("a",)})
    # More YAML for each expert, and for the data listener.
    expert_settings: str = ""
    data_settings: str = ""
    with_floor: bool = False
    late_start: bool = False
    prepare: Callable[[Any], None] | None = None


def small(stage):
    return stage.rig.write("small.json", bodies.sized("one-route", bodies.KILOBYTE))


def of_size(size):
    return lambda stage: stage.rig.write(f"size-{size}.json", bodies.sized("one-route", size))


def streams(tokens):
    return lambda stage: stage.rig.write("stream.json", bodies.stream("one-route", tokens))


def both(stage):
    """Half of the requests streamed."""
    plain = ("plain", 1, bodies.sized("one-route", bodies.KILOBYTE), {})
    streamed = ("streamed", 1, bodies.stream("one-route", 20), {})
    return stage.mix("both", [plain, streamed])


def share_of_saturation(share, most=6000):
    """A share of what the load `saturation` found; bounded, because the client has only part of a CPU."""
    return lambda results: min(most, share * results["saturation"]["rps"])


def none_failed(*names):
    """A check that all loads, or those named, had good answers only."""

    def read(results, _stage):
        return sum(broken(result) + result["not_started"] for n, result in results.items() if not names or n in names)

    return Check("requests that failed or could not be sent", read, most=0)


def settled():
    return Check(
        "requests still counted as in progress afterwards",
        lambda results, _stage: max(r.get("in_flight_after", 0) for r in results.values()),
        most=0,
    )


def between(name, path, load, base, most):
    """A ratio of one figure between two loads."""

    def read(results, _stage):
        def value(result):
            for part in path.split("."):
                result = result[part]
            return result

        return ratio(value(results[load]), value(results[base]))

    return Check(name, read, most=most)


SATURATION = Load("saturation", small, {"conc": 64})

STEADY = Scenario(
    what="half of saturation for a while, random arrivals",
    with_floor=True,
    loads=[
        SATURATION,
        Load("floor", small, {"rate": share_of_saturation(0.5), "arrivals": "poisson"}, "floor"),
        Load("steady", small, {"rate": share_of_saturation(0.5), "arrivals": "poisson"}),
    ],
    checks=[
        none_failed(),
        between("latency p50, to a bare proxy", "latency.p50_us", "steady", "floor", 3),
        Check(
            "latency p99, last half of the time to the first",
            lambda r, _: ratio(
                pooled(r["steady"]["slices"][len(r["steady"]["slices"]) // 2 :]),
                pooled(r["steady"]["slices"][: len(r["steady"]["slices"]) // 2]),
            ),
            most=2,
        ),
        settled(),
    ],
)

BURST = Scenario(
    what="ten times the usual rate for a fifth of the time; experts take 20 ms",
    mocks={"a": ("--latency", "20ms")},
    loads=[
        Load(
            "burst",
            small,
            {"rate": [(300, 0.4), (3000, 0.2), (300, 0.4)], "arrivals": "poisson", "max-in-flight": 5000},
        )
    ],
    checks=[
        none_failed(),
        Check(
            "latency p50 after the burst, to before it",
            lambda r, _: ratio(
                pooled(r["burst"]["slices"][-len(r["burst"]["slices"]) // 5 :], "p50_us"),
                pooled(r["burst"]["slices"][: len(r["burst"]["slices"]) // 4], "p50_us"),
            ),
            most=1.5,
        ),
        settled(),
    ],
)

OVERLOAD = Scenario(
    what="three times what may be in progress; experts take 100 ms, 64 requests are let in",
    mocks={"a": ("--latency", "100ms")},
    data_settings=", max_in_flight: 64",
    loads=[
        Load("within", small, {"rate": 320}),
        Load("beyond", small, {"rate": 1920, "max-in-flight": 5000}),
    ],
    checks=[
        none_failed("within"),
        Check(
            "answers other than 200, 429 and 503, and broken connections",
            lambda r, _: sum(n for s, n in r["beyond"]["statuses"].items() if s not in ("200", "429", "503"))
            + r["beyond"]["errors"],
            most=0,
        ),
        # 64 at a time, 100 ms each.
        Check("good answers, to what the limit allows", lambda r, _: r["beyond"]["rps"] / 640, least=0.85),
        Check(
            "CPU per refused or answered request, to CPU per answered one without overload",
            lambda r, _: ratio(
                r["beyond"]["cpu_s"] / max(sum(r["beyond"]["statuses"].values()), 1),
                r["within"]["cpu_s"] / max(r["within"]["ok"], 1),
            ),
            most=1.0,
        ),
        settled(),
    ],
)

THREE = {"a": ("--latency", "20ms"), "b": ("--latency", "20ms"), "c": ("--latency", "20ms")}


def remember(name):
    def note(stage):
        stage.counts[name] = stage.mocks["a"].requests()

    return note


SLOW_EXPERT = Scenario(
    what="one of three endpoints takes 400 ms more than the others' 20 ms",
    mocks=THREE,
    experts={"one": ("a", "b", "c")},
    loads=[
        Load("healthy", small, {"rate": 200, "arrivals": "poisson"}),
        Load(
            "slow",
            small,
            {"rate": 200, "arrivals": "poisson"},
            before=lambda stage: (stage.mocks["a"].script("delay:400ms"), remember("before")(stage)),
            after=remember("after"),
        ),
    ],
    checks=[
        none_failed(),
        Check(
            "share of requests that went to the slow endpoint",
            lambda r, stage: ratio(stage.counts["after"] - stage.counts["before"], r["slow"]["started"]),
            most=0.1,
        ),
        between("latency p90, to all endpoints healthy", "latency.p90_us", "slow", "healthy", 3),
        settled(),
    ],
)

# So that a stalled endpoint is given up while the load still runs.
IMPATIENT = ", limits: {connect_timeout_ms: 500, first_byte_timeout_ms: 1000, idle_timeout_ms: 3000}"
CHATTY = {name: ("--latency", "20ms", "--gap", "5ms") for name in THREE}
RATE = {"rate": 200, "arrivals": "poisson", "timeout-secs": 30}


def to(name, action, *values):
    """A fault: does `action` to mock `name`."""
    return lambda stage: getattr(stage.mocks[name], action)(*values)


def failing(name, *faults, after):
    return Load(name, both, RATE, faults=[(share, act, None, None) for share, act in faults], after=after)


DEAD_EXPERT = Scenario(
    what="one of three endpoints dies, restarts, stalls or resets under load, half of it streams",
    mocks=CHATTY,
    experts={"one": ("a", "b", "c")},
    expert_settings=IMPATIENT,
    loads=[
        failing("killed", (0.3, to("a", "kill")), after=to("a", "start")),
        failing("restarted", (0.3, to("a", "kill")), (0.5, to("a", "start")), after=lambda _stage: None),
        failing("stalled", (0.3, to("b", "freeze")), (0.7, to("b", "thaw")), after=lambda _stage: None),
        failing("silent", (0.3, to("b", "script", "stall")), after=to("b", "script")),
        failing("reset", (0.3, to("c", "script", "reset")), after=to("c", "script")),
        failing("reset-head", (0.3, to("c", "script", "reset-head")), after=to("c", "script")),
        failing("errors", (0.3, to("c", "script", "status:503")), after=to("c", "script")),
    ],
    checks=[
        *(
            Check(f"lost: {name}", lambda r, _, name=name: lost(r[name]) + r[name]["not_started"], most=0)
            for name in ("killed", "restarted", "stalled", "silent", "reset", "reset-head", "errors")
        ),
        Check("streams that broke off in silence", lambda r, _: sum(silent(x) for x in r.values()), most=0),
        Check(
            "streams ended by an error event, of all requests",
            lambda r, _: sum(x["failures"].get("error_event", 0) for x in r.values())
            / sum(x["started"] for x in r.values()),
            most=0.02,
        ),
        settled(),
    ],
)

STREAMING = Scenario(
    what="two hundred streams at once, a chunk every 20 ms",
    mocks={"a": ("--gap", "20ms", "--tokens", "50", "--stamp")},
    with_floor=True,
    loads=[
        Load("floor", streams(50), {"conc": 200, "stagger-ms": 1000}, "floor"),
        Load("streams", streams(50), {"conc": 200, "stagger-ms": 1000}),
    ],
    checks=[
        none_failed(),
        between("CPU per chunk, to a bare proxy", "cpu_s_per_10k_events", "streams", "floor", 1.3),
        between("first byte p50, to a bare proxy", "first_byte.p50_us", "streams", "floor", 2),
        between("gap between chunks p50, to a bare proxy", "chunk_gap.p50_us", "streams", "floor", 1.2),
        Check(
            "chunks, to those of a bare proxy",
            lambda r, _: ratio(r["streams"]["events"], r["floor"]["events"]),
            least=0.95,
        ),
        settled(),
    ],
)

SIZES = (1 << 10, 10 << 10, 100 << 10, 1 << 20)

LONG_PROMPTS = Scenario(
    what="requests of 1 KB, 10 KB, 100 KB and 1 MB",
    with_floor=True,
    loads=[
        load
        for size in SIZES
        for load in (
            Load(f"floor-{size}", of_size(size), {"conc": 8}, "floor"),
            Load(f"size-{size}", of_size(size), {"conc": 8}),
        )
    ],
    checks=[
        none_failed(),
        *(
            between(f"CPU at {size >> 10} KB, to a bare proxy", "cpu_s_per_1k", f"size-{size}", f"floor-{size}", most)
            for size, most in zip(SIZES, (1.5, 2, 3, 3))
        ),
        settled(),
    ],
)

MANY_KEYS = Scenario(
    what="a thousand API keys instead of one",
    prepare=lambda stage: stage.need_keys(1000),
    loads=[
        Load("one-key", small, {"conc": 64}, keys=1),
        Load("many-keys", small, {"conc": 64}, keys=1000),
    ],
    checks=[
        none_failed(),
        between("CPU per request, to one key", "cpu_s_per_1k", "many-keys", "one-key", 1.25),
        settled(),
    ],
)

COLD_START = Scenario(
    what="the gateway starts while clients already ask",
    late_start=True,
    loads=[
        Load(
            "start",
            small,
            {"rate": 300},
            faults=[(0.2, lambda stage: stage.start_gateway(), None, None)],
        ),
    ],
    checks=[
        Check(
            "answers other than 200",
            lambda r, _: sum(n for s, n in r["start"]["statuses"].items() if s != "200"),
            most=0,
        ),
        Check(
            "failures other than a refused connection",
            lambda r, _: sum(n for kind, n in r["start"]["failures"].items() if kind != "refused"),
            most=0,
        ),
        Check("failures once it answers", lambda r, _: later_failures(r["start"]["slices"]), most=0),
        Check("good answers, of all that were due", lambda r, _: ratio(r["start"]["ok"], r["start"]["started"]), least=0.6),
    ],
)

CHURN = Scenario(
    what="experts added and removed through the admin API twenty times a second under load",
    mocks={"a": ("--latency", "5ms", "--gap", "2ms")},
    loads=[
        Load("quiet", both, {"rate": 300, "arrivals": "poisson"}),
        Load(
            "churn",
            both,
            {"rate": 300, "arrivals": "poisson"},
            faults=[(0, lambda stage: stage.churn(), 0.05, 1.0)],
        ),
    ],
    checks=[
        none_failed(),
        Check("changes that were refused", lambda _, stage: stage.counts.get("refused changes", 0), most=0),
        Check("changes a second", lambda r, stage: stage.counts["changes"] / r["churn"]["wall_s"], least=5),
        between("latency p50, to no changes", "latency.p50_us", "churn", "quiet", 1.5),
        settled(),
    ],
)

SCENARIOS = {
    "steady": STEADY,
    "burst": BURST,
    "overload": OVERLOAD,
    "slow-expert": SLOW_EXPERT,
    "dead-expert": DEAD_EXPERT,
    "streaming": STREAMING,
    "long-prompts": LONG_PROMPTS,
    "many-keys": MANY_KEYS,
    "cold-start": COLD_START,
    "churn": CHURN,
}
